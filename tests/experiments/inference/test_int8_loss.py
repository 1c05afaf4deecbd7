"""What int8_loss.py reports of encoders, of a recogniser and of a verifier."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from lobes.heads import SpeakerHead
from pretrained.exported import save_model
from recipes.experiments.inference import int8_loss
from tests.pretrained.exports import (
    LETTERS_FACTS,
    PLAIN,
    frame_encoder,
    modules_of,
    saved,
    seeded,
    tone_head,
    tones,
    utterance_encoder,
    written,
)

pytestmark = pytest.mark.skipif(
    not (find_spec("onnx") and find_spec("onnxruntime")), reason="the extra onnx is not installed"
)


def figures_of(model, audio, out, *options):
    int8_loss.main([str(model), "--audio", str(audio), "--output_folder", str(out), *options])
    return json.loads((out / "metrics.json").read_text())["figures"]


@pytest.mark.long
def test_cosines_of_encoders(make_voice, tmp_path):
    encoders = {"frame_encoder": frame_encoder(), "utterance_encoder": utterance_encoder()}
    save_model(tmp_path / "model", encoders)
    (tmp_path / "audio").mkdir()
    for speaker in range(2):
        written(tmp_path / "audio" / f"{speaker}.wav", make_voice(speaker, seed=0))
    figures = figures_of(tmp_path / "model", tmp_path / "audio", tmp_path / "out")
    assert 0.9 < figures["frames"]["cosine"]["least"] < figures["frames"]["cosine"]["mean"] < 1
    assert figures["utterance"]["cosine"]["least"] > 0.999
    assert figures["frames"]["bytes"]["int8"] < figures["frames"]["bytes"]["float32"]


def test_the_error_rate_is_of_the_files_that_have_references(tmp_path):
    model = saved(tmp_path / "model", {"ctc_head": tone_head()}, LETTERS_FACTS)
    (tmp_path / "audio").mkdir()
    for name in ("one", "two", "left-out"):
        written(tmp_path / "audio" / f"{name}.wav", tones(" AB "))
    references = tmp_path / "hypotheses.csv"
    references.write_text("ID,reference,greedy\none,AB,B\ntwo,A B,B\n")
    options = ["--references", str(references)]
    figures = figures_of(model, tmp_path / "audio", tmp_path / "out", *options)
    assert figures["logits"]["files"] == 2
    assert figures["logits"]["error_rate"]["float32"] == 2 / 3  # "AB" for "A B": two edits of three
    with pytest.raises(SystemExit, match="--references"):
        figures_of(model, tmp_path / "audio", tmp_path / "other")


@pytest.mark.long
def test_the_eer_is_of_the_trials(make_voice, tmp_path):
    head = seeded(SpeakerHead, 3, 32, hidden_dim=8)
    modules = modules_of("frame_encoder", speaker_head=head)
    model = saved(tmp_path / "model", modules, {"features": "frame_encoder", **PLAIN})
    samples = {"id1/a/1.wav": 1, "id1/b/2.wav": 1, "id2/a/1.wav": 2, "id3/a/1.wav": 3}
    for path, voice in samples.items():
        (tmp_path / "wav" / path).parent.mkdir(parents=True)
        written(tmp_path / "wav" / path, make_voice(voice, seed=0))
    lines = ["1 id1/a/1.wav id1/b/2.wav", "0 id1/a/1.wav id2/a/1.wav", "0 id1/b/2.wav id3/a/1.wav"]
    (tmp_path / "trials.txt").write_text("\n".join(lines))
    options = ["--trials", str(tmp_path / "trials.txt")]
    figures = figures_of(model, tmp_path / "wav", tmp_path / "out", *options)
    # The files of the one speaker are the same, so that its trial scores highest.
    assert figures["embedding"]["trials"] == 3
    assert figures["embedding"]["eer"] == {"float32": 0.0, "int8": 0.0}
    opposite = [f"{1 - int(line[0])}{line[1:]}" for line in lines]
    (tmp_path / "trials.txt").write_text("\n".join(opposite))
    figures = figures_of(model, tmp_path / "wav", tmp_path / "worse", *options)
    assert figures["embedding"]["eer"] == {"float32": 1.0, "int8": 1.0}


def test_the_cosine_is_of_each_frame():
    exact, rounded = np.array([[[1.0, 0.0], [0.0, 2.0]]]), np.array([[[1.0, 1.0], [0.0, -1.0]]])
    assert int8_loss.cosines_of([exact], [rounded]) == pytest.approx([0.5**0.5, -1.0])
