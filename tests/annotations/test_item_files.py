"""Item files: which frames an item has, what is refused, and ABX errors that are fastabx's."""

import importlib.util
from decimal import Decimal

import numpy as np
import pytest
import torch

from recipes.common.annotations.item_files import COLUMNS, find_audio, fit_items, read_items
from recipes.common.annotations.triphones import Item
from recipes.common.data.files import CorpusError
from recipes.common.evaluation.abx import abx

HEADER = " ".join(COLUMNS)
FRAMES = 60  # of each made-up utterance
# What fastabx 0.9.0 (torch 2.14.1) says of the items and features that `make_up` writes.
FASTABX = {"within": 0.111654352, "across": 0.107497876}


def make_up(folder):
    """Write an item file, and return its path and the features of each utterance: 5 speakers.

    Times are on a grid of 5 ms: many are those of a frame.
    """
    rng, features, lines = np.random.default_rng(0), {}, [HEADER]
    codes = rng.normal(size=(3, 8))
    for number in range(30):
        name, speaker = f"u{number:02d}", f"s{number % 5}"
        features[name] = rng.normal(size=(FRAMES, 8)).astype(np.float32)
        for start in range(5, 50, 10):
            phone, context = int(rng.integers(3)), ("k t", "s n")[rng.integers(2)]
            onset = Decimal(start * 4 + int(rng.integers(8))) * Decimal("0.005")
            offset = onset + Decimal(int(rng.integers(8, 32))) * Decimal("0.005")
            features[name][start : start + 10] += 0.8 * codes[phone]
            lines.append(f"{name} {onset} {offset} {'aei'[phone]} {context} {speaker}")
    path = folder / "made_up.item"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, features


def own_error(path, features, mode):
    """Return our ABX error, of all triples."""
    items = fit_items(read_items(path), dict.fromkeys(features, FRAMES))
    return abx(features, items, mode, "angular", 0, max_items=1000, max_speakers=1000)["error"]


@pytest.mark.parametrize("mode", FASTABX)
def test_errors_are_those_that_fastabx_gave(mode, tmp_path):
    assert own_error(*make_up(tmp_path), mode) == pytest.approx(FASTABX[mode], abs=1e-6)


@pytest.mark.skipif(
    importlib.util.find_spec("fastabx") is None,
    reason='fastabx is not installed: pip install ".[abx]", on Python 3.12 or newer',
)
@pytest.mark.parametrize("mode", FASTABX)
def test_errors_are_those_of_fastabx(mode, tmp_path):
    zerospeech_abx = importlib.import_module("fastabx").zerospeech_abx
    path, features = make_up(tmp_path)
    for name, frames in features.items():
        torch.save(torch.from_numpy(frames), tmp_path / f"{name}.pt")
    limits = {"max_size_group": None, "max_x_across": None}
    told = zerospeech_abx(path, tmp_path, speaker=mode, device="cpu", progress=False, **limits)
    assert own_error(path, features, mode) == pytest.approx(told, abs=1e-6)
    assert told == pytest.approx(FASTABX[mode], abs=1e-6)


@pytest.mark.parametrize("first", [10, 0])
@pytest.mark.parametrize("seed", range(5))
def test_an_item_has_the_frames_whose_middle_is_in_it(seed, first, tmp_path):
    rng, path = np.random.default_rng(seed), tmp_path / "a.item"
    times = np.sort(rng.integers(0, 1000, size=(20, 2)) * 5, axis=1)  # ms
    times = times[times[:, 1] - times[:, 0] >= 20]
    lines = [f"u {a / 1000:.3f} {b / 1000:.4f} p t s 1" for a, b in times.tolist()]
    path.write_text("\n".join([HEADER, *lines]))
    items = read_items(path, f"{first / 1000}")
    for item, (onset, offset) in zip(items, times.tolist(), strict=True):
        inside = [i for i in range(400) if onset <= first + 20 * i <= offset]
        assert (item.start, item.stop) == (inside[0], inside[-1] + 1)


def test_columns_are_found_by_their_names(tmp_path):
    path = tmp_path / "a.item"
    names = "speaker #phone onset offset next-phone prev-phone #file"
    path.write_bytes(f"{names}\r\n7 p 0 0.1 s t u\r\n".encode())
    assert read_items(path) == [Item("u", "7", ("t", "s"), "p", 0, 5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line has no #file, onset"),
        ("#file onset offset #phone prev-phone next-phone\n", "its first line has no speaker"),
        (f"{HEADER}\n\nu 0 0.1 p t s\n", "a.item, line 3: 6 words for the 7 columns"),
        (f"{HEADER}\nu 0 x p t s 1\n", "line 2: onset and offset are 0 and x: expected seconds"),
        (f"{HEADER}\nu 0 nan p t s 1\n", "line 2: onset and offset are 0 and nan"),
        (f"{HEADER}\nu 0.2 0.1 p t s 1\n", "line 2: no frame of 0.02 s has its middle between"),
        (f"{HEADER}\nu -1 0.1 p t s 1\n", "line 2: no frame"),
        (f"{HEADER}\nu 0.011 0.029 p t s 1\n", "line 2: no frame"),
    ],
)
def test_lines_that_are_no_items_are_refused(text, message, tmp_path):
    (tmp_path / "a.item").write_text(text)
    with pytest.raises(CorpusError, match=message):
        read_items(tmp_path / "a.item")


def test_an_item_may_pass_the_end_by_one_frame_and_no_more():
    def item(start, stop):
        return Item("u", "1", ("t", "s"), "p", start, stop)

    assert fit_items([item(0, 9), item(5, 10), item(5, 11)], {"u": 10}) == [
        item(0, 9),
        item(5, 10),
        item(5, 10),
    ]
    for start, stop in ((5, 12), (10, 11)):
        with pytest.raises(CorpusError, match=f"p of u has the frames from {start} to {stop}, but"):
            fit_items([item(start, stop)], {"u": 10})


def test_audio_is_found_by_name_in_folders_below(tmp_path):
    for place in ("1/a.flac", "1/a.txt", "2/b.WAV", "2/unasked.wav"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    found = find_audio({"a", "b"}, tmp_path)
    assert found == {"a": tmp_path / "1" / "a.flac", "b": tmp_path / "2" / "b.WAV"}
    with pytest.raises(CorpusError, match="no audio of 1 of the 2 files .* such as c: give the"):
        find_audio({"a", "c"}, tmp_path)
    (tmp_path / "2" / "a.wav").touch()
    with pytest.raises(CorpusError, match="several files of the name a"):
        find_audio({"a"}, tmp_path)
