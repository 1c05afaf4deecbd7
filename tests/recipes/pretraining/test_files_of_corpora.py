"""The hyperparameters files of other corpora: all stages of LibriSpeech's, on another corpus."""

import pytest

from recipes.common.training.hparams import plain_values, read_tree
from recipes.experiments.runner import PRETRAIN, RECIPES

FILES = [path for path in (PRETRAIN / "hparams").glob("*.yaml") if "stage:" in path.read_text()]
STAGES = sorted(path.stem for path in FILES)
SIZES = {"AudioFolder": ("", "_tiny"), "speechocean762": ("_tiny",)}
NAMES = [(c, f"{stage}{size}") for c, sizes in SIZES.items() for stage in STAGES for size in sizes]


@pytest.mark.parametrize(("corpus", "stage"), NAMES)
def test_every_stage_has_a_file_that_differs_by_the_corpus_alone(corpus, stage):
    folder = RECIPES / corpus / "pretrain" / "hparams"
    found, ours = read_tree(folder / f"{stage}.yaml"), read_tree(folder / "corpus.yaml")
    expected = read_tree(PRETRAIN / "hparams" / f"{stage}.yaml")
    assert plain_values(found) == {**plain_values(expected), **plain_values(ours)}
    assert found["prepare"].tag == ours["prepare"].tag != expected["prepare"].tag


def test_there_are_stages_to_look_at():
    assert {"codes", "frame", "joint", "spin", "utterance"} <= set(STAGES)
