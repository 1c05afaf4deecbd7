"""Closed forms: against other libraries and slow versions, and on data whose answer is known."""

import numpy as np
import pytest
import torch

from lobes.closed_forms.erasure import Erasure, directions_of_share, speaker_means
from lobes.closed_forms.least_squares import LeastSquares
from lobes.frame_encoder import FRAME_NORMS, FrameNorm

DIM, SPEAKERS, EACH = 8, 30, 10
ENCODER = {"backbone": "tdnn", "channels": 8, "embedding_dim": 6}


class Corpus:
    """Utterances of unequal length: the speaker in three directions, phones in three others."""

    def __init__(self):
        rng = np.random.default_rng(0)
        axes = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
        self.voices, self.phone_axes = rng.normal(size=(SPEAKERS, 3)), axes[3:6]
        self.names = [f"s{n:02d}" for n in range(SPEAKERS) for _ in range(EACH)]
        speakers = np.arange(SPEAKERS).repeat(EACH)
        self.frames, self.phones = [], []
        for speaker in speakers:
            phones = rng.integers(3, size=rng.integers(60, 120))
            offset = self.voices[speaker] @ axes[:3] + 5.0
            noise = 0.1 * rng.normal(size=(len(phones), DIM))
            self.frames.append(np.eye(3)[phones] @ self.phone_axes + offset + noise)
            self.phones.append(phones)
        mix = np.random.default_rng(1).normal(size=(3, 6))
        self.embeddings = self.voices[speakers] @ mix + 0.01 * rng.normal(size=(len(speakers), 6))
        self.means = torch.tensor(np.stack([x.mean(0) for x in self.frames]))
        self.lens = torch.tensor([len(x) for x in self.frames])
        self.moments = np.concatenate(self.frames).mean(0), np.cov(np.concatenate(self.frames).T)


@pytest.fixture(scope="module")
def corpus():
    return Corpus()


def told(means, names):
    """Return the share of the variance of utterances' means that is between speakers."""
    means, names = np.asarray(means), np.array(names)
    own = np.stack([means[names == name].mean(0) for name in names])
    return own.var(0).sum() / means.var(0).sum()


# ---- Each utterance's mean and deviation


