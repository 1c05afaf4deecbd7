"""Verifying speakers: scores, decisions, and files longer than a window."""

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from lobes.heads import SpeakerHead
from lobes.states import FbankStates, UtteranceStates
from lobes.tdnn import MaskedBatchNorm1d
from pretrained import SpeakerVerifier, Transcriber
from pretrained.audio import AudioError
from pretrained.exported import load_folder
from pretrained.file_states import make_states
from pretrained.tasks.verifier import long_xvector
from recipes.common.evaluation.scoring import SCORINGS, change_embeddings, score_trials
from tests.pretrained.exports import (
    PLAIN,
    RATE,
    modules_of,
    saved,
    seeded,
    utterance_encoder,
    written,
)


@pytest.fixture(scope="module")
def voices(speech):
    """Return 1.5 s of each of six voices, (6, samples)."""
    return torch.from_numpy(np.stack([speech(1.5, speaker=number) for number in range(6)]))


def speaker_head(states, wavs, pooling):
    """Return a head whose batch norms have the statistics of these states."""
    head = seeded(SpeakerHead, states.num_layers, states.dim, 10, pooling, embedding_dim=9)
    for module in head.modules():
        if isinstance(module, MaskedBatchNorm1d):
            module.momentum = 1.0
    with torch.no_grad():
        head.train()(*states(wavs))
    return head.eval()


@pytest.mark.parametrize(
    "features", ["utterance_encoder", "frame_encoder", "fbank", "fbank_statistics"]
)
def test_a_file_and_itself_score_1(features, voices, tmp_path):
    modules = modules_of(features)
    if features in ("frame_encoder", "fbank"):
        modules["speaker_head"] = speaker_head(make_states(features, modules), voices, "xvector")
    folder = saved(tmp_path / "model", modules, {"features": features, **PLAIN})
    verifier = SpeakerVerifier.from_pretrained(folder)
    a, b = (written(tmp_path / f"{n}.wav", voices[n]) for n in (1, 2))
    same = verifier.verify_files(a, a)
    assert same.score == pytest.approx(1.0, abs=1e-12) and same.score <= 1
    assert same.same_speaker is True
    assert (same.threshold, same.set_on) == (0.5, "trials of dev-clean")
    assert verifier.verify_files(a, b).score < 0.9999
    assert verifier.verify_files(a, b).score == verifier.verify_files(b, a).score


@pytest.mark.parametrize("scoring", ["plain", "centred", "standardised"])
@pytest.mark.parametrize("pooling", [None, "mean", "xvector"])
def test_scores_are_those_of_the_recipe(scoring, pooling, voices, tmp_path):
    modules, head = modules_of("utterance_encoder"), None
    states = UtteranceStates(modules["utterance_encoder"])
    if pooling is not None:
        head = modules["speaker_head"] = speaker_head(states, voices, pooling)
    with torch.no_grad():
        found = [states(voice[None]) for voice in voices]  # in a batch they would round apart
        rows = [head(*each)[0] if head else each[0][0, 0, 0] for each in found]
    embeddings = {name: row.numpy() for name, row in zip("abcdef", rows, strict=True)}
    for name, wav in zip("ab", voices, strict=False):
        written(tmp_path / f"{name}.wav", wav, subtype="FLOAT")
    reference = {name: embeddings[name] for name in "cdef"}
    values = np.stack(list(reference.values()))
    known = {"mean": values.mean(0).tolist(), "deviation": values.std(0).tolist()}
    expected = score_trials(change_embeddings(embeddings, reference, scoring), [(1, "a", "b")])[0]
    count = SCORINGS.index(scoring)
    facts = {"features": "utterance_encoder", **PLAIN, "scoring": scoring}
    facts |= dict(list(known.items())[:count])
    verifier = SpeakerVerifier.from_pretrained(saved(tmp_path / "model", modules, facts))
    score = verifier.verify_files(tmp_path / "a.wav", tmp_path / "b.wav").score
    assert score == pytest.approx(expected, abs=1e-5) and expected < 0.999


