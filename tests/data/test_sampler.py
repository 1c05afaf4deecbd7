"""The order of batches: what may repeat, what is shared, what is padded."""

import time

import numpy as np
import pytest

from recipes.common.data import sampler as sampler_module
from recipes.common.data.sampler import NARROW_JITTER, LengthSortedBatches
from recipes.common.data.seeding import Clock, derive_rng

SECONDS = np.random.default_rng(0).uniform(1, 9, 200)


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


@pytest.mark.parametrize("ranks", [2, 8])
def test_of_single_utterances_each_rank_has_as_many(ranks):
    parts = [
        list(LengthSortedBatches([15.0] * 1001, 15.6, 0, Clock(), ranks, rank))
        for rank in range(ranks)
    ]
    assert {len(part) for part in parts} == {1001 // ranks}
    assert all(len(batch) == 1 for part in parts for batch in part)


def test_no_batch_is_smaller_than_asked():
    sampler = LengthSortedBatches([30.0] * 5, 40, 0, min_batch_size=2)
    assert sorted(map(len, sampler)) == [2, 3]
    with pytest.raises(ValueError, match="too few"):
        LengthSortedBatches([1.0], 40, 0, min_batch_size=2)


def slow_batches(seconds, limit, seed, epoch=None, ranks=1, fewest=1):
    """Batches as lists, one utterance after the other."""
    keys = seconds
    if epoch is not None:
        rng = derive_rng(seed, "batches", epoch)
        keys = keys * rng.uniform(0.9, 1.1, len(keys))
    batches, longest = [[]], 0.0
    for index in np.argsort(keys, kind="stable").tolist():
        longest = max(longest, seconds[index])
        if longest * (len(batches[-1]) + 1) > limit and len(batches[-1]) >= fewest:
            batches.append([])
            longest = seconds[index]
        batches[-1].append(index)
    if len(batches) > 1 and len(batches[-1]) < fewest:
        rest = batches.pop()
        batches[-1] += rest
    if epoch is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    while len(batches) % ranks:
        large = [i for i, batch in enumerate(batches) if len(batch) >= 2 * fewest]
        place = large[-1] if large else max(range(len(batches)), key=lambda i: len(batches[i]))
        if len(batches[place]) == 1:  # of single utterances, those are left out that some lack
            return batches[: -(len(batches) % ranks)]
        batches[place : place + 1] = [batches[place][::2], batches[place][1::2]]
    return batches


@pytest.mark.parametrize("case", range(60))
def test_batches_are_those_of_the_slow_version(case, monkeypatch):
    monkeypatch.setattr(sampler_module, "BLOCK", 7)
    rng = np.random.default_rng(case)
    ranks, fewest, seed = int(rng.integers(1, 6)), int(rng.integers(1, 4)), int(rng.integers(9))
    count, grid = int(rng.integers(ranks * fewest, 200)), rng.choice([0.1, 1.0, 4.0])
    seconds = grid * np.ceil(rng.lognormal(1, 1, count) / grid)  # many of one length
    limit = float(rng.choice([0.0, 3.0, 20.0, 100.0, 1e9]))
    expected = slow_batches(seconds, limit, seed, ranks=1, fewest=fewest)
    alone = LengthSortedBatches(seconds, limit, seed, min_batch_size=fewest)
    assert list(alone) == expected and len(alone) == len(expected)
    expected = slow_batches(seconds, limit, seed, 2, ranks, fewest)
    for rank in range(ranks):
        clock = Clock()
        sampler = LengthSortedBatches(seconds, limit, seed, clock, ranks, rank, fewest)
        sampler.set_epoch(2)
        assert list(sampler) == expected[rank::ranks] and len(sampler) == len(expected) // ranks


@pytest.mark.long
def test_an_epoch_of_millions_of_utterances_is_planned_in_seconds():
    """Ten million may take 10 s and 256 MiB."""
    seconds = np.random.default_rng(0).uniform(1, 30, 2_500_000)
    sampler = LengthSortedBatches(seconds, 100.0, 0, Clock(), ranks=8)
    began = time.process_time()
    sampler.set_epoch(1)
    assert time.process_time() - began < 2.5
    assert sum(value.nbytes for value in vars(sampler).values() if hasattr(value, "nbytes")) < 2**26


def test_in_evaluation_the_ranks_share_the_batches_of_one_process():
    seconds = np.random.default_rng(0).uniform(1, 15, 300)
    whole = list(LengthSortedBatches(seconds, 40.0, 0))
    parts = [LengthSortedBatches(seconds, 40.0, 0, None, 4, number) for number in range(4)]
    assert sorted(batch for part in parts for batch in part) == sorted(whole)
    assert sum(map(len, parts)) == len(whole) and len(whole) % 4
    few = [list(LengthSortedBatches([1.0] * 5, 40.0, 0, None, 3, number)) for number in range(3)]
    assert all(few) and sorted(i for part in few for batch in part for i in batch) == [*range(5)]


def test_little_audio_is_cut_from_batches_of_narrow_jitter():
    rng = np.random.default_rng(0)
    seconds = np.concatenate([rng.normal(14.3, 1.3, 30_000), rng.gamma(2.2, 3.6, 20_000)])
    seconds = seconds.clip(1.3, 15.6)  # much as LibriSpeech's
    batches = LengthSortedBatches(seconds, 87.5, 0, Clock(), jitter=NARROW_JITTER)
    kept = sum(seconds[batch].min() * len(batch) for batch in batches)
    assert kept > 0.97 * seconds.sum()
    wide = LengthSortedBatches(seconds, 87.5, 0, Clock())
    assert sum(seconds[batch].min() * len(batch) for batch in wide) < 0.97 * seconds.sum()


def test_the_order_is_that_of_one_process_whatever_the_number_of_ranks():
    alone = list(batches_of(3))
    for ranks in (2, 3, 5, 8):
        parts = [list(batches_of(3, ranks=ranks, this_rank=rank)) for rank in range(ranks)]
        together = [batch for step in zip(*parts, strict=True) for batch in step]
        shared = len(alone) - 2 * ranks
        assert together[:shared] == alone[:shared] and shared >= len(alone) / 2
