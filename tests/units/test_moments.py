"""Moments for the last step: by any number of ranks they are those of a plain computation."""

from operator import itemgetter

import pytest
import torch
from torch.utils.data import DataLoader

from lobes.utterance_encoder import UtteranceEncoder
from recipes.common.data.crops import SpeechBatch
from recipes.common.units import lines, passes
from recipes.LibriSpeech.pretrain.utterance import embedding_moments
from tests.units.ranks import end_this_process, run_ranks


def batch_of(seed):
    generator = torch.Generator().manual_seed(seed)
    wavs = [torch.randn(n, generator=generator) * 0.1 for n in (4000, 4800 + 160 * seed)]
    return SpeechBatch([{"id": f"{seed} {n}", "sig": wav} for n, wav in enumerate(wavs)])


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return UtteranceEncoder("tdnn", channels=8, embedding_dim=6).eval()


@pytest.fixture
def loader():
    return DataLoader([batch_of(n) for n in range(21)], batch_size=1, collate_fn=itemgetter(0))


def test_moments_are_those_of_the_plain_computation(encoder, loader, tmp_path):
    mean, covariance = embedding_moments(encoder, loader, tmp_path / "moments")
    with torch.no_grad():
        embeddings = torch.cat([encoder(*batch.sig).double() for batch in loader])
    centred = embeddings - embeddings.mean(0)
    slow = centred.T @ centred / len(centred)
    assert (mean - embeddings.mean(0)).abs().max() < 1e-6 * mean.abs().max()
    assert (covariance - slow).abs().max() < 1e-6 * slow.abs().max()
    assert not (tmp_path / "moments").exists()


@pytest.mark.parametrize("utterances", [1000, 7])
def test_directions_of_lines_are_those_of_each_utterance_alone(
    encoder, loader, tmp_path, monkeypatch, utterances
):
    monkeypatch.setattr(lines, "UTTERANCES", utterances)
    found = lines.line_directions(encoder, loader, tmp_path / "moments", 3)
    differences = []
    for batch in list(loader)[:: 1 if utterances == 1000 else 3]:
        for wav, length in zip(*batch.sig, strict=True):
            alone = wav[None, : round(length.item() * len(wav))]
            plain = encoder(alone)
            differences += [encoder(line(alone)) - plain for line in lines.LINES]
    rows = torch.cat(differences).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    assert values[-3] > 1.1 * values[-4]  # so that the first three are told apart from the others
    torch.testing.assert_close(found @ found.T, torch.eye(3).double())
    expected = vectors[:, -3:] @ vectors[:, -3:].T
    torch.testing.assert_close(found.T @ found, expected, atol=1e-3, rtol=0)
    before = (rows @ rows.T).trace()
    encoder.project_out(found)
    left = torch.cat([encoder(line(alone)) - encoder(alone) for line in lines.LINES])
    assert left.square().sum() < rows[-len(lines.LINES) :].square().sum() < before


def write_moments(encoder, loader, folder, path):
    torch.save(embedding_moments(encoder, loader, folder), f"{path}.{passes.rank()}")


def write_moments_of_other_bits(encoder, loader, folder, path):
    """Take moments of an encoder that differs in a bit, as where another machine computed it."""
    if passes.rank():
        with torch.no_grad():
            weight = next(encoder.parameters()).view(-1)[:1]
            weight.copy_(weight.nextafter(torch.tensor(9.0)))
    write_moments(encoder, loader, folder, path)


@pytest.mark.long
def test_ranks_need_not_agree_in_the_last_bit(encoder, loader, tmp_path):
    given = encoder, loader, tmp_path / "moments", tmp_path / "found"
    assert not run_ranks(2, tmp_path / "log", write_moments_of_other_bits, *given)
    first, second = (torch.load(tmp_path / f"found.{rank}") for rank in range(2))
    assert all(map(torch.equal, first, second))


def be_killed(count, encoder, loader, folder, path):
    """Take moments, but be killed before the rank's own part of some number."""
    given, plain = [], passes.save

    def save(part):
        given.append(part)
        if len(given) > count:
            end_this_process()
        return plain(part)

    passes.save = save
    write_moments(encoder, loader, folder, path)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 3])
def test_moments_by_interrupted_ranks_are_those_of_one_process(ranks, encoder, loader, tmp_path):
    expected = embedding_moments(encoder, loader, tmp_path / "moments")
    given = encoder, loader, tmp_path / "moments", tmp_path / "found"
    assert run_ranks(5 - ranks, tmp_path / "log", be_killed, 2, *given)
    assert not run_ranks(ranks, tmp_path / "log", write_moments, *given)
    for rank in range(ranks):
        found = torch.load(tmp_path / f"found.{rank}")
        assert all(map(torch.equal, found, expected))
