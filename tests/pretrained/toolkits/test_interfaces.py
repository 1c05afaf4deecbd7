"""Exported models under the names and methods of speechbrain.inference."""

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from lobes.heads import CTCHead, SpeakerHead
from pretrained import Learn2Diss, SpeakerVerifier, Transcriber
from pretrained.__main__ import main
from pretrained.exported import load_folder, save_model
from pretrained.interfaces import (
    EncoderASR,
    Learn2DissInterface,
    SpeakerRecognition,
    WaveformEncoder,
)
from pretrained.tokenizers import SymbolTokenizer
from tests.pretrained.exports import (
    PLAIN,
    frame_encoder,
    modules_of,
    saved,
    seeded,
    tones,
    utterance_encoder,
    written,
)
from tests.pretrained.toolkits.comparing import OFFLINE

BATCH = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(1))
LENS = torch.tensor([1.0, 0.5])


def loaded(cls, folder, out):
    """Export a folder by the command line and load it as SpeechBrain does."""
    command = ["export", str(folder), "--layout", "speechbrain", "--out", str(out)]
    assert main(command) == 0
    savedir = out.parent / f"{out.name}-collected"
    return cls.from_hparams(source=str(out), savedir=str(savedir), **OFFLINE)


def test_frames_are_those_of_our_own_class(recording, tmp_path):
    encoders = {"frame_encoder": frame_encoder(), "utterance_encoder": utterance_encoder()}
    save_model(tmp_path / "model", encoders)
    model = loaded(WaveformEncoder, tmp_path / "model", tmp_path / "out")
    expected = Learn2Diss(encoders)
    for found in (model.encode_batch(BATCH, LENS), model(BATCH, LENS)):
        assert torch.equal(found, expected.encode(BATCH, LENS).frames)
    path = written(tmp_path / "a.flac", recording(1))
    assert torch.equal(model.encode_file(path), expected.encode_file(path).frames)


def test_frames_are_asked_of_a_frame_encoder(tmp_path):
    save_model(tmp_path / "model", {"utterance_encoder": utterance_encoder()})
    with pytest.raises(ValueError, match="holds utterance_encoder, no frame_encoder"):
        loaded(WaveformEncoder, tmp_path / "model", tmp_path / "out")


def test_text_is_that_of_our_own_class(transcriber_folder, tmp_path):
    model = loaded(EncoderASR, transcriber_folder, tmp_path / "out")
    texts = (" AB ", " B")
    files = [written(tmp_path / f"{n}.wav", tones(text)) for n, text in enumerate(texts)]
    assert [model.transcribe_file(path) for path in files] == ["AB", "B"]
    clips = [torch.from_numpy(tones(text)).float() for text in texts]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    assert model.transcribe_batch(batch, torch.tensor([1.0, 0.5])) == (["AB", "B"], [[1, 2], [2]])
    assert model(batch[:1]) == (["AB"], [[1, 2]])


def test_a_transcriber_on_frames_with_strange_symbols(recording, tmp_path):
    symbols = ["NO", "'", "!ref", "<a>", "1", "~", "null", "é", "#", "-x", "0x1F", "1e3"]
    tokenizer = SymbolTokenizer(symbols, "phones")
    modules = {"frame_encoder": frame_encoder()}
    sizes = {"num_layers": 3, "in_dim": 32, "num_symbols": len(tokenizer), "lstm_layers": 1}
    modules["ctc_head"] = seeded(CTCHead, hidden_dim=8, stride=2, **sizes)
    facts = {"features": "frame_encoder", "tokenizer": tokenizer.to_config()}
    folder = saved(tmp_path / "model", modules, facts)
    model = loaded(EncoderASR, folder, tmp_path / "out")
    assert model.transcriber.tokenizer.to_config() == facts["tokenizer"]
    path = written(tmp_path / "a.wav", recording(2))
    expected = Transcriber.from_pretrained(folder)
    assert model.transcribe_file(path) == expected.transcribe_file(path) != ""
    logits, lens = model.encode_batch(BATCH, LENS)
    assert logits.shape == (2, 25, 13) and lens.tolist() == pytest.approx([1.0, 12 / 25])
    alone, _ = model.encode_batch(BATCH[1:, :8000])
    torch.testing.assert_close(logits[1:, :12], alone)


