"""Speech Commands: splits and labels of both protocols, silence, and trees that are refused."""

import numpy as np
import pytest
import soundfile

from recipes.common.data.files import CorpusError
from recipes.common.data.table import read_manifest
from recipes.SpeechCommands.speech_commands_prepare import (
    CUTS,
    KEYWORDS,
    NOISE,
    SHARES,
    prepare_speech_commands,
)

SPLITS = ("train", "valid", "test")
SPEAKERS = {"train": ("aa", "bb"), "valid": ("cc",), "test": ("dd",)}
WORDS = (*KEYWORDS, "bed", "zoom in")
EACH = ["aa_nohash_0", "bb_nohash_0", "cc_nohash_0", "dd_nohash_0", "dd_nohash_1"]


def write_noise(path, samples=4000, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 0.1, samples)
    soundfile.write(path, noise, 16000, format="WAV")


@pytest.fixture
def tree(tmp_path):
    """A tree of the ten keywords and two words more, five files each, and 20 s of noise."""
    folder = tmp_path / "speech_commands"
    for number, word in enumerate(WORDS):
        for place, stem in enumerate(EACH):
            write_noise(folder / word / f"{stem}.wav", seed=10 * number + place)
    for split, file in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        own = [stem for stem in EACH if stem[:2] in SPEAKERS[split]]
        lines = [f"{word}/{stem}.wav\n" for word in WORDS for stem in own]
        (folder / file).write_text("".join(lines))
    write_noise(folder / NOISE / "pink.wav", 16000 * 20 + 9000)
    soundfile.write(folder / NOISE / "nothing.wav", np.zeros(32000), 16000)
    return folder


def prepared(folder, out, **options):
    """Return the rows of each split."""
    prepare_speech_commands(folder, out, SPLITS, **options)
    return {split: read_manifest(out / f"{split}.csv") for split in SPLITS}


def test_each_word_is_a_class(tree, tmp_path):
    rows = prepared(tree, tmp_path / "out")
    assert not (tree / CUTS).exists()
    for split, own in rows.items():
        assert {row["label"] for row in own} == set(WORDS)
        assert {row["spk_id"] for row in own} == set(SPEAKERS[split])
        for row in own:
            word, name = row["wav"].removeprefix("$data_root/").split("/")
            assert word == row["label"] and row["ID"] == f"{word}-{name.removesuffix('.wav')}"
    assert [len(rows[split]) for split in SPLITS] == [24, 12, 24]


def test_twelve_classes_have_other_words_and_cuts_of_the_noise(tree, tmp_path):
    rows = prepared(tree, tmp_path / "out", classes=12)
    noise, _ = soundfile.read(tree / NOISE / "pink.wav", dtype="int16")
    heard = []
    for split, own in rows.items():
        assert {row["label"] for row in own} == {*KEYWORDS, "_unknown_", "_silence_"}
        unknown = [row["ID"] for row in own if row["label"] == "_unknown_"]
        assert len(unknown) == 2 * sum(stem[:2] in SPEAKERS[split] for stem in EACH)
        assert all(name.startswith(("bed-", "zoom in-")) for name in unknown)
        silence = [row for row in own if row["label"] == "_silence_"]
        low, high = SHARES[split]
        assert len(silence) == round(20 * (high - low))
        heard += [row["wav"].removeprefix("$data_root/") for row in silence]
        assert all(row["duration"] == 1.0 for row in silence)
    assert len(set(heard)) == 20  # each second once
    cuts = [soundfile.read(tree / path, dtype="int16")[0] for path in sorted(heard)]
    assert np.array_equal(np.concatenate(cuts), noise[: 20 * 16000])
    before = (tree / CUTS).stat().st_mtime_ns
    assert prepared(tree, tmp_path / "out", classes=12) == rows
    assert (tree / CUTS).stat().st_mtime_ns == before


