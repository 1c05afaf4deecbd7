"""Batches, crops and masks: what may repeat, what may overlap, what stays in step."""

import numpy as np
import pytest
import torch

from lobes.losses import IGNORED_UNIT
from lobes.signal import num_frames
from recipes.common.data.crops import add_crops, add_frame_items, collate, two_crops
from recipes.common.data.loaders import KeptBatches, load_split, make_loader
from recipes.common.data.sampler import Clock, LengthSortedBatches

SECONDS = np.random.default_rng(0).uniform(1, 9, 200)
SETTINGS = {
    "data_folder": None,
    "min_seconds": 0.5,
    "max_seconds": 1.0,
    "mask_prob": 0.08,
    "mask_length": 10,
    "min_crop_seconds": 0.5,
    "max_crop_seconds": 1.0,
    "seed": 1,
}


def batches_of(epoch, seed=0, **options):
    clock = Clock()
    sampler = LengthSortedBatches(SECONDS, 40, seed, clock, **options)
    sampler.set_epoch(epoch)
    return sampler


def test_every_utterance_is_in_one_batch_within_the_limit():
    batches = list(batches_of(1))
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(len(batch) * SECONDS[batch].max() <= 40 for batch in batches)


def test_batches_waste_little_on_padding():
    padded = sum(len(batch) * SECONDS[batch].max() for batch in batches_of(1))
    assert padded < 1.2 * SECONDS.sum()


def test_epochs_differ_and_each_is_the_same_again():
    assert list(batches_of(1)) == list(batches_of(1))
    one, two = ({frozenset(batch) for batch in batches_of(epoch)} for epoch in (1, 2))
    assert len(one & two) < 0.2 * len(one)
    assert list(batches_of(1)) != list(batches_of(1, seed=5))


def test_a_start_skips_batches_once():
    sampler = batches_of(1)
    whole = list(sampler)
    sampler.start = 3
    assert list(sampler) == whole[3:]
    assert list(sampler) == whole and len(sampler) == len(whole)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_batches_evenly(ranks):
    parts = [list(batches_of(1, ranks=ranks, this_rank=rank)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(i for part in parts for batch in part for i in batch) == list(range(200))


def test_no_batch_is_smaller_than_asked():
    sampler = LengthSortedBatches([30.0] * 5, 40, 0, min_batch_size=2)
    assert sorted(map(len, sampler)) == [2, 3]
    with pytest.raises(ValueError, match="too few"):
        LengthSortedBatches([1.0], 40, 0, min_batch_size=2)


@pytest.mark.parametrize("samples", [100, 8000, 15999, 16000, 20001, 40000, 64000, 300000])
def test_crops_overlap_only_where_they_must(samples):
    for seed in range(50):
        crops = two_crops(samples, 8000, 32000, np.random.default_rng(seed))
        (start, stop), (next_start, next_stop) = sorted(crops)
        assert 0 <= start < stop <= samples and next_stop <= samples
        assert stop - start == next_stop - next_start
        shared = max(0, stop - next_start)
        assert shared == max(0, 2 * 8000 - samples) or samples < 8000
        if samples >= 16000:
            assert stop <= next_start and stop - start >= 8000


def dataset_with_items(librispeech, tmp_path, units, epoch=1):
    from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech

    prepare_librispeech(librispeech, tmp_path, ["dev-clean"], num_workers=1)
    hparams = {**SETTINGS, "data_folder": librispeech}
    dataset = load_split([tmp_path / "dev-clean.csv"], hparams)
    clock = Clock()
    clock.epoch = epoch
    add_frame_items(dataset, hparams, clock, units)
    add_crops(dataset, hparams, clock, lambda crop, seed: crop + 1e-6 * (seed % 97))
    dataset.set_output_keys(["id", "sig", "units", "mask", "first", "second"])
    return dataset


class FrameNumbers(dict):
    """Units that are the frames' own numbers, so that a shift shows."""

    def __missing__(self, utterance):
        return np.arange(1000, dtype=np.int16)


def test_units_stay_in_step_with_a_crop(librispeech, tmp_path):
    from speechbrain.dataio.dataio import read_audio

    dataset = dataset_with_items(librispeech, tmp_path, FrameNumbers())
    starts = set()
    for item in dataset:
        whole = read_audio(dataset.data[item["id"]]["wav"])
        start = int(item["units"][0])
        starts.add(start)
        frames = len(item["units"])
        assert frames == num_frames(len(item["sig"])) == len(item["mask"]) == 49
        assert torch.equal(item["sig"], whole[start * 320 : start * 320 + len(item["sig"])])
        assert item["units"].tolist() == list(range(start, start + frames))
    assert len(starts) > 3


def test_items_depend_on_the_epoch_and_the_utterance_alone(librispeech, tmp_path):
    one, again, other = (
        dataset_with_items(librispeech, tmp_path, FrameNumbers(), epoch) for epoch in (1, 1, 2)
    )
    for i in (5, 0, 3):
        for key in ("sig", "mask", "first", "second"):
            assert torch.equal(one[i][key], again[i][key])
        assert not torch.equal(one[i]["mask"], other[i]["mask"])
        assert one[i]["first"].shape == one[i]["second"].shape
        assert not torch.equal(one[i]["first"], one[i]["second"])


def test_both_crops_of_an_utterance_get_one_voice(librispeech, tmp_path):
    from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech

    prepare_librispeech(librispeech, tmp_path, ["dev-clean"], num_workers=1)
    hparams = {**SETTINGS, "data_folder": librispeech}
    dataset = load_split([tmp_path / "dev-clean.csv"], hparams)
    add_crops(dataset, hparams, Clock(), lambda crop, _: crop, lambda crop, seed: 0 * crop + seed)
    dataset.set_output_keys(["first", "second"])
    voices = [(item["first"][0].item(), item["second"][0].item()) for item in dataset]
    assert all(first == second for first, second in voices)
    assert len(set(voices)) == len(voices)


def test_padded_frames_have_no_unit_and_no_mask(librispeech, tmp_path):
    dataset = dataset_with_items(librispeech, tmp_path, FrameNumbers())
    short = dict(dataset[0])
    short.update(sig=short["sig"][:8000], units=short["units"][:24], mask=short["mask"][:24])
    batch = collate([short, dataset[1]])
    assert (batch.units.data[0, 24:] == IGNORED_UNIT).all()
    assert not batch.mask.data[0, 24:].any()


@pytest.mark.parametrize("training", [True, False])
def test_only_little_validation_data_is_kept(training, librispeech, tmp_path, monkeypatch):
    dataset = dataset_with_items(librispeech, tmp_path, FrameNumbers())
    dataset.set_output_keys(["id", "wav"])
    hparams = {**SETTINGS, "max_batch_seconds": 10, "num_workers": 0}
    clock = Clock() if training else None
    loader = make_loader(dataset, hparams, clock)
    first, second = list(loader), list(loader)
    assert [b.id for b in first] == [b.id for b in second]
    assert all(a is b for a, b in zip(first, second, strict=True)) != training
    monkeypatch.setattr("recipes.common.data.loaders.MAX_KEPT_SECONDS", 1)
    assert not isinstance(make_loader(dataset, hparams, clock), KeptBatches)
