"""Erasing directions: against what the closed form is to reach, and on data that tells little."""

import pytest
import torch

from lobes.closed_forms.erasure import Erasure


def evidence(frames, embeddings):
    """Return what `Erasure.fit` takes of frames (utterances, frames, dim)."""
    rows = frames.flatten(0, 1)
    return rows.mean(0), torch.cov(rows.T, correction=0), frames.mean(1), embeddings


@pytest.fixture
def told():
    """Frames of 300 utterances, whose means tell three directions of embeddings, not alike."""
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    embeddings = normal(300, 5)
    offsets = embeddings[:, :3] * torch.tensor([1.0, 0.5, 0.2]) @ normal(3, 8)
    return normal(300, 40, 8) @ normal(8, 8) + offsets[:, None], embeddings


def what_is_told(covariance, means, embeddings):
    """Return how much means tell of embeddings: singular values of the whitened covariance."""
    x, y = (torch.linalg.cholesky(c) for c in (covariance, torch.cov(embeddings.T, correction=0)))
    cross = torch.cov(torch.cat([means, embeddings], 1).T, correction=0)[: len(x), len(x) :]
    white = torch.linalg.solve_triangular(x, cross, upper=False)
    return torch.linalg.svdvals(torch.linalg.solve_triangular(y, white.T, upper=False))


def test_all_directions_leave_no_covariance_and_change_frames_least(told):
    frames, embeddings = told
    mean, covariance, means, _ = evidence(*told)
    erasure = Erasure(8, 5).double().fit(mean, covariance, means, embeddings)
    erased = erasure(frames)
    centred = embeddings - embeddings.mean(0)
    cross = (means - mean).T @ centred / len(means)
    left = (erased.mean(1) - mean).T @ centred / len(means)
    assert left.abs().max() < 1e-12 < 0.01 < cross.abs().max()
    # Theorem 4.3's map, by pseudo-inverses of the symmetric roots
    values, axes = torch.linalg.eigh(covariance)
    white, plain = (axes * values**power @ axes.T for power in (-0.5, 0.5))
    seen = white @ cross
    project = seen @ torch.linalg.pinv(seen)
    expected = frames - (frames - mean) @ (plain @ project @ white).T
    torch.testing.assert_close(erased, expected, rtol=0, atol=1e-10)


def test_the_first_directions_take_most(told):
    frames, embeddings = told
    _, covariance, means, _ = evidence(*told)
    values = what_is_told(covariance, means, embeddings)
    assert values[0] > values[1] > values[2] > 0.1
    for directions in (1, 2, 3):
        erasure = Erasure(8, directions).double().fit(*evidence(*told))
        left = what_is_told(covariance, erasure(frames).mean(1), embeddings)
        torch.testing.assert_close(left.square().sum(), values[directions:].square().sum())
        assert torch.linalg.matrix_rank(erasure(frames)[0] - frames[0]) == directions


def test_nothing_is_taken_off_before_and_no_more_than_embeddings_have_directions(told):
    frames, embeddings = told
    erasure = Erasure(8, 7).double()
    assert torch.equal(erasure(frames), frames)
    erasure.fit(*evidence(frames, embeddings[:, :2]))
    assert torch.linalg.matrix_rank(erasure(frames)[0] - frames[0]) == 2


def test_directions_that_do_not_vary_and_few_utterances_are_no_trouble(told):
    frames, embeddings = told
    frames = torch.cat([frames, frames[..., :2], torch.ones(300, 40, 1)], dim=2)[:4]
    erasure = Erasure(11, 5).double().fit(*evidence(frames, embeddings[:4]))
    assert torch.isfinite(erasure(frames)).all()
    assert torch.linalg.matrix_rank(erasure(frames)[0] - frames[0]) == 3


def test_it_is_as_exact_under_autocast(told):
    frames = told[0].float()
    erasure = Erasure(8, 3).fit(*evidence(*told))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(erasure(frames), erasure(frames.float()))
        assert erasure(frames.bfloat16()).dtype == torch.float32
