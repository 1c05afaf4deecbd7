"""Two ranks compute what one process does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.distributed_gradients import METHODS

SCRIPT = Path(__file__).parent / "distributed_gradients.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def run(*words, seconds=None):
    """Run a Python command to its end."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-3000:]


CASES = [
    "frame; gradients",
    "frame visible; gradients",
    "codes; accumulated 2",
    "spin; gradients",
    "joint; cut",
    "joint network; gradients",
    "frame; accumulated 4",
    "utterance; accumulated 2",
    *(f"utterance {method}; gradients" for method in METHODS),
]
EVALUATED = "joint; evaluated"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return what one process finds of all cases, and what two ranks find."""
    folder = tmp_path_factory.mktemp("both")
    for name, words in (("one", []), ("two", TORCHRUN)):
        run(*words, SCRIPT, folder / name, folder / f"{name}.pt", *CASES, EVALUATED)
    return torch.load(folder / "one.pt"), torch.load(folder / "two.pt")


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_give_the_gradients_of_one_process(case, both):
    one, two = (found[case] for found in both)
    assert one.keys() == two.keys() and len(one) > 20
    largest = max(gradient.abs().max() for gradient in one.values())
    # A second step, or a low temperature, enlarges what is rounded.
    changed = " " in case.partition(";")[0]
    tolerance = 1e-4 if "accumulated" in case else 5e-5 if changed else 1e-5
    for name in one:
        share = (one[name] - two[name]).abs().max() / largest
        assert share <= tolerance, f"{name}: {share:.1e} of the largest"


@pytest.mark.long
def test_the_figures_of_an_evaluation_that_ranks_share_are_those_of_one_process(both):
    one, two = (found[EVALUATED] for found in both)
    assert one.keys() == two.keys() and len(one) > 5
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-7, msg=name)


SAVE_OFTEN = """
import sys
import torch
from speechbrain.utils.distributed import ddp_init_group
from recipes.common.training.checkpoints import AtomicCheckpointer
from recipes.common.training.run import leave_together

ddp_init_group({"distributed_backend": "gloo"})
checkpointer = AtomicCheckpointer(sys.argv[1], {"layer": torch.nn.Linear(2, 3)})
for _ in range(5):
    checkpointer.save_and_keep_only(num_to_keep=1)
leave_together()
"""


@pytest.mark.long
def test_ranks_agree_on_the_checkpoints_to_delete(tmp_path):
    script = tmp_path / "save_often.py"
    script.write_text(SAVE_OFTEN)
    run(*TORCHRUN, script, tmp_path / "save", seconds=120)
    assert len(list((tmp_path / "save").iterdir())) == 1
