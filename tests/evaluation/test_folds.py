"""Folds share no group and keep every class."""

import numpy as np
import pytest

from recipes.common.evaluation.folds import split_groups


@pytest.mark.parametrize("case", ["phones", "gender", "speakers", "rare"])
def test_groups_are_in_one_part_and_tested_classes_in_training(case):
    rng = np.random.default_rng(0)
    y, groups = {
        "phones": (rng.integers(5, size=600), rng.integers(15, size=600)),
        "gender": (np.repeat(np.arange(16), 10) % 2, np.repeat(np.arange(16), 10)),
        "speakers": (np.repeat(np.arange(9), 20) // 2, np.arange(180)),
        "rare": (np.array([0, 0, 1, 1, 2, 2, 2, 0]), np.array([0, 1, 2, 3, 0, 2, 1, 2])),
    }[case]
    for seed in range(10):
        splits = split_groups(y, groups, seed)
        tested = np.concatenate([test for _, _, test in splits])
        assert sorted(tested) == list(range(len(y)))
        for parts in splits:
            sets = [set(groups[part]) for part in parts]
            assert sum(map(len, sets)) == len(set(groups)) and all(sets)
            assert set(y[parts[2]]) <= set(y[parts[0]])
            if case in ("gender", "speakers"):
                counts = np.bincount(y[parts[2]], minlength=y.max() + 1) / np.bincount(y)
                assert np.ptp(counts) <= 0.26
