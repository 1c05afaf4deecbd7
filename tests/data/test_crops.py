"""Crops, masks and units of a batch: what may overlap, what stays in step, what is kept."""

import pickle

import numpy as np
import pytest
import torch

from lobes.losses import IGNORED_UNIT
from lobes.signal import num_frames
from recipes.common.data.crops import (
    CutToShortest,
    SpeechBatch,
    add_crops,
    add_frame_items,
    add_speech,
    span_mask,
    two_crops,
)
from recipes.common.data.loaders import KeptBatches, load_split, make_loader, stage_loaders
from recipes.common.data.sampler import JITTER, NARROW_JITTER
from recipes.common.data.seeding import Clock
from recipes.common.units.unit_array import (
    Columns,
    UnitArray,
    index_utterances,
    write_units,
)
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from tests.made_datasets import made_dataset

SETTINGS = {
    "data_folder": None,
    "min_seconds": 0.5,
    "max_seconds": 1.0,
    "span_mask": span_mask,
    "min_crop_seconds": 0.5,
    "max_crop_seconds": 1.0,
    "seed": 1,
}


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


def mark_seed(crop, seed):
    return crop + 1e-6 * (seed % 97)


def dataset_with_items(librispeech, tmp_path, units, epoch=1):
    prepare_librispeech(librispeech, tmp_path, ["dev-clean"], num_workers=1)
    hparams = {**SETTINGS, "data_folder": librispeech}
    dataset = load_split([tmp_path / "dev-clean.csv"], hparams)
    clock = Clock()
    clock.epoch = epoch
    add_speech(dataset)
    add_frame_items(dataset, hparams, clock, units)
    add_crops(dataset, hparams, clock, mark_seed)
    dataset.set_output_keys(["id", "sig", "units", "mask", "first", "second"])
    return dataset


class FrameNumbers(dict):
    """Units that are the frames' own numbers, so that a shift shows."""

    def __missing__(self, utterance):
        return np.arange(1000, dtype=np.int16)


def test_units_stay_in_step_with_a_crop(librispeech, tmp_path):
    from speechbrain.dataio.dataio import read_audio

    dataset = dataset_with_items(librispeech, tmp_path, FrameNumbers())
    paths = dict(zip(dataset.data_ids, dataset.column("wav"), strict=True))
    starts = set()
    for item in dataset:
        whole = read_audio(paths[item["id"]])
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
    prepare_librispeech(librispeech, tmp_path, ["dev-clean"], num_workers=1)
    hparams = {**SETTINGS, "data_folder": librispeech}
    dataset = load_split([tmp_path / "dev-clean.csv"], hparams)
    add_speech(dataset)
    add_crops(dataset, hparams, Clock(), lambda crop, _: crop, lambda crop, seed: 0 * crop + seed)
    dataset.set_output_keys(["first", "second"])
    voices = [(item["first"][0].item(), item["second"][0].item()) for item in dataset]
    assert all(first == second for first, second in voices)
    assert len(set(voices)) == len(voices)


def test_each_crop_is_augmented_by_draws_of_its_own(librispeech, tmp_path):
    prepare_librispeech(librispeech, tmp_path, ["dev-clean"], num_workers=1)
    hparams = {**SETTINGS, "data_folder": librispeech}
    dataset = load_split([tmp_path / "dev-clean.csv"], hparams)

    def augment(crop, seed):
        return 0 * crop + seed % 10007

    add_speech(dataset)
    add_crops(dataset, hparams, Clock(), augment, lambda crop, _: crop)
    dataset.set_output_keys(["first", "second"])
    draws = [item[key][0].item() for item in dataset for key in ("first", "second")]
    assert len(set(draws)) == len(draws)


def is_part(crop, wav, samples):
    """Return whether a crop has so many samples and is a part of a waveform."""
    begins = wav[: len(wav) - samples + 1] == crop[0]
    starts = begins.nonzero()[:, 0].tolist()
    return len(crop) == samples and any(torch.equal(wav[n : n + samples], crop) for n in starts)


def test_short_crops_and_a_reference_come_beside_the_two(librispeech, tmp_path):
    prepare_librispeech(librispeech, tmp_path, ["dev-clean"], num_workers=1)
    more = {"short_crops": 2, "short_crop_seconds": 0.25, "reference_seconds": 0.5}
    hparams = {**SETTINGS, "data_folder": librispeech}
    items = {}
    for name, settings in {"plain": hparams, "more": {**hparams, **more}}.items():
        dataset = load_split([tmp_path / "dev-clean.csv"], hparams)
        add_speech(dataset)
        names = add_crops(dataset, settings, Clock(), lambda crop, seed: crop + 1)
        dataset.set_output_keys([*names, "speech"])
        items[name] = list(dataset)
    assert set(items["more"][0]) - set(items["plain"][0]) == {"short_0", "short_1", "reference"}
    for plain, item in zip(items["plain"], items["more"], strict=True):
        assert all(torch.equal(plain[key], item[key]) for key in ("first", "second"))
        for key in ("short_0", "short_1"):
            assert is_part(item[key], item["speech"] + 1, 4000)
        assert is_part(item["reference"], item["speech"], 8000)
    assert not torch.equal(items["more"][0]["short_0"], items["more"][0]["short_1"])


