"""What the tests share: tiny corpora of synthetic voices, and real speech where there is some."""

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from pretrained.tokenizers import PieceTokenizer, SymbolTokenizer

RATE = 16000
SPLITS = {"train-clean-100": 6, "dev-clean": 3, "test-clean": 3}  # speakers
CHAPTERS = 2  # of each speaker
UTTERANCES = 3  # of each chapter
WORDS = ("ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX")

# Two processes run tests side by side, and what they start is to have one thread as well.
torch.set_num_threads(1)
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def pytest_collection_modifyitems(items):
    """Put files with long tests first, so that no worker is left with one at the end."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def make_voice():
    """Return a function (speaker, seed) -> samples between -1 and 1, 1.2 s to 2.4 s at 16 kHz."""
    return _make_voice


@pytest.fixture(scope="session")
def librispeech(tmp_path_factory):
    """A LibriSpeech tree: 6, 3 and 3 speakers of 2 chapters of 3 utterances. Do not change it."""
    root = tmp_path_factory.mktemp("corpora") / "LibriSpeech"
    for split, reader, chapter in _chapters():
        folder = root / split / str(reader) / str(chapter)
        folder.mkdir(parents=True)
        lines = []
        for number in range(UTTERANCES):
            name = f"{reader}-{chapter}-{number:04d}"
            audio = _make_voice(reader, seed=chapter * 10 + number)
            soundfile.write(folder / f"{name}.flac", audio, RATE)
            lines.append(f"{name} {WORDS[number]} {WORDS[chapter % len(WORDS)]}\n")
        (folder / f"{reader}-{chapter}.trans.txt").write_text("".join(lines), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def voxceleb1(tmp_path_factory):
    """A VoxCeleb1 tree: the voices of `librispeech`, trials of dev-clean and test-clean, and parts.

    Of each speaker's 6 utterances, iden_split.txt has 4, 1 and 1 in parts 1, 2 and 3. Do not change
    it.
    """
    root = tmp_path_factory.mktemp("corpora") / "voxceleb1"
    (root / "meta").mkdir(parents=True)
    wavs = {split: [] for split in SPLITS}
    for split, reader, chapter in _chapters():
        for number in range(UTTERANCES):
            path = f"id{reader:05d}/session{chapter}/{number:05d}.wav"
            (root / "wav" / path).parent.mkdir(parents=True, exist_ok=True)
            audio = _make_voice(reader, seed=chapter * 10 + number)
            soundfile.write(root / "wav" / path, audio, RATE)
            wavs[split].append(path)
    parts = zip(itertools.cycle((1, 1, 1, 1, 2, 3)), itertools.chain(*wavs.values()), strict=False)
    lines = [f"{part} {path}\n" for part, path in parts]
    (root / "meta" / "iden_split.txt").write_text("".join(lines), encoding="utf-8")
    for split, name in (("dev-clean", "veri_dev"), ("test-clean", "veri_test2")):
        trials = [
            f"{int(a.split('/')[0] == b.split('/')[0])} {a} {b}\n"
            for a, b in itertools.combinations(wavs[split], 2)
        ]
        (root / "meta" / f"{name}.txt").write_text("".join(trials), encoding="utf-8")
    return root


@pytest.fixture(params=["characters", "phones", "pieces"])
def tokenizer(request, tmp_path):
    """A tokenizer of each kind, of three symbols."""
    if request.param == "characters":
        return SymbolTokenizer(["A", "B", "|"], "characters")
    if request.param == "phones":
        return SymbolTokenizer(["A", "AB", "B"], "phones")
    return PieceTokenizer.train(["AB A", "AB B"], tmp_path / "pieces.model", vocab_size=4)


@pytest.fixture
def kenlm():
    """The package that reads language models; skips without it."""
    pytest.importorskip("pygtrie", reason="language models need pygtrie, which is optional")
    return pytest.importorskip("kenlm", reason="language models need kenlm, which is optional")


@pytest.fixture
def librispeech_copy(librispeech, tmp_path):
    """A LibriSpeech tree of one's own, to change."""
    return Path(shutil.copytree(librispeech, tmp_path / "LibriSpeech"))


@pytest.fixture
def voxceleb1_copy(voxceleb1, tmp_path):
    """A VoxCeleb1 tree of one's own, to change."""
    return Path(shutil.copytree(voxceleb1, tmp_path / "voxceleb1"))


@pytest.fixture(scope="session")
def real_speech():
    """The folder that holds `LibriSpeech` and `voxceleb1` with real speech; skips without it."""
    folder = os.environ.get("L2D_DATA")
    if not folder:
        pytest.skip("L2D_DATA does not name a folder with LibriSpeech/ and voxceleb1/")
    missing = [name for name in ("LibriSpeech", "voxceleb1") if not (Path(folder) / name).is_dir()]
    if missing:
        pytest.fail(f"L2D_DATA is {folder}, which has no {' and no '.join(missing)}")
    return Path(folder)


def _chapters():
    """Yield (split, reader, chapter) of every chapter."""
    readers = itertools.count(11)
    for split, speakers in SPLITS.items():
        for reader in itertools.islice(readers, speakers):
            for chapter in range(CHAPTERS):
                yield split, reader, reader * 10 + chapter


def _make_voice(speaker, seed):
    """Return harmonics of the speaker's pitch under formants that change from sound to sound."""
    rng = np.random.default_rng([speaker, seed])
    sounds = rng.integers(6, 13)
    pitch = 90 + 12 * (speaker % 12) + rng.normal(0, 2)
    pieces = []
    for formants in rng.uniform((300, 900), (800, 2400), (sounds, 2)):
        time = np.arange(int(0.2 * RATE)) / RATE
        harmonics = pitch * np.arange(1, 1 + int(4000 / pitch))[:, None]
        gains = sum(np.exp(-(((harmonics - centre) / 150) ** 2)) for centre in formants) + 0.02
        voiced = (gains * np.sin(2 * np.pi * harmonics * time)).sum(0)
        pieces.append(voiced * np.sin(np.pi * time / 0.2) ** 2)
    audio = np.concatenate(pieces)
    audio = 0.5 * audio / np.abs(audio).max() + 0.003 * rng.normal(size=len(audio))
    return audio.astype(np.float32)
