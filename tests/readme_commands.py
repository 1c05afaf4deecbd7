#!/usr/bin/env python3
"""Run the commands of all READMEs on a clean clone, on a small corpus at the tiny size.

    python -m tests.readme_commands CORPORA WORK

CORPORA is as for tests.digests; WORK receives a clone of the last commit and what the commands
write. A name that a README uses for data (LibriSpeech, O, LEXICON) is replaced by its place;
otherwise a command runs as it is written, with a few options added that make it short. Commands of
the base size run to the point where data is asked for. What is run elsewhere (`make`, `pip`) or
takes hours is listed with the reason. A line says how each one ended; the exit status is 0 where
all did well.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import soundfile

from recipes.common.annotations.text import read_lexicon

ROOT = Path(__file__).resolve().parent.parent
# In this order: what a later command needs is made by an earlier one.
PAGES = (
    "recipes/LibriSpeech/pretrain/README.md",
    "recipes/README.md",
    "recipes/LibriSpeech/report/README.md",
    "recipes/LibriSpeech/PR/README.md",
    "recipes/LibriSpeech/ASR/README.md",
    "recipes/LibriSpeech/ABX/README.md",
    "recipes/LibriSpeech/Units/README.md",
    "recipes/VoxCeleb/SpeakerID/README.md",
    "recipes/VoxCeleb/SpeakerRec/README.md",
    "recipes/SpeechCommands/README.md",
    "recipes/Table/README.md",
    "recipes/FluentSpeechCommands/README.md",
    "recipes/EmoDB/README.md",
    "recipes/IEMOCAP/README.md",
    "recipes/VoxLingua107/README.md",
    "README.md",
    "pretrained/README.md",
    "pretrained/toolkits/README.md",
    "pretrained/deployment/README.md",
    "recipes/AudioFolder/README.md",
    "recipes/Synthetic/README.md",
    "recipes/speechocean762/README.md",
    "recipes/experiments/README.md",
    "recipes/QUESTIONS.md",
    "CONTRIBUTING.md",
)
# Made before all else: models and alignments that commands above those that make them need.
FIRST = [
    f"python train.py hparams/{stage}_tiny.yaml --data_folder LibriSpeech --output_folder O/{name}"
    for stage, name in (("frame", "frame"), ("utterance", "utterance"), ("joint", "joint"))
]
FIRST.append(f"{FIRST[2]}_plain --beta 0.0 --frame_norm none")
FIRST.append(
    "python ../align.py --data_folder LibriSpeech --lexicon lexicon.txt "
    "--output_folder ALIGNMENTS --splits dev-clean test-clean"
)
RECORDINGS = ("a.wav", "b.wav", "c.wav")
WRITTEN = ("O", "ALIGNMENTS", "CORPUS", "SHARDS", "trials.txt", "my.csv", "anna.json", *RECORDINGS)
OTHER_CORPORA = ("AudioFolder", "Synthetic", "speechocean762")  # each has runs of its own
TASKS = {  # the folder in CORPORA of what the READMEs of tasks name
    "speech_commands": "speech_commands",
    "fluent_speech_commands_dataset": "fluent",
    "emodb": "emodb",
    "IEMOCAP_full_release": "iemocap",
    "voxlingua107": "voxlingua107",
}
DATA = ("LibriSpeech", "voxceleb1", *TASKS, "D", "DIR", "speechocean762")
ELSEWHERE = {
    r"^(git|pip|make|cd|\.venv)": "installs, or is run by CI or by itself",
    r"python -m pretrained( encode| push)?$": "names the command line",
    r"^torchrun": "needs GPUs",
    r"tests\.(digests|fuzzing|mutation|readme_commands)": "takes long, and is run by itself",
    r"\.\.\.": "is cut short in the text",
    r"\.item\b": "needs an item file, which a benchmark brings",
    r"organisation/name": "needs a Hub and a name there",
    r"s3prl_tasks|--ssl_hub": "needs another toolkit's recipes",
    r"--layout (huggingface|torchaudio)": "is of the waveform front end, which the tiny size lacks",
    r"toolkits\.comparing": "writes a README from models of the base size",
    r"/CORPUS/": "is of a corpus that a reader adds",
    r"(ablate|judge|results|study)\.py --(models|data_folder|corpora)": "takes hours",
    r"compare_methods\.py (utterance|frame)": "takes an hour",
    r"channels\.py --methods": "needs the methods side by side, which take an hour",
    r"--write |pretraining_tables\.py": "writes a README from runs that take hours",
}
BASE_SIZE = (
    r"hparams/(frame|codes|spin|utterance|joint|char|lexicon|linear|xvector|embedding)\.yaml"
)
NO_START = "this stage starts from the"  # of a stage that asks for an earlier one's model first
SHORT = {
    r"pretrain.*train\.py": "--number_of_epochs 1 --max_batch_seconds 20",
    r"(PR|ASR|SpeakerID|SpeakerRec|Commands|Table|EmoDB|IEMOCAP|VoxLingua107)/?.*train\.py": ""
    "--lrs [0.003] --number_of_epochs 1",
    r"report.*train\.py": "--seeds [1] --read_utterances 40 --train_utterances 40"
    " --controls False --hidden_dim 16",
    r"evaluate\.py": "--critic_seeds [1] --crop_draws 1 --hidden_dim 32 --frames_per_utterance 8",
}


NO_DATA = r"(no such|missing|not a folder|is not there|mean .* as data_folder)"


def main():
    """Clone, run, and tell how each command ended."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpora", type=lambda path: Path(path).resolve())
    parser.add_argument("work", type=lambda path: Path(path).resolve())
    options = parser.parse_args()
    clone = options.work / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    names = lay_out(options.corpora, options.work)
    planned = [("", clone / "recipes" / "LibriSpeech" / "pretrain", command) for command in FIRST]
    planned += [(page, *found) for page in PAGES for found in commands(clone / page, clone)]
    failed = 0
    for page, folder, command in planned:
        verdict, said = run(command, folder, clone, names)
        print(f"{page}: {verdict}: {command[:120]}", flush=True)
        if verdict == "FAILED":
            failed += 1
            print("\n".join(f"    {line}" for line in said.splitlines()[-15:]), flush=True)
    sys.exit(failed > 0)