def test_instance_normalisation_is_that_of_torch():
    x = torch.randn(3, 40, DIM) * 3 + 2
    expected = torch.nn.InstanceNorm1d(DIM)(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(FrameNorm("mean_std")(x), expected)
    torch.testing.assert_close(FrameNorm("mean")(x), x - x.mean(1, keepdim=True))


@pytest.mark.parametrize("kind", FRAME_NORMS[1:])
def test_a_row_does_not_depend_on_what_it_is_batched_with(kind):
    rows = [torch.randn(n, DIM) + n for n in (1, 2, 17, 40)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1e4)
    valid = torch.arange(40) < torch.tensor([len(row) for row in rows])[:, None]
    norm = FrameNorm(kind)
    found = norm(padded, valid)
    assert torch.isfinite(found).all()
    for row, own in zip(rows, found, strict=True):
        torch.testing.assert_close(own[: len(row)], norm(row[None])[0], atol=1e-4, rtol=1e-4)
    assert not found[0, 0].any()  # of one frame nothing is left


def test_taking_means_off_twice_is_taking_them_off_once():
    x = torch.randn(2, 50, DIM) + 7
    for kind, tolerance in (("mean", 1e-5), ("mean_std", 1e-3)):  # 1e-5 of variance is added
        once = FrameNorm(kind)(x)
        torch.testing.assert_close(FrameNorm(kind)(once), once, atol=tolerance, rtol=0)


def test_half_precision_is_normalised_in_full_and_has_a_gradient():
    x = (torch.randn(2, 50, DIM) + 100).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = FrameNorm("mean_std")(x)
    assert y.dtype == torch.float32 and abs(y.mean(1)).max() < 1e-4
    y.square().mul(torch.arange(50.0)[:, None]).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.any()


def test_another_norm_is_refused():
    with pytest.raises(ValueError, match="frame_norm must be one of none, mean, mean_std, not 'x'"):
        FrameNorm("x")


# ---- Principal directions of speakers' means


def test_collapsing_projects_on_what_numpy_finds_orthogonal(corpus):
    frames, names = corpus.frames, np.array(corpus.names)
    centres = [
        np.concatenate([x for x, name in zip(frames, names, strict=True) if name == one]).mean(0)
        for one in sorted(set(names))
    ]
    _, _, axes = np.linalg.svd(np.array(centres) - np.mean(centres, axis=0))
    means = speaker_means(corpus.means, corpus.lens, corpus.names)
    np.testing.assert_allclose(means, centres, atol=1e-12)
    erasure = Erasure(DIM, 2).double().collapse(means)
    rest = np.concatenate(frames) - np.mean(centres, axis=0)
    expected = np.concatenate(frames) - rest @ axes[:2].T @ axes[:2]
    found = erasure(torch.tensor(np.concatenate(frames)))
    np.testing.assert_allclose(found, expected, atol=1e-10)
    torch.testing.assert_close(erasure(found), found)  # once is enough


def test_collapsing_takes_the_speaker_and_spares_the_phones(corpus):
    means = speaker_means(corpus.means, corpus.lens, corpus.names)
    count = directions_of_share(means, 0.95)
    assert count == 3
    erasure = Erasure(DIM, count).double().collapse(means)
    assert told(corpus.means, corpus.names) > 0.95
    assert told(erasure(corpus.means), corpus.names) < 0.2  # chance: 1 of 10 utterances
    kept = erasure(torch.tensor(corpus.phone_axes)) - erasure(torch.zeros(DIM).double())
    assert (kept.norm(dim=1) > 0.99).all()


def test_means_of_n_speakers_have_n_less_1_directions():
    erasure = Erasure(DIM, DIM).collapse(torch.randn(3, DIM))
    assert torch.linalg.matrix_rank(erasure.down) == 2
    assert directions_of_share(torch.randn(3, DIM), 1.0) == 2


# ---- Least squares on the embedding


@pytest.mark.parametrize("components", [2, 6])
def test_least_squares_are_those_of_numpy_over_all_frames(corpus, components):
    centred = corpus.embeddings - corpus.embeddings.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:components]
    inputs = np.repeat(centred @ axes.T, corpus.lens, axis=0)
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    frames = np.concatenate(corpus.frames)
    expected = frames - inputs @ np.linalg.lstsq(inputs, frames, rcond=None)[0]
    fitted = LeastSquares(DIM, ENCODER).double()
    fitted.fit(corpus.means, corpus.lens, torch.tensor(corpus.embeddings), components)
    explained = fitted.explained(torch.tensor(corpus.embeddings)).repeat_interleave(corpus.lens, 0)
    np.testing.assert_allclose(torch.tensor(frames) - explained, expected, atol=1e-8)


def test_least_squares_take_the_speaker_where_embeddings_are_the_utterances_own(corpus):
    """The control: embeddings of other utterances leave the speaker where it was."""
    given = torch.tensor(corpus.embeddings)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(given)))
    left = []
    for embeddings in (given, given[order]):
        fitted = LeastSquares(DIM, ENCODER).double()
        fitted.fit(corpus.means, corpus.lens, embeddings, components=3)
        left.append(told(corpus.means - fitted.explained(embeddings), corpus.names))
    assert left[0] < 0.2 and left[1] > 0.9


def test_a_random_direction_of_an_embedding_does_not_erase_the_speaker(corpus):
    rng = np.random.default_rng(3)
    mean, covariance = map(torch.tensor, corpus.moments)
    left = []
    for embeddings in (corpus.embeddings, rng.normal(size=(len(corpus.embeddings), 1))):
        erasure = Erasure(DIM, 6).double()
        erasure.fit(mean, covariance, corpus.means, torch.tensor(embeddings))
        left.append(told(erasure(corpus.means), corpus.names))
    assert left[0] < 0.2 and left[1] > 0.9


def test_the_encoder_of_least_squares_stays_in_evaluation():
    fitted = LeastSquares(DIM, ENCODER).train()
    assert not any(module.training for module in fitted.modules())
    x, wavs = torch.randn(2, 24, DIM), torch.randn(2, 8000)
    assert torch.equal(fitted(x, wavs), x)  # nothing before the fit