def test_the_official_test_set_is_the_test_split_where_it_is_there(tree, tmp_path):
    own = tree / "speech_commands_test_set_v0.01"
    for number, label in enumerate((*KEYWORDS, "_unknown_", "_silence_")):
        name = {"_silence_": "hum.wav", "_unknown_": "bird_dd_nohash_0.wav.wav"}
        write_noise(own / label / name.get(label, "dd_nohash_0.wav.wav"), seed=number)
    (tree / f"{own.name}.tar.gz").write_bytes(b"as it was fetched by hand")
    rows = prepared(tree, tmp_path / "out", classes=12)
    assert len(rows["test"]) == 12
    for row in rows["test"]:
        folder, label, name = row["wav"].removeprefix("$data_root/").split("/")
        assert folder == own.name and label == row["label"]
        assert row["spk_id"] == ("dd" if "dd" in name else row["ID"])
    assert {row["label"] for row in rows["train"]} >= {"_unknown_", "_silence_"}
    assert prepared(tree, tmp_path / "all")["test"] != rows["test"]  # of 12 classes alone
    with pytest.raises(CorpusError, match="test_set_v0.01, and version is v0.02: give --version"):
        prepared(tree, tmp_path / "other", classes=12, version="v0.02")
    (tree / "backward").mkdir()
    with pytest.raises(CorpusError, match="the words of v0.02, and version is v0.01: give"):
        prepared(tree, tmp_path / "other", classes=12)
    (tree / "backward").rmdir()
    (own / "_silence_" / "hum.wav").unlink()
    (own / "_silence_").rmdir()
    with pytest.raises(CorpusError, match="has the folders .*: expected yes, no, .*_silence_"):
        prepared(tree, tmp_path / "out", classes=12)


def break_tree(tree, how):
    if how == "no list":
        (tree / "testing_list.txt").unlink()
    elif how == "unknown line":
        with open(tree / "validation_list.txt", "a") as file:
            file.write("bed/ee_nohash_0.wav\n")
    elif how == "no speaker":
        (tree / "bed" / "aa_nohash_0.wav").rename(tree / "bed" / "aa.wav")
    elif how == "no keyword":
        (tree / "go").rename(tree / "gone")
    elif how == "no noise":
        for path in (tree / NOISE).iterdir():
            path.unlink()
    elif how == "noise of 8 kHz":
        soundfile.write(tree / NOISE / "pink.wav", np.ones(32000), 8000)


@pytest.mark.parametrize(
    ("how", "classes", "message"),
    [
        ("no list", "all", "testing_list.txt is missing: expected a line WORD/FILE.wav"),
        ("unknown line", "all", "validation_list.txt, line 13: there is no bed/ee_nohash_0.wav"),
        ("no speaker", "all", "bed/aa.wav: expected the name SPEAKER_nohash_NUMBER.wav"),
        ("no keyword", 12, "has no folder go, one of the ten keywords: --classes all"),
        ("no noise", 12, "_background_noise_ holds no \\*.wav"),
        ("noise of 8 kHz", 12, "pink.wav is of 8000 Hz and 1 channels: expected 16000 Hz"),
    ],
)
def test_trees_that_are_refused(how, classes, message, tree, tmp_path):
    break_tree(tree, how)
    with pytest.raises(CorpusError, match=message):
        prepared(tree, tmp_path / "out", classes=classes)
    assert not list(tmp_path.rglob("*.csv")) and not list(tree.glob(f"{CUTS}*"))


def test_options_that_are_refused(tree, tmp_path):
    with pytest.raises(ValueError, match="classes is 35: expected all or 12"):
        prepared(tree, tmp_path / "out", classes=35)
    with pytest.raises(ValueError, match="version is 'v0.03': expected v0.01 or v0.02"):
        prepared(tree, tmp_path / "out", version="v0.03")
    with pytest.raises(CorpusError, match="no split dev: expected train, valid, test"):
        prepare_speech_commands(tree, tmp_path / "out", ["dev"])
