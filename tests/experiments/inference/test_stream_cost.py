"""What a stream's delay costs: streamed states, their distance, and the command."""

import json

import pytest
import soundfile
import torch

from lobes.heads import CTCHead
from lobes.states import FrameStates
from pretrained import Learn2Diss, Transcriber
from pretrained.exported import load_folder
from pretrained.tokenizers import SymbolTokenizer
from recipes.experiments.inference import stream_cost
from tests.pretrained.exports import frame_encoder, saved, seeded, utterance_encoder


@pytest.fixture
def recordings(librispeech):
    return stream_cost.join_chapters(librispeech, "test-clean", most=2)


def test_recordings_are_chapters_up_to_30_s(librispeech, monkeypatch):
    recordings = stream_cost.join_chapters(librispeech, "test-clean", most=100)
    assert len(recordings) == 6 and {len(words.split()) for _, words in recordings} == {6}
    folder = sorted((librispeech / "test-clean").glob("*/*"))[0]
    lengths = [soundfile.info(path).frames for path in sorted(folder.glob("*.flac"))]
    assert len(recordings[0][0]) == sum(lengths)
    monkeypatch.setattr(stream_cost, "SHORTEST", 3 * max(lengths))
    assert stream_cost.join_chapters(librispeech, "test-clean", most=100) == []
    monkeypatch.setattr(stream_cost, "SHORTEST", 0)
    monkeypatch.setattr(stream_cost, "WINDOW", lengths[0] + lengths[2])
    short = stream_cost.join_chapters(librispeech, "test-clean", most=1)
    fits = lengths[1] <= lengths[2]
    assert len(short[0][0]) == lengths[0] + (lengths[1] if fits else lengths[2])
    assert len(short[0][1].split()) == 4


def test_states_are_those_of_the_stream(recordings):
    encoder, (samples, _) = frame_encoder(), recordings[0]
    found = stream_cost.streamed_states(FrameStates(encoder), samples, 0.64)
    steps = Learn2Diss({"frame_encoder": encoder}).stream([samples], look_ahead=0.64)
    assert torch.equal(found[:, :, -1], torch.cat([step.frames for step in steps], dim=1))


def test_distances_have_their_closed_forms():
    whole = torch.randn(1, 150, 4, generator=torch.Generator().manual_seed(0))
    whole[:, :100] -= whole[:, :100].mean(1, keepdim=True)
    whole[:, 100:] -= whole[:, 100:].mean(1, keepdim=True)
    found = torch.cat([-whole[:, :100], 1.5 * whole[:, 100:]], dim=1)
    figures = stream_cost.distances(found, whole)
    assert figures["first_2_s"] == pytest.approx({"cosine": 2.0, "relative": 2.0}, abs=1e-5)
    assert figures["later"] == pytest.approx({"cosine": 0.0, "relative": 0.5}, abs=1e-5)


@pytest.mark.long
def test_the_command_measures_each_look_ahead(librispeech, tmp_path):
    tokenizer = SymbolTokenizer(["W", "AH", "N", "T"], "phones")
    head = seeded(CTCHead, 3, 32, len(tokenizer), hidden_dim=8)
    modules = {"frame_encoder": frame_encoder(), "ctc_head": head}
    facts = {"features": "frame_encoder", "tokenizer": tokenizer.to_config()}
    folder = saved(tmp_path / "model", modules, facts)
    lexicon = tmp_path / "lexicon.txt"
    words = ("ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX")
    lexicon.write_text("".join(f"{word} W AH N T\n" for word in words))
    command = ["--data_folder", str(librispeech), "--recordings", "1", "--output_folder"]
    assert (
        stream_cost.main(
            [*command, str(tmp_path / "o"), "--model", str(folder), "--lexicon", str(lexicon)]
        )
        == 0
    )
    figures = json.loads((tmp_path / "o" / "metrics.json").read_text())["figures"]
    rows = figures["rows"]
    assert [row["look_ahead"] for row in rows] == [0.16, 0.32, 0.64, 1.0, 2.0]
    assert rows[-1]["later"]["relative"] < rows[0]["later"]["relative"]
    assert figures["recordings"] == 1 and figures["whole_per"] > 0.5
    assert all(row["per"] > 0.5 and "utterance_cosine" not in row for row in rows)
    both = {"frame_encoder": frame_encoder(), "utterance_encoder": utterance_encoder()}
    plain = saved(tmp_path / "plain", both, None)
    assert stream_cost.main([*command, str(tmp_path / "p"), "--model", str(plain)]) == 0
    [row, *_] = json.loads((tmp_path / "p" / "metrics.json").read_text())["figures"]["rows"]
    assert "per" not in row and abs(row["utterance_cosine"]) < 1e-5  # shorter than the context
    with pytest.raises(SystemExit):
        stream_cost.main([*command, "x", "--model", str(plain), "--lexicon", str(lexicon)])


def test_whole_recordings_are_read_as_the_transcriber_reads_them(recordings, tmp_path):
    tokenizer = SymbolTokenizer(["W", "AH"], "phones")
    head = seeded(CTCHead, 3, 32, len(tokenizer), hidden_dim=8)
    facts = {"features": "frame_encoder", "tokenizer": tokenizer.to_config()}
    modules = {"frame_encoder": frame_encoder(), "ctc_head": head}
    transcriber = Transcriber(*load_folder(saved(tmp_path / "model", modules, facts)))
    samples, _ = recordings[0]
    soundfile.write(tmp_path / "a.wav", samples.numpy(), 16000, subtype="FLOAT")
    text = transcriber.transcribe_file(tmp_path / "a.wav")
    assert text
    with torch.no_grad():
        states = FrameStates(modules["frame_encoder"])(samples[None])[0]
    reader = stream_cost.Reader(transcriber, {"SAME": text.split(), "NONE": ["ZH"]})
    assert reader.error_rate([states, states], [(samples, "SAME"), (samples, "UNKNOWN")]) == 0.0
    assert reader.error_rate([states], [(samples, "NONE")]) == len(text.split())
