"""Crops of a run, which the leakage's retrieval is measured on, and the parts that are pooled."""

import numpy as np
import pytest

from recipes.common.data.augment import UtteranceAugment
from recipes.common.data.crops import both_crops
from recipes.common.data.loaders import load_split, stage_loaders
from recipes.experiments.evaluate import UNSEEN, pool_unseen
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from recipes.LibriSpeech.pretrain.utterance import crops_of_run

SETTINGS = {
    "min_crop_seconds": 0.4,
    "max_crop_seconds": 0.8,
    "max_seconds": 15.6,
    "max_batch_seconds": 20,
    "num_workers": 0,
}


@pytest.fixture
def draw(librispeech, tmp_path):
    """Return a function that gives the crops of the test split, drawn by loaders."""
    prepare_librispeech(librispeech, tmp_path / "manifest", ["test-clean"], num_workers=1)
    given = {"data_folder": librispeech, "min_seconds": 0.5}

    def crops(loaders):
        data = {"test": load_split([tmp_path / "manifest" / "test-clean.csv"], given)}
        return [both_crops(batch)[0] for batch in loaders(data)["test"]]

    return crops


@pytest.mark.parametrize("augment", [{}, {"noise_prob": 0.0, "gain_prob": 1.0}])
def test_crops_are_drawn_as_the_run_drew_them(augment, draw, tmp_path):
    lines = [f"{key}: {value}" for key, value in {"seed": 1, **SETTINGS}.items()]
    lines.append("augment: !new:recipes.common.data.augment.UtteranceAugment")
    lines += [f"  {key}: {value}" for key, value in augment.items()]
    (tmp_path / "hyperparams.yaml").write_text("\n".join(lines))
    own = {**SETTINGS, "seed": 7}
    expected = draw(lambda data: stage_loaders(own, data, augment=UtteranceAugment(**augment)))
    found = draw(lambda data: crops_of_run(tmp_path, data, seed=7))
    assert len(found) == len(expected) > 0
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


def test_both_unseen_splits_are_pooled_with_speakers_apart():
    reading = {
        name: {"likelihood_gain": np.full((2, 3), n), "info_nce": np.full((2, 3), n), "club": n}
        for n, name in enumerate(UNSEEN)
    }
    speakers = {name: np.array([0, 0, 1]) for name in UNSEEN}
    pool_unseen([reading], speakers)
    pooled = reading["unseen speakers"]
    assert pooled["likelihood_gain"].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 and pooled["club"] == 0.5
    assert speakers["unseen speakers"].tolist() == [0, 0, 1, 2, 2, 3]
