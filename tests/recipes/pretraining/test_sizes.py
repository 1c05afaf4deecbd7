"""The sizes: what their encoders have, what their files offer, and that each trains."""

import re
import time
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml

from recipes.common.training.hparams import read_tree
from recipes.common.training.limits import check_limits
from tests.gpu import made_up
from tests.gpu.running import Settings

ROOT = Path(__file__).parents[3]
README = ROOT / "recipes" / "LibriSpeech" / "pretrain" / "README.md"
SIZES = ("tiny", "small", "base")
CORPORA = ("AudioFolder", "speechocean762")


def frame_parameters(size):
    """Return the parameters of a frame encoder by hand, from its YAML."""
    given = (ROOT / "hparams" / f"frame_{size}.yaml").read_text(encoding="utf-8")
    numbers = {key: int(n) for key, n in re.findall(r"^ *(\w+): (\d+)$", given, re.MULTILINE)}
    c, d, f = (numbers[key] for key in ("conv_channels", "d_model", "d_ffn"))
    kernel = numbers.get("pos_conv_kernel", 128)
    if "frontend: fbank" in given:
        front_end = 3 * 80 * c + c + c * c + c
    else:
        front_end = 10 * c + 2 * c + (4 * 3 + 2 * 2) * c * c
    projection = 2 * c + c * d + d
    layer = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
    position = kernel * d * d // 16 + kernel + d
    head = d * 256 + 256 + 100 * 256
    return front_end + projection + d + position + 2 * d + numbers["num_layers"] * layer + head


def parameters(part, size):
    """Return the parameters of an encoder that a fragment builds, the prediction heads included."""
    text = (ROOT / "hparams" / f"{part}_{size}.yaml").read_text(encoding="utf-8")
    encoder = load_hyperpyyaml(text)[f"{part}_encoder"]
    return sum(p.numel() for p in encoder.parameters())


@pytest.mark.parametrize("size", [*SIZES[:2], pytest.param("base", marks=pytest.mark.long)])
def test_encoders_have_the_parameters_that_the_readme_tells(size):
    text = README.read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| {size} |"))
    told = [float(number) for number in re.findall(r"([\d.]+) M", row)]
    frame = parameters("frame", size)
    assert frame == frame_parameters(size)
    found = [frame / 1e6, parameters("utterance", size) / 1e6]
    assert [float(f"{n:.2g}") if n < 10 else round(n) for n in found] == told


@pytest.mark.parametrize("stage", [*made_up.STAGES, *made_up.OTHERS])
def test_all_sizes_of_a_stage_have_the_same_options(stage):
    base, tiny, small = (
        set(read_tree(made_up.PRETRAIN / made_up.file_of(stage, size)))
        for size in ("base", "tiny", "small")
    )
    assert small == tiny
    assert base - tiny == set() and tiny - base <= {"centre_bands", "teacher_layer"}


@pytest.mark.parametrize("stage", made_up.STAGES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_a_corpus_has_the_small_size_of_its_stages(corpus, stage):
    folder = ROOT / "recipes" / corpus / "pretrain" / "hparams"
    tree = read_tree(folder / made_up.file_of(stage, "small"))
    assert (tree["stage"], tree["train_splits"]) == (stage, ["train"])
    parts = {"frame": ("frame",), "utterance": ("utterance",), "joint": ("frame", "utterance")}
    for part in parts[stage]:
        included = Path(tree[part].tag.value.removeprefix("!include:")).resolve()
        assert included == ROOT / "hparams" / f"{part}_small.yaml"


@pytest.mark.long
@pytest.mark.parametrize("stage", [*made_up.STAGES, *made_up.OTHERS])
def test_a_small_stage_learns_its_batch(stage, tmp_path):
    settings = Settings("cpu", "small", None, tmp_path, 1.0, time.time())
    given = {"beta": 0.0} if stage == "joint" else {}  # two utterances determine no information
    brain = made_up.make_brain(stage, settings, tmp_path, **given)
    check_limits(vars(brain.hparams))
    made_up.make_ready(brain)
    batch = made_up.make_batch([1.0, 0.8])
    before = made_up.one_forward(brain, batch)[1].item()
    for _ in range(8):
        made_up.one_step(brain, batch)
    assert made_up.one_forward(brain, batch)[1].item() < before