def head_of(features):
    if features == "utterance_encoder":
        return {}
    sizes = {"num_layers": 3, "in_dim": 32} if features == "frame_encoder" else {}
    sizes |= {"hidden_dim": 8, "embedding_dim": 12, "pooling": "xvector"}
    return {"speaker_head": seeded(SpeakerHead, **sizes)}


@pytest.mark.parametrize("features", ["utterance_encoder", "frame_encoder", "fbank"])
def test_scores_and_decisions_are_those_of_our_own_class(features, speech, tmp_path):
    rng = np.random.default_rng(0)
    facts = {**PLAIN, "features": features, "scoring": "standardised", "threshold": 0.25}
    facts["mean"] = rng.normal(0, 0.1, 12).tolist()
    facts["deviation"] = rng.uniform(0.5, 2, 12).tolist()
    folder = saved(tmp_path / "model", modules_of(features, **head_of(features)), facts)
    model = loaded(SpeakerRecognition, folder, tmp_path / "out")
    clips = [speech(1.5, speaker=1), speech(1.0, speaker=2)]
    files = [written(tmp_path / f"{n}.wav", clip, subtype="FLOAT") for n, clip in enumerate(clips)]
    expected = SpeakerVerifier.from_pretrained(folder).verify_files(*files)
    score, same = model.verify_files(*files)
    assert score.shape == same.shape == (1,) and bool(same) == expected.same_speaker
    assert abs(float(score) - expected.score) < 1e-6
    batch = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(clip).float() for clip in clips], batch_first=True
    )
    lens = torch.tensor([1.0, len(clips[1]) / len(clips[0])])
    assert model.encode_batch(batch, lens).shape == (2, 1, 12)
    scores, decisions = model.verify_batch(batch, batch.flip(0), lens, lens.flip(0))
    assert scores.shape == decisions.shape == (2, 1)
    torch.testing.assert_close(scores, torch.full((2, 1), expected.score), atol=1e-5, rtol=0)
    assert decisions.tolist() == [[expected.same_speaker]] * 2
    for change, decided in ((-1e-3, True), (1e-3, False)):
        threshold = expected.score + change
        assert model(batch, batch.flip(0), lens, lens.flip(0), threshold)[1].tolist() == [
            [decided],
            [decided],
        ]


def test_a_verifier_without_any_module(speech, tmp_path):
    facts = {**PLAIN, "features": "fbank_statistics"}
    folder = saved(tmp_path / "model", {}, facts)
    model = loaded(SpeakerRecognition, folder, tmp_path / "out")
    path = written(tmp_path / "a.wav", speech(1))
    score, same = model.verify_files(path, path)
    assert abs(float(score) - 1) < 1e-6 and bool(same)


def test_a_model_of_another_kind_is_refused(transcriber_folder, verifier_folder, folder, tmp_path):
    for cls, model, message in (
        (EncoderASR, verifier_folder, "the model is a verifier, no transcriber"),
        (SpeakerRecognition, transcriber_folder, "the model is a transcriber, no verifier"),
        (EncoderASR, folder, r"Need hparams\['facts'\]"),
        (SpeakerRecognition, folder, r"Need hparams\['facts'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            loaded(cls, model, tmp_path / f"{cls.__name__}-{model.name}")


def test_facts_that_do_not_fit_are_refused(verifier_folder, tmp_path):
    out = tmp_path / "out"
    loaded(SpeakerRecognition, verifier_folder, out)
    text = (out / "hyperparams.yaml").read_text()
    (out / "hyperparams.yaml").write_text(text.replace('"threshold": 0.5', '"threshold": 5.0'))
    with pytest.raises(ValueError, match="hyperparams.yaml: facts.threshold must be a number"):
        SpeakerRecognition.from_hparams(source=str(out), savedir=str(tmp_path / "s"), **OFFLINE)


def test_the_banner_names_the_class(transcriber_folder, verifier_folder, folder, tmp_path):
    classes = (EncoderASR, SpeakerRecognition, Learn2DissInterface)
    for cls, model in zip(classes, (transcriber_folder, verifier_folder, folder), strict=True):
        loaded(cls, model, tmp_path / cls.__name__)
        text = (tmp_path / cls.__name__ / "hyperparams.yaml").read_text()
        assert cls.__name__ in text.splitlines()[1]
        modules, facts = load_folder(model)
        assert load_hyperpyyaml(text).get("facts") == facts
        assert load_hyperpyyaml(text)["modules"].keys() == modules.keys()