def lay_out(corpora, work):
    """Return what each name in a README stands for, made where it is not there."""
    lexicon = corpora / "lexicon.txt"
    files = sorted((corpora / "LibriSpeech" / "test-clean").rglob("*.flac"))
    recordings = [work / name for name in RECORDINGS]
    for recording, file in zip(recordings, files, strict=False):
        audio, rate = soundfile.read(file)
        soundfile.write(recording, audio, rate)
    (work / "trials.txt").write_text(f"{recordings[0]} {recordings[1]}\n", encoding="utf-8")
    write_table(sorted((corpora / "LibriSpeech" / "train-clean-100").rglob("*.flac")), work)
    for name in ("O", "ALIGNMENTS"):
        (work / name).mkdir()
    lay_out_tables(corpora / "LibriSpeech", read_lexicon(lexicon), work / "speechocean762")
    return {
        **{name: corpora / name for name in ("LibriSpeech", "voxceleb1")},
        **{name: corpora / folder for name, folder in TASKS.items()},
        **{name: lexicon for name in ("lexicon.txt", "librispeech-lexicon.txt", "LEXICON", "L")},
        **{name: work / name for name in WRITTEN},
        "speechocean762": work / "speechocean762",
        "DIR": corpora / "LibriSpeech" / "dev-clean",
        "*.flac": " ".join(map(str, files[:2])),
        "*.wav": " ".join(map(str, recordings)),
    }


def write_table(files, work):
    """Write a table of copies of audio files, of which every other one has the same label."""
    (work / "recordings").mkdir()
    rows = ["wav,label\n"]
    for number, file in enumerate(files[:40]):
        shutil.copy(file, work / "recordings" / file.name)
        rows.append(f"recordings/{file.name},{('even', 'odd')[number % 2]}\n")
    (work / "my.csv").write_text("".join(rows), encoding="utf-8")


