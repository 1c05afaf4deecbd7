"""Small trees of the tasks' corpora: a few utterances of noise in each one's own layout."""

import csv
import itertools

import numpy as np
import soundfile

from recipes.EmoDB.emodb_prepare import FOLDS

RATE = 16000
SPLITS = ("train", "valid", "test")
CODES = ("neu", "hap", "exc", "ang", "sad", "fru", "xxx", "hap")  # of the turns of a dialog
HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
INTENTS = (
    ("activate", "lights", "kitchen"),
    ("activate", "music", "none"),
    ("increase", "volume", "none"),
    ("increase", "heat", "kitchen"),
)


def write_noise(path, seconds=0.6, level=0.1, pitch=None):
    """Write noise, and in it a tone of a pitch (Hz), if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path.name)) + sum(map(ord, path.name)))
    audio = level * rng.standard_normal(round(seconds * RATE)).clip(-3, 3)
    if pitch:
        audio += 0.3 * np.sin(2 * np.pi * pitch * np.arange(len(audio)) / RATE)
    soundfile.write(path, audio, RATE)


def write_fluent(root, each=2):
    """Write Fluent Speech Commands: a speaker a split, each intent so many times."""
    for speaker, split in enumerate(SPLITS):
        rows = []
        for (number, intent), take in itertools.product(enumerate(INTENTS), range(each)):
            path = f"wavs/speakers/{speaker}abc/{split}-{number}-{take}.wav"
            write_noise(root / path, pitch=300 * (number + 1))
            rows.append([len(rows), path, f"{speaker}abc", "A text, with a comma", *intent])
        write_table(root / "data" / f"{split}_data.csv", rows)
    return root


def write_table(path, rows):
    path.parent.mkdir(exist_ok=True)
    columns = ["", "path", "speakerId", "transcription", "action", "object", "location"]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def write_iemocap(root, dialogs=2):
    """Write IEMOCAP: in each of five sessions so many dialogs of eight turns."""
    for session, dialog in itertools.product(range(1, 6), range(1, dialogs + 1)):
        folder = root / f"Session{session}"
        name = f"Ses{session:02d}{'FM'[dialog % 2]}_impro{dialog:02d}"
        lines = [HEADER]
        for number, code in enumerate(CODES):
            turn = f"{name}_{'FM'[number % 2]}{number:03d}"
            pitch = 300 * (1 + CODES.index(code))
            write_noise(folder / "sentences" / "wav" / name / f"{turn}.wav", pitch=pitch)
            lines += [
                f"[{number}.2901 - {number}.8357]\t{turn}\t{code}\t[2.5000, 2.5000, 2.5000]\n",
                "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n",
            ]
        table = folder / "dialog" / "EmoEvaluation" / f"{name}.txt"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("".join(lines))
    return root


def write_emodb(root, letters="WTN", texts=2):
    """Write Emo-DB: each of ten speakers says so many texts with each emotion."""
    for speaker in itertools.chain(*FOLDS.values()):
        for (number, letter), text in itertools.product(enumerate(letters), range(1, texts + 1)):
            name = f"{speaker}a{text:02d}{letter}a.wav"
            write_noise(root / "wav" / name, pitch=300 * (number + 1))
    return root


def write_voxlingua(root, languages=("de", "en", "et"), videos=4):
    """Write VoxLingua107: of each language so many videos of two segments, and three of dev."""
    for (number, language), video in itertools.product(enumerate(languages), range(videos)):
        for segment in range(2):
            name = f"v-{video}__U__S{segment}---0{segment}.000-1{segment}.500.wav"
            write_noise(root / language / name, pitch=300 * (number + 1))
    for (number, language), video in itertools.product(enumerate(languages), range(3)):
        name = f"dev{video}__U__S9---000.000-001.000.wav"
        write_noise(root / "dev" / language / name, pitch=300 * (number + 1))
    return root