def test_padded_frames_have_no_unit_and_no_mask(librispeech, tmp_path):
    dataset = dataset_with_items(librispeech, tmp_path, FrameNumbers())
    short = dict(dataset[0])
    short.update(sig=short["sig"][:8000], units=short["units"][:24], mask=short["mask"][:24])
    batch = SpeechBatch([short, dataset[1]])
    assert (batch.units.data[0, 24:] == IGNORED_UNIT).all()
    assert not batch.mask.data[0, 24:].any()


@pytest.mark.long
def test_two_spawned_workers_give_the_batches_of_none(librispeech, tmp_path):
    names = speech_ids(librispeech)
    utterances = Columns(names, [__file__] * len(names), np.full(len(names), 9.0))
    parts = [([place], np.arange(449)) for place in range(len(names))]
    write_units(tmp_path, index_utterances(utterances), parts, {"num_units": 449})
    units = UnitArray(tmp_path, utterances, num_units=449)
    dataset = dataset_with_items(librispeech, tmp_path, units)
    settings = {**SETTINGS, "max_batch_seconds": 4.0, "num_workers": 0}
    alone = list(make_loader(dataset, settings, Clock()))
    loader = make_loader(dataset, {**settings, "num_workers": 2}, Clock())
    loader.multiprocessing_context = "spawn"
    for ours, theirs in zip(alone, loader, strict=True):
        assert ours.id == theirs.id
        for name in ("sig", "units", "mask", "first", "second"):
            assert torch.equal(getattr(ours, name).data, getattr(theirs, name).data)


def test_pickled_units_do_not_carry_the_corpus(tmp_path):
    utterances = Columns(["a"], [__file__], np.array([2000.0]))
    parts = [([0], np.arange(99999) % 90)]
    write_units(tmp_path, index_utterances(utterances), parts, {"num_units": 90})
    units = UnitArray(tmp_path, utterances, num_units=90)
    pickled = pickle.dumps(units)
    assert len(pickled) < 2000 and np.array_equal(pickle.loads(pickled)["a"], units["a"])
    shuffled = UnitArray(tmp_path, utterances, num_units=90, shuffle_seed=1)
    assert np.array_equal(pickle.loads(pickle.dumps(shuffled))["a"], shuffled["a"])
    assert not np.array_equal(shuffled["a"], units["a"])


def speech_ids(librispeech):
    return [path.stem for path in sorted((librispeech / "dev-clean").rglob("*.flac"))]


@pytest.mark.parametrize("training", [True, False])
def test_only_little_validation_data_is_kept(training, librispeech, tmp_path, monkeypatch):
    dataset = dataset_with_items(librispeech, tmp_path, FrameNumbers())
    dataset.set_output_keys(["id", "wav"])
    hparams = {**SETTINGS, "max_batch_seconds": 10, "num_workers": 0}
    clock = Clock() if training else None
    loader = make_loader(dataset, hparams, clock)
    first, second = list(loader), list(loader)
    assert [b.id for b in first] == [b.id for b in second]
    assert all(a.id is b.id for a, b in zip(first, second, strict=True)) != training
    assert not any(a is b for a, b in zip(first, second, strict=True))
    monkeypatch.setattr("recipes.common.data.loaders.MAX_KEPT_SECONDS", 1)
    assert not isinstance(make_loader(dataset, hparams, clock), KeptBatches)


