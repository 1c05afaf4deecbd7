"""k-means: as good as scikit-learn's, the same for the same frames, refused for too few."""

import numpy as np
import pytest
import soundfile
import torch
from sklearn.cluster import MiniBatchKMeans

from lobes.targets import mfcc
from recipes.common.units import kmeans
from recipes.common.units.kmeans import fit_kmeans, spread_centres


def uniform(rng):
    return rng.uniform(size=(70_000, 4)), 30


def separate(rng):
    centres = 4 * rng.normal(size=(20, 5))
    shares = rng.dirichlet(np.full(20, 0.3))
    return centres[rng.choice(20, size=70_000, p=shares)] + rng.normal(size=(70_000, 5)), 20


def heavy_tailed(rng):
    return rng.standard_t(2, size=(70_000, 6)), 20


def few_and_high_dimensional(rng):
    return rng.normal(size=(9_000, 60)), 70


def scikit_learn(frames, num_units, seed):
    """Return the centres of scikit-learn's mini-batches of the same frames."""
    fitted = MiniBatchKMeans(num_units, random_state=seed, batch_size=10_000, n_init=1)
    for start in (0, *range(50_000, len(frames), 10_000)):
        fitted.partial_fit(frames[start : 50_000 if start == 0 else start + 10_000])
    return torch.from_numpy(fitted.cluster_centers_).float()


def inertia(frames, centres):
    """Return the mean squared distance to the nearest centre, and how many centres are nearest."""
    nearest = torch.cdist(frames, centres).square().min(1)
    return float(nearest.values.mean()), len(nearest.indices.unique())


def compare(frames, num_units):
    for seed in range(2):
        centres = fit_kmeans(lambda: [torch.from_numpy(frames)], num_units, seed)
        theirs, _ = inertia(torch.from_numpy(frames), scikit_learn(frames, num_units, seed))
        ours, used = inertia(torch.from_numpy(frames), centres)
        assert used == num_units
        assert ours <= 1.02 * theirs


@pytest.mark.parametrize("draw", [uniform, separate, heavy_tailed, few_and_high_dimensional])
def test_inertia_is_that_of_scikit_learn(draw):
    frames, num_units = draw(np.random.default_rng(0))
    compare(frames.astype(np.float32), num_units)


@pytest.mark.long
def test_inertia_is_that_of_scikit_learn_on_real_speech(real_speech):
    paths = sorted((real_speech / "LibriSpeech").rglob("*.flac"))[:400]
    wavs = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]
    compare(torch.cat([mfcc(wav) for wav in wavs]).numpy(), 100)


def test_separate_clusters_are_found_in_a_stream():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], float)
    chunks = [centres[rng.integers(4, size=500)] + rng.normal(size=(500, 2)) for _ in range(30)]
    chunks = [torch.from_numpy(chunk) for chunk in chunks]
    found = fit_kmeans(lambda: iter(chunks), 4, seed=1)
    nearest = np.abs(found.numpy()[:, None] - centres).max(-1).min(0)
    assert (nearest < 0.2).all()


def test_centres_are_the_means_of_all_frames_that_were_theirs(monkeypatch):
    monkeypatch.setattr(kmeans, "FIRST_MINIBATCH", 40)
    monkeypatch.setattr(kmeans, "MINIBATCH", 15)
    frames = torch.randn(150, 2, generator=torch.Generator().manual_seed(0))
    chunks = list(frames.split(31))
    found = fit_kmeans(lambda: iter(chunks), 3, seed=5, passes=2)
    generator = torch.Generator().manual_seed(5)
    centres, sums, counts = spread_centres(frames[:40], 3, generator), torch.zeros(3, 2), [0] * 3
    passes = [frames[:40], *frames[40:].split(15), *frames.split(15)]
    for minibatch in passes:
        if len(minibatch) >= 3:
            for frame, own in zip(
                minibatch, torch.cdist(minibatch, centres).argmin(1).tolist(), strict=True
            ):
                sums[own] += frame
                counts[own] += 1
            centres = sums / torch.tensor(counts)[:, None]
    torch.testing.assert_close(found, centres, rtol=1e-4, atol=1e-5)


def test_more_centres_than_a_minibatch_holds_are_moved_in_every_pass(monkeypatch):
    monkeypatch.setattr(kmeans, "FIRST_MINIBATCH", 500)
    monkeypatch.setattr(kmeans, "MINIBATCH", 100)
    frames = torch.randn(655, 8, generator=torch.Generator().manual_seed(0))
    one, ten = (fit_kmeans(lambda: [frames], 250, seed=0, passes=passes) for passes in (1, 10))
    assert inertia(frames, ten)[0] < 0.99 * inertia(frames, one)[0]
    monkeypatch.setattr(kmeans, "MEMBERSHIPS", 1000)  # four frames at a time
    torch.testing.assert_close(fit_kmeans(lambda: [frames], 250, seed=0, passes=10), ten)


def test_the_same_frames_give_the_same_centres_on_any_number_of_threads():
    frames = torch.randn(60_000, 39, generator=torch.Generator().manual_seed(0))
    before, seen = torch.get_num_threads(), []

    def features():
        seen.append(torch.get_num_threads())
        return [frames]

    try:
        torch.set_num_threads(2)
        first, second = (fit_kmeans(features, 50, seed=1) for _ in range(2))
        assert seen == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first, second)
    assert not torch.equal(first, fit_kmeans(features, 50, seed=2))


def test_too_few_frames_for_the_units_are_refused():
    with pytest.raises(ValueError, match="5 different frames are too few for 10 units"):
        fit_kmeans(lambda: [torch.randn(5, 2)], 10, seed=0)


def test_silence_is_no_more_than_one_frame():
    frames = torch.cat([torch.zeros(500, 39), torch.randn(5, 39)])
    with pytest.raises(ValueError, match="6 different frames are too few for 10 units"):
        fit_kmeans(lambda: [frames], 10, seed=0)


def test_minibatches_hold_every_frame_once_and_are_of_the_size_asked_for():
    rows = torch.arange(60.0).reshape(-1, 1)
    batches = list(kmeans._minibatches(iter(rows.split([4, 1, 26, 29])), 10, 7))
    assert [len(batch) for batch in batches] == [10, *[7] * 7, 1]
    assert torch.equal(torch.cat(batches), rows)
