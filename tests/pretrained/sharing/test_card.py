"""The model card: what a folder is, how to load it, its figures."""

import pytest

from pretrained.exported import load_folder, load_model
from pretrained.sharing.card import write_card
from tests.pretrained.exports import RUN


def test_the_model_card(folder):
    figures = {"test": {"loss": 1.23456789}, "parameters": {"frame_encoder": 1234}}
    metrics = {"figures": figures, "seed": 77, "data": "abc|def", "versions": {"torch": "2.1"}}
    write_card(folder, metrics, RUN)
    text = (folder / "README.md").read_text()
    for row in (
        "| test.loss | 1.23457 |",
        "| parameters.frame_encoder | 1234 |",
        "| seed | 77 |",
        "| data | abc\\|def |",
        "| versions.torch | 2.1 |",
        "| frame_encoder.d_model | 32 |",
        "| train-clean-100 | 100.59 | 28539 | 251 |",
        "| dev-clean | 5.39 | 2703 | not known |",
        "| lr | 0.0005 |",
        "| train_splits | ['train-clean-100'] |",
    ):
        assert row in text.splitlines()
    assert "Learn2Diss.from_pretrained" in text and "do not tell" in text
    assert set(load_model(folder)) == {"frame_encoder", "utterance_encoder"}


HEADINGS = """Load
What it is for
What it is not for
Voices and privacy
Data
Training
Figures
Limits
Architecture
Settings"""


def test_a_card_tells_what_for_of_whom_and_how(transcriber_folder, verifier_folder, folder):
    for place in (transcriber_folder, verifier_folder, folder):
        write_card(place, METRICS, RUN)
        text = (place / "README.md").read_text()
        sections = dict(part.split("\n\n", 1) for part in text.split("\n## ")[1:])
        assert "\n".join(sections) == HEADINGS
        assert all(section.strip() for section in sections.values())
        assert "agrees beforehand" in sections["Voices and privacy"]
        assert "Frames still carry some of the speaker" in sections["Voices and privacy"]
        assert "who have not agreed" in sections["What it is not for"]
        assert "recipe of LibriSpeech" in sections["Data"]
        assert sections["Training"].startswith(f"By `{RUN['file']}` of the project.")
        assert "| seed | 7 |" in sections["Training"]
    assert "Frames: features" in text and "Embeddings of utterances: features" in text


def test_a_card_names_the_uses_of_the_encoders_that_are_there(encoders_folder):
    write_card(encoders_folder, METRICS, {**RUN, "file": None})
    text = (encoders_folder / "README.md").read_text()
    assert "Frames: features" in text and "Embeddings of utterances: features" not in text
    assert "By a recipe of the project. The settings" in text


METRICS = {"figures": {"test": {"error": 0.25}}, "seed": 7}


def test_cards_tell_what_a_folder_is(transcriber_folder, verifier_folder, encoders_folder):
    texts = []
    for folder in (transcriber_folder, verifier_folder, encoders_folder):
        write_card(folder, METRICS, RUN)
        texts.append((folder / "README.md").read_text())
        assert "| test.error | 0.25 |" in texts[-1] and "| seed | 7 |" in texts[-1]
        assert "{" not in texts[-1] and "withdrew" in texts[-1]
        load_folder(folder)
    transcriber, verifier, encoders = texts
    assert "\n# Transcriber\n" in transcriber and "Transcriber.from_pretrained" in transcriber
    assert "a CTC head on log-mel bands" in transcriber and "characters" in transcriber
    assert "| ctc_head.num_symbols | 3 |" in transcriber
    assert "\n# Speaker verifier\n" in verifier
    assert "SpeakerVerifier.from_pretrained" in verifier and "embeddings of the utt" in verifier
    assert "the threshold, 0.5." in verifier and "set on: trials of dev-clean." in verifier
    assert "\n# Frame encoder\n" in encoders and "Learn2Diss.from_pretrained" in encoders


def test_the_hub_reads_the_first_lines(transcriber_folder, verifier_folder, encoders_folder):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is an optional package")
    tasks = []
    for folder in (transcriber_folder, verifier_folder, encoders_folder):
        write_card(folder, METRICS, RUN)
        found = hub.metadata_load(folder / "README.md")
        tasks.append(found["pipeline_tag"])
        assert found["library_name"] == "learn2diss" and found["license"] == "unknown"
        assert "speech" in found["tags"] and len(found["tags"]) == 2
    assert tasks == ["automatic-speech-recognition", "audio-classification", "feature-extraction"]
