"""Two views of an utterance: cut alike, drawn by seed, epoch and utterance."""

import numpy as np
import pytest
import soundfile
import torch

from lobes.signal import num_frames
from recipes.common.data.crops import SpeechBatch
from recipes.common.data.views import view_loaders
from tests.made_datasets import made_dataset

HPARAMS = {"seed": 3, "max_batch_seconds": 4.0, "num_workers": 0, "max_seconds": 1.02}


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


def negate(wav, seed):
    """Return what can be told from the utterance, and is aligned with it; its seed in front."""
    changed = -wav
    changed[0] = seed % 1000
    return changed


@pytest.mark.parametrize("cut", [False, True])
def test_the_views_are_of_the_same_samples(cut, datasets):
    loaders = view_loaders({**HPARAMS, "crop_batches": cut}, datasets, negate)
    for split, loader in loaders.items():
        for batch in loader:
            assert isinstance(batch, SpeechBatch)
            first, second = batch.sig, batch.other_voice
            assert torch.equal(first.data[:, 1:], -second.data[:, 1:])
            assert torch.equal(first.lengths, second.lengths)
            lens = (first.lengths * first.data.shape[1]).round().int()
            assert len(set(num_frames(int(n)) for n in lens)) == 1 or not cut or split != "train"
            assert max(lens) <= 1.02 * 16000


def voices_drawn(loader):
    return {
        name: float(wav[0])
        for batch in loader
        for name, wav in zip(batch.id, batch.other_voice.data, strict=True)
    }


def test_voices_are_those_of_seed_epoch_and_utterance(datasets):
    hparams = {**HPARAMS, "crop_batches": False, "max_seconds": 2.0}
    loaders = view_loaders(hparams, datasets, negate)
    drawn = {}
    for split, loader in loaders.items():
        for epoch in (1, 2, 1):
            if split == "train":
                loader.batch_sampler.set_epoch(epoch)
            drawn.setdefault(split, []).append(voices_drawn(loader))
        assert len(set(drawn[split][0].values())) == 6
        assert drawn[split][0] == drawn[split][2]
        assert (drawn[split][0] != drawn[split][1]) == (split == "train")
    other = view_loaders({**hparams, "seed": 4}, datasets, negate)["valid"]
    assert voices_drawn(other) != drawn["valid"][0]
