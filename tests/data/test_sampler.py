"""The order of batches: what may repeat, what is shared, what is padded."""

import numpy as np
import pytest

from recipes.common.data.sampler import Clock, LengthSortedBatches

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


def test_no_batch_is_smaller_than_asked():
    sampler = LengthSortedBatches([30.0] * 5, 40, 0, min_batch_size=2)
    assert sorted(map(len, sampler)) == [2, 3]
    with pytest.raises(ValueError, match="too few"):
        LengthSortedBatches([1.0], 40, 0, min_batch_size=2)
