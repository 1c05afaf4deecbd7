"""Loaders of a stage: what is for training alone."""

import numpy as np
import pytest
import soundfile
import torch

from recipes.common.data.crops import span_mask
from recipes.common.data.loaders import plain_loader, stage_loaders
from tests.made_datasets import made_dataset

HPARAMS = {"seed": 3, "max_batch_seconds": 4.0, "num_workers": 0, "max_seconds": 2.0}
HPARAMS |= {"min_crop_seconds": 0.2, "max_crop_seconds": 0.3}


@pytest.fixture
def datasets(tmp_path):
    made = {}
    for number, split in enumerate(("train", "valid", "test")):
        rows = {}
        for place in range(6):
            path = tmp_path / f"{split}{place}.wav"
            noise = np.random.default_rng([number, place]).normal(size=16000 + 100 * place)
            soundfile.write(path, 0.1 * noise, 16000)
            rows[path.stem] = {"wav": str(path), "duration": 1.0, "spk_id": "a"}
        made[split] = made_dataset(tmp_path / f"{split}.csv", rows)
    return made


class Augment:
    """Marks what it was asked to do: samples 9 where the voice was changed."""

    def __call__(self, wav, *args, **kwargs):
        return wav

    def change_voice(self, wav, *args, **kwargs):
        return torch.full_like(wav, 9.0)


def test_voices_change_in_training_alone(datasets):
    loaders = stage_loaders(HPARAMS, datasets, augment=Augment())
    for split, loader in loaders.items():
        values = torch.cat([batch.first.data.ravel() for batch in loader])
        assert bool((values == 9).any()) == (split == "train"), split


def test_batches_change_from_epoch_to_epoch_in_training_alone(datasets):
    loaders = stage_loaders(HPARAMS, datasets, augment=Augment())
    for split, loader in loaders.items():
        drawn = []
        for epoch in (1, 2):
            if split == "train":
                loader.batch_sampler.set_epoch(epoch)
            drawn.append([(batch.id, batch.first.data.shape) for batch in loader])
        assert (drawn[0] != drawn[1]) == (split == "train"), split


def test_what_a_last_step_is_fitted_on_is_the_utterances_as_they_are(datasets):
    loader = plain_loader(datasets["train"], HPARAMS)
    seen = {}
    for batch in loader:
        for name, wav, share in zip(batch.id, batch.sig.data, batch.sig.lengths, strict=True):
            seen[name] = wav[: round(float(share) * len(wav))]
    assert seen.keys() == set(datasets["train"].data_ids)
    for name, path in zip(datasets["train"].data_ids, datasets["train"].column("wav"), strict=True):
        expected, _ = soundfile.read(path, dtype="float32")
        np.testing.assert_array_equal(seen[name], expected)


def test_little_of_long_recordings_is_told_before_training(datasets, caplog):
    given = {"span_mask": span_mask, "crop_batches": False, **HPARAMS}
    stage_loaders(given, datasets, masks=True)
    assert "an epoch hears" not in caplog.text
    stage_loaders({**given, "max_seconds": 0.5}, datasets, masks=True)
    assert "train: an epoch hears 0.0 of 0.0 hours, as it takes a piece of 0.5 s" in caplog.text
