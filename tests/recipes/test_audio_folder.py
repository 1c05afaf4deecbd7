"""A folder of any audio: what is found, how it is split, and a stage on it by its own command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pretrained.audio import read_speech
from recipes.AudioFolder.audio_folder_prepare import list_audio, prepare_audio_folder
from recipes.common.corpora import scanning
from recipes.common.corpora.preparation import BadAudioError, utterance_id
from recipes.common.data.files import CorpusError
from recipes.common.data.manifest import validate_manifests
from recipes.common.data.table import read_manifest

PRETRAIN = Path(__file__).parents[2] / "recipes" / "AudioFolder" / "pretrain"
SPLITS = ["train", "valid", "test"]
FORMATS = (
    {"file": "a.flac", "samplerate": 16000},
    {"file": "b c.WAV", "samplerate": 44100},  # in stereo
    {"file": "d.mp3", "samplerate": 22050},
    {"file": "é.opus", "samplerate": 48000, "format": "OGG", "subtype": "OPUS"},
    {"file": "deep/down/a.aiff", "samplerate": 8000},
)
BAD = {"Ann": "corrupt.flac", "Bo": "text.wav"}


@pytest.fixture
def folder(tmp_path, make_voice):
    """Files of five kinds of each of six speakers, one corrupt, one that is text, and notes."""
    root = tmp_path / "corpus"
    for number, speaker in enumerate(("Ann", "Bo", "Cy", "Di", "Ed", "Flo")):
        for seed, settings in enumerate(FORMATS):
            path = root / speaker / settings["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            audio = np.tile(make_voice(number, seed), round(settings["samplerate"] / 16000) or 1)
            if settings["samplerate"] == 44100:
                audio = np.stack([audio, audio[::-1]], axis=1)
            soundfile.write(data=audio, **{**settings, "file": path})
    content = bytearray((root / "Ann" / "a.flac").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    (root / "Ann" / BAD["Ann"]).write_bytes(content)
    (root / "Bo" / BAD["Bo"]).write_text("no audio\n" * 9)
    (root / "notes.txt").write_text("of the recordings")
    return root


def prepare(folder, **options):
    out = folder.parent / "manifest"
    prepare_audio_folder(folder, out, SPLITS, num_workers=1, **options)
    return {split: read_manifest(out / f"{split}.csv") for split in SPLITS}


def test_all_bad_files_are_listed_before_anything_is_written(folder):
    with pytest.raises(BadAudioError, match="2 audio file") as error:
        prepare(folder)
    assert all(str(folder / speaker / name) in str(error.value) for speaker, name in BAD.items())
    assert not (folder.parent / "manifest").exists()


def test_what_is_left_is_split_and_counted_where_asked(folder):
    rows = prepare(folder, skip_bad=True)
    assert sum(map(len, rows.values())) == 30 and min(map(len, rows.values())) >= 1
    markers = [json.loads((folder.parent / "manifest" / f"{s}.json").read_text()) for s in SPLITS]
    assert sum(marker["left_out"] for marker in markers) == 2
    names = {row["ID"] for split in rows.values() for row in split}
    assert {"Ann+a.flac", "Ann+b%20c.WAV", "Di+%C3%A9.opus", "Di+deep+down+a.aiff"} < names
    for row in (row for split in rows.values() for row in split):
        assert row["spk_id"] == row["ID"]
        path = folder / row["wav"].removeprefix("$data_root/")
        assert round(row["duration"] * 16000) == len(read_speech(path))


def test_a_folder_is_a_speaker_where_asked(folder):
    rows = prepare(folder, skip_bad=True, speakers_from_folders=True)
    speakers = [{row["spk_id"] for row in rows[split]} for split in SPLITS]
    assert list(map(len, speakers)) == [4, 1, 1]
    assert set.union(*speakers) == {"Ann", "Bo", "Cy", "Di", "Ed", "Flo"}
    paths = {split: folder.parent / "manifest" / f"{split}.csv" for split in SPLITS}
    validate_manifests(paths, folder, {split: [split] for split in SPLITS})
    soundfile.write(folder / "stray.wav", np.sin(np.arange(16000)), 16000)
    with pytest.raises(CorpusError, match="stray.wav is in no speaker's folder"):
        prepare(folder, skip_bad=True, speakers_from_folders=True)


def test_names_that_look_alike_have_their_own_ids():
    places = ("a/b.wav", "a+b.wav", "a b.wav", "a_b.wav", "a%20b.wav", "a/b.flac", "A/b.wav")
    names = [utterance_id(Path(place)) for place in places]
    assert len(set(names)) == len(places)
    assert all(not set(name) & set("/ ,$\n") for name in names)


def test_a_folder_without_audio_says_what_is_looked_for(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.m4a").write_text("")
    with pytest.raises(CorpusError, match=r"no audio: expected .*\.flac.*\*\.m4a \(1\)"):
        prepare(tmp_path / "corpus")


def test_too_few_files_are_refused(tmp_path):
    (tmp_path / "corpus").mkdir()
    for number in range(5):
        audio = np.sin(np.arange(16000) / (number + 2))
        soundfile.write(tmp_path / "corpus" / f"{number}.wav", audio, 16000)
    with pytest.raises(CorpusError, match="5 utterance.* too few"):
        prepare(tmp_path / "corpus")


@pytest.fixture
def long_folder(folder, make_voice):
    """The folder without its bad files, and a recording of 67 s, silent from 15 s to 30 s."""
    for speaker, name in BAD.items():
        (folder / speaker / name).unlink()
    audio = np.resize(np.concatenate([make_voice(7, seed) for seed in range(9)]), 67 * 22050)
    audio[15 * 22050 : 30 * 22050] = 0
    (folder / "Gil").mkdir()
    soundfile.write(folder / "Gil" / "a.flac", audio, 22050)
    return folder


def test_a_long_recording_is_an_utterance_for_each_piece(long_folder):
    rows = [row for split in prepare(long_folder).values() for row in split]
    pieces = {row["wav"]: row for row in rows if "Gil" in row["ID"]}
    wavs = [f"$data_root/Gil/a.flac#t={at}" for at in ("0,15", "30,45", "45")]
    assert sorted(pieces) == wavs and len(rows) == 33
    assert [pieces[wav]["duration"] for wav in wavs] == [15, 15, 22]
    assert {row["spk_id"] for row in pieces.values()} == {"Gil+a.flac"}
    assert len({row["ID"] for row in rows}) == 33
    whole = read_speech(long_folder / "Gil" / "a.flac")
    piece = read_speech(str(long_folder / "Gil" / "a.flac#t=30,45"))
    assert len(piece) == 240000
    np.testing.assert_allclose(piece[300:-300], whole[480300:719700], atol=1e-5)


def test_the_last_piece_counts_as_silent_only_with_what_is_behind_it(long_folder, monkeypatch):
    loud = 0.1 * np.sin(np.arange(15 * 16000))
    audio = [loud, 0 * loud, 0.1 * loud[:160000]]
    soundfile.write(long_folder / "Gil" / "a.flac", np.concatenate(audio), 16000)
    rows = [row for split in prepare(long_folder).values() for row in split]
    assert {row["duration"] for row in rows if "Gil" in row["ID"]} == {15, 25}
    audio[2] *= 0
    soundfile.write(long_folder / "Gil" / "a.flac", np.concatenate(audio), 16000)
    rows = [row for split in prepare(long_folder).values() for row in split]
    assert [row["duration"] for row in rows if "Gil" in row["ID"]] == [15]


def test_what_the_cache_knows_has_the_same_pieces(long_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(scanning, "LARGE", 1)
    before = prepare(long_folder)
    shutil.rmtree(long_folder.parent / "manifest")
    monkeypatch.setattr(scanning, "check_pieces", lambda *_, **__: pytest.fail("decoded anew"))
    assert prepare(long_folder) == before


def test_no_file_counts_as_left_out_for_its_pieces(long_folder):
    prepare(long_folder, skip_bad=True)
    markers = [json.loads((long_folder.parent / f"manifest/{s}.json").read_text()) for s in SPLITS]
    assert [marker["left_out"] for marker in markers] == [0, 0, 0]


def test_pieces_are_in_one_split_and_read_from_the_recording_alone(long_folder):
    rows = prepare(long_folder)
    [split] = [name for name, own in rows.items() if any("Gil" in row["ID"] for row in own)]
    paths = {name: long_folder.parent / "manifest" / f"{name}.csv" for name in SPLITS}
    validate_manifests(paths, long_folder, {})
    (long_folder / "Gil" / "a.flac").unlink()
    with pytest.raises(CorpusError, match=rf"{split}.csv: Gil.a.flac#t=.* is missing"):
        validate_manifests(paths, long_folder, {})


@pytest.mark.long
def test_the_frame_stage_runs_on_it(long_folder, commands, tmp_path):
    options = {
        "--data_folder": long_folder,
        "--output_folder": tmp_path / "frame",
        "--prepare_options": "{speakers_from_folders: True}",
        "--num_targets": 8,
        "--kmeans_passes": 1,
        "--number_of_epochs": 1,
    }
    words = [str(word) for pair in options.items() for word in pair]
    commands.succeed(PRETRAIN / "train.py", "hparams/frame_tiny.yaml", *words)
    metrics = json.loads((tmp_path / "frame" / "metrics.json").read_text())
    assert metrics["figures"]["epochs"] == 1
    assert (tmp_path / "frame" / "model" / "model.safetensors").is_file()


def test_links_are_followed_and_files_of_macos_left_out(make_voice, tmp_path):
    folder, links = tmp_path / "disk", tmp_path / "links"
    links.mkdir()
    for number in range(8):
        path = folder / f"s{number}" / "a.FLAC"
        path.parent.mkdir(parents=True)
        soundfile.write(path, make_voice(number, 0), 16000, format="FLAC")
        path.with_name("._a.FLAC").write_bytes(b"\0\5\x16\7")
        (links / f"s{number}").symlink_to(path.parent)
    counts = []
    for place in (folder, links):
        rows, _ = list_audio(place, speakers_from_folders=True)
        counts.append([row["ID"] for row in rows])
    assert counts[0] == counts[1] and len(counts[0]) == 8