def runs_of(mask):
    """Return the lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.numpy().astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


@pytest.mark.parametrize("num_frames", [2, 3, 5, 9, 10, 11, 12, 49, 300])
@pytest.mark.parametrize("prob", [0.0, 0.08, 1.0])
def test_some_frames_are_masked_and_some_are_visible(num_frames, prob):
    for seed in range(50):
        mask = span_mask(num_frames, prob=prob, rng=np.random.default_rng(seed))
        assert mask.shape == (num_frames,) and mask.dtype == torch.bool
        assert 0 < mask.sum() < num_frames


@pytest.mark.parametrize("num_frames", [0, 1])
def test_nothing_is_masked_where_nothing_would_be_visible(num_frames):
    mask = span_mask(num_frames, rng=np.random.default_rng(0))
    assert mask.shape == (num_frames,) and not mask.any()


def test_masks_follow_their_generator():
    masks = [span_mask(400, rng=np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_spans_have_their_length_unless_the_utterance_ends():
    for seed in range(50):
        mask = span_mask(100, prob=0.01, length=7, rng=np.random.default_rng(seed))
        runs = runs_of(mask)
        assert all(run >= 7 for run in (runs[:-1] if mask[-1] else runs))


def test_each_frame_starts_a_span_with_the_given_probability():
    rng = np.random.default_rng(0)
    share = torch.stack([span_mask(500, 0.08, 10, rng) for _ in range(400)]).float().mean(0)
    # Away from the beginning, a frame is visible if none of ten frames starts a span.
    assert share[9:].mean().item() == pytest.approx(1 - 0.92**10, abs=0.01)
    assert share[0].item() == pytest.approx(0.08, abs=0.05)
    assert abs(share[9:250].mean() - share[250:].mean()) < 0.02


@pytest.mark.parametrize("min_masks", [1, 3])
def test_the_least_number_of_spans(min_masks):
    starts = [
        sum(runs_of(span_mask(10_000, 0.0, 1, np.random.default_rng(seed), min_masks)))
        for seed in range(10)
    ]
    assert starts == [min_masks] * 10


def test_a_batch_is_cut_to_its_shortest_utterance_on_the_grid_of_frames():
    clock, rows = Clock(), []
    for n, frames in enumerate((60, 49, 75)):
        wav = torch.arange(float((frames - 1) * 320 + 400 + 7 * n))
        rows.append(
            {"id": str(n), "sig": wav, "units": torch.arange(frames), "mask": wav[:frames] < 0}
        )
    cut = CutToShortest({"span_mask": span_mask, "seed": 0}, clock)
    seen = set()
    for clock.epoch in range(5):
        batch = cut(rows)
        assert (batch.sig.lengths == 1).all() and (batch.units.data >= 0).all()
        assert batch.units.data.shape == (3, 49) and batch.sig.data.shape == (3, 48 * 320 + 400)
        assert torch.equal(batch.sig.data[:, 0], 320.0 * batch.units.data[:, 0])
        assert (batch.units.data.diff(dim=1) == 1).all() and (batch.sig.data.diff(dim=1) == 1).all()
        masked = batch.mask.data.bool().sum(1)
        assert (masked > 0).all() and (masked < 49).all()
        seen.add((tuple(batch.units.data[:, 0].tolist()), tuple(masked.tolist())))
    assert len(seen) == 5 and len(list(rows[0]["sig"])) == 59 * 320 + 400
    assert torch.equal(cut(rows).hidden, batch.hidden)
    without = cut([{key: row[key] for key in ("id", "sig", "mask")} for row in rows])
    assert torch.equal(without.sig.data, batch.sig.data)
    assert torch.equal(without.hidden, batch.hidden) and without.frame_counts.tolist() == [49] * 3


class Tell:
    """Tells the epoch in the place of samples."""

    def __init__(self, clock):
        self.clock = clock

    def __call__(self, path):
        return torch.full((3,), float(self.clock.epoch))


def test_workers_that_live_on_know_the_epoch(tmp_path):
    rows = {str(n): {"duration": 1.0, "wav": f"$data_root/{n}.wav"} for n in range(6)}
    dataset, clock = made_dataset(tmp_path / "a.csv", rows), Clock()
    dataset.add_dynamic_item(Tell(clock), takes="wav", provides="sig")
    dataset.set_output_keys(["id", "sig"])
    settings = {"max_batch_seconds": 2.0, "max_seconds": 9.0, "seed": 0, "num_workers": 2}
    loader, order = make_loader(dataset, settings, clock), set()
    for epoch in (1, 2, 5):
        loader.batch_sampler.set_epoch(epoch)
        batches = list(loader)
        assert all((batch.sig.data == epoch).all() for batch in batches)
        order.add(tuple(tuple(batch.id) for batch in batches))
    assert len(order) == 3


@pytest.mark.parametrize("crop_batches", [True, False])
def test_batches_of_training_alone_are_cut_and_only_where_asked(
    crop_batches, librispeech, tmp_path
):
    prepare_librispeech(librispeech, tmp_path, ["dev-clean"], num_workers=1)
    hparams = {**SETTINGS, "data_folder": librispeech, "max_seconds": 20.0}
    hparams |= {"max_batch_seconds": 40.0, "num_workers": 0, "crop_batches": crop_batches}
    splits = ("train", "valid", "test")
    data = {split: load_split([tmp_path / "dev-clean.csv"], hparams) for split in splits}
    loaders = stage_loaders(hparams, data, units=FrameNumbers())
    for split, loader in loaders.items():
        cut = crop_batches and split == "train"
        assert loader.batch_sampler.jitter == (NARROW_JITTER if cut else JITTER)
        padded = [bool((batch.sig.lengths < 1).any()) for batch in loader]
        assert any(padded) != cut