def lay_out_tables(librispeech, pronunciations, folder):
    """Lay the speech of a LibriSpeech tree out as speechocean762 is, with tables by utterance."""
    (folder / "resource").mkdir(parents=True)
    phones = []
    for split, part in (("train", "train-clean-100"), ("test", "test-clean")):
        tables = {"wav.scp": [], "utt2spk": [], "text": []}
        for transcripts in sorted((librispeech / part).rglob("*.trans.txt")):
            for line in transcripts.read_text(encoding="utf-8").splitlines():
                name, text = line.split(maxsplit=1)
                audio = os.path.relpath(transcripts.with_name(f"{name}.flac"), folder)
                for rows, value in zip(
                    tables.values(), (audio, name.split("-")[0], text), strict=True
                ):
                    rows.append(f"{name}\t{value}\n")
                words = [pronunciations.get(word, ["SIL"]) for word in text.split()]
                phones += [f"{name}.{n}\t{' '.join(own)}\n" for n, own in enumerate(words)]
        (folder / split).mkdir()
        for table, rows in tables.items():
            (folder / split / table).write_text("".join(rows), encoding="utf-8")
    (folder / "resource" / "text-phone").write_text("".join(phones), encoding="utf-8")


def commands(page, clone):
    """Yield the folder and the text of each command of a page."""
    folder, pending = page.parent, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        yield from ((page.parent, inline) for inline in re.findall(r"`(python [^`]*)`", line))
        if not line.startswith("    "):
            folder, pending = page.parent, ""
            continue
        pending += f"{line.strip()} "
        if line.endswith("\\"):
            pending = pending.removesuffix("\\ ")
            continue
        command, pending = re.sub(r"\s+#.*", "", pending).strip(), ""
        if command.startswith("cd "):
            folder = clone / command.removeprefix("cd ")
        elif re.match(r"(python|torchrun|make|pip|git|\.venv)\b", command):
            yield folder, command


def run(command, folder, clone, names):
    """Run a command and return how it ended, and what it printed."""
    for pattern, reason in ELSEWHERE.items():
        if re.search(pattern, command):
            return f"left out ({reason})", ""
    base = re.search(BASE_SIZE, command)
    missing = [name for name in DATA if re.search(rf"\b{name}\b", command)]
    absent = [name for name in missing if name != "D" and not names[name].exists()]
    if absent:
        return f"left out (CORPORA has no {absent[0]})", ""
    data = names["voxceleb1"] if "VoxCeleb" in folder.parts else names["LibriSpeech"]
    corpus = next((name for name in OTHER_CORPORA if name in folder.parts), "")
    runs = names["O"].with_name(f"O{corpus}")
    given = {
        **names,
        "D": data,
        "O": runs,
        **(dict.fromkeys(missing, clone / "none") if base else {}),
    }
    words = [place(word, given) for word in command.split()]
    if base and "--output_folder" in words:  # runs of the tiny size lie in the other one
        words[words.index("--output_folder") + 1] = str(names["O"].with_name("base"))
    words += [] if base else short(f"{folder} {command}")
    env = {**os.environ, "PYTHONPATH": str(clone)}
    began = time.monotonic()
    done = subprocess.run(
        shlex.split(" ".join(words).replace("python", sys.executable, 1)),
        cwd=clone if " -m " in command else folder,
        env=env,
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    if base:
        asked = (str(clone / "none") in said and re.search(NO_DATA, said)) or NO_START in said
        well = done.returncode != 0 and asked
        return ("asked for data" if well else "FAILED"), said
    return (f"ran in {time.monotonic() - began:.0f} s" if not done.returncode else "FAILED"), said


def place(word, names):
    """Return a word of a command with the data that its names stand for.

    Example
    -------
    >>> place("[O/joint/model,O/x]", {"O": "/w/O"})
    '[/w/O/joint/model,/w/O/x]'
    """
    for name, path in names.items():
        word = re.sub(rf"(^|[\[,]){re.escape(name)}(?=$|[/,\]])", rf"\g<1>{path}", word)
    return word


def short(text):
    """Return options that make a command short, by where it is run and what it says."""
    return [
        word for pattern, more in SHORT.items() if re.search(pattern, text) for word in more.split()
    ]


if __name__ == "__main__":
    main()