def test_the_decision_is_by_the_threshold(verifier_folder, speech, tmp_path):
    a, b = (written(tmp_path / f"{n}.wav", speech(1.5, speaker=n)) for n in (1, 2))
    modules, facts = load_folder(verifier_folder)
    score = SpeakerVerifier(modules, facts).verify_files(a, b).score
    for threshold, same in ((score - 1e-6, True), (score, True), (score + 1e-6, False)):
        verifier = SpeakerVerifier(modules, {**facts, "threshold": threshold})
        assert verifier.verify_files(a, b).same_speaker is same


def test_other_weights_give_another_score(verifier_folder, speech, tmp_path):
    a, b = (written(tmp_path / f"{n}.wav", speech(1.5, speaker=n)) for n in (1, 2))
    modules, facts = load_folder(verifier_folder)
    score = SpeakerVerifier(modules, facts).verify_files(a, b).score
    other = {"utterance_encoder": utterance_encoder(seed=1)}
    assert abs(SpeakerVerifier(other, facts).verify_files(a, b).score - score) > 1e-3


def test_a_stereo_mp3_of_8_khz_is_near_its_original(speech, tmp_path):
    verifier = SpeakerVerifier({}, {"features": "fbank_statistics", **PLAIN})
    voice = speech(4)[::2]
    original = written(tmp_path / "a.wav", resample_poly(voice, 2, 1))
    mp3 = written(tmp_path / "a.mp3", np.stack([voice, 0.5 * voice], axis=1), 8000)
    too_fast = written(tmp_path / "b.wav", voice)
    near = verifier.verify_files(original, mp3).score
    assert near > 0.9
    assert near > verifier.verify_files(original, too_fast).score + 0.05


def test_an_embedding_without_direction_is_named(speech, tmp_path):
    modules = modules_of("utterance_encoder", speaker_head=SpeakerHead(1, 12, 4))
    for parameter in modules["speaker_head"].parameters():
        parameter.data.zero_()
    verifier = SpeakerVerifier(modules, {"features": "utterance_encoder", **PLAIN})
    path = written(tmp_path / "a.wav", speech(1))
    with pytest.raises(ValueError, match=f"{path}: its embedding has length 0.0"):
        verifier.verify_files(path, path)


def test_the_x_vector_of_a_long_file_is_that_of_the_whole():
    head = seeded(SpeakerHead, 3, 8, 8, pooling="xvector", embedding_dim=6)
    states = torch.randn(1, 3701, 3, 8, generator=torch.Generator().manual_seed(0)).cumsum(1) / 30
    with torch.no_grad():
        whole = head(states, torch.tensor([3701]))
        part = head(states[:, :2000], torch.tensor([2000]))
        found = long_xvector(head, head.weighted_sum(states))
    assert torch.allclose(found, whole, atol=1e-5) and not torch.allclose(part, whole, atol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("pooling", ["mean", "xvector"])
def test_a_long_file_has_the_embedding_of_the_whole(pooling, speech, voices, tmp_path):
    states = FbankStates()
    head = speaker_head(states, voices, pooling)
    samples = np.concatenate([speech(25), speech(20, speaker=2)])
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    with torch.no_grad():
        whole = head(*states(torch.from_numpy(samples)[None]))[0].numpy()
        part = head(*states(torch.from_numpy(samples[: 30 * RATE])[None]))[0].numpy()
    verifier = SpeakerVerifier({"speaker_head": head}, {"features": "fbank", **PLAIN})
    assert np.abs(verifier.embed_file(path) - whole).max() < 1e-4 < np.abs(part - whole).max()


def test_the_shortest_files(transcriber_folder, verifier_folder, speech, tmp_path):
    transcriber = Transcriber.from_pretrained(transcriber_folder)
    verifier = SpeakerVerifier.from_pretrained(verifier_folder)
    for seconds in (0.025, 0.1):
        path = written(tmp_path / f"{seconds}.wav", speech(1)[: int(seconds * RATE)])
        assert transcriber.transcribe_file(path) in ("", "A", "B")
        assert verifier.verify_files(path, path).same_speaker
    short = written(tmp_path / "short.wav", speech(0.02))
    for use in (transcriber.transcribe_file, lambda path: verifier.verify_files(path, path)):
        with pytest.raises(AudioError, match=f"{short} is too short: 0.0200 s"):
            use(short)
        with pytest.raises(FileNotFoundError, match="none.wav is not a file"):
            use(tmp_path / "none.wav")
