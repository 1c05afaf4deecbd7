"""A corpus of synthetic voices, made on the spot by eSpeak NG; the same bytes on every run.

Each speaker has a voice of their own (pitch, formants, pace, breath) and several sessions. Each
session has a room, a microphone and a background noise of its own. Speakers and sentences of one
split are in no other. The first sentences of a session are said by all speakers of the split.

    OUT/wav/SPEAKER/SESSION/NNN.flac    16 kHz, mono
    OUT/wav/SPEAKER/SPEAKER.ctm         the speaker's phones
    OUT/alignments/SPLIT.ctm            utterance, channel 1, start, duration (s), phone
    OUT/utterances.csv                  ID, split, speaker, session, sentence (line), words

A speaker's folder is complete or absent, so an interrupted run goes on with those that are missing.
"""

import csv
import importlib.util
import io
import json
import multiprocessing
import os
import re
import shutil
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import fftconvolve, firwin2, resample_poly
from tqdm import tqdm

from lobes.signal import SAMPLE_RATE
from recipes.common.data.files import CorpusError, read_text, replace_text
from recipes.common.data.seeding import derive_rng, derive_seed

SEED = 2407
SPEAKERS = {"train": 32, "valid": 8, "test": 8}
SENTENCES = {"train": range(0, 160), "valid": range(160, 200), "test": range(200, 240)}
SESSIONS = 4
SHARED = 2  # sentences of a session that all speakers of the split say in it
OWN = 3  # sentences of a session that are drawn for the speaker, none twice
LEAD = SAMPLE_RATE // 20  # silence before and after a sentence, samples
TRAITS = {  # each is spread evenly over the speakers of a split
    "pitch": (85, 245),  # Hz
    "range": (1.15, 1.7),  # highest by lowest pitch
    "tract": (86, 122),  # formant frequencies, % of eSpeak's
    "pace": (75, 105),  # %
    "breath": (0, 8),
    "roughness": (0, 4),
    "brightness": (60, 200),  # of the upper spectrum, where eSpeak has 110
}


def make_corpus(folder, num_workers=None, speakers=None):
    """Make the corpus, or what is missing of it.

    Arguments
    ---------
    folder : str or Path
        New, empty, or a corpus that was begun before.
    num_workers : int, optional
        Processes; as many as cores if None.
    speakers : dict, optional
        How many of each split. Other numbers give other voices. None: as many as in the corpus that
        was begun in the folder, or else `SPEAKERS`.

    Raises
    ------
    CorpusError
        Where the folder holds something else, or eSpeak NG is not installed.
    """
    folder = Path(folder)
    speakers = speakers or speakers_of(folder)
    claim(folder, {"seed": SEED, "speakers": dict(speakers)})
    missing = [
        (folder, split, number, count)
        for split, count in speakers.items()
        for number in range(count)
        if not (folder / "wav" / speaker_name(split, number)).is_dir()
    ]
    if missing:
        synthesise(missing, num_workers or os.cpu_count())
    if missing or not (folder / "utterances.csv").is_file():
        write_tables(folder, speakers)


def speakers_of(folder):
    """Return how many speakers each split of the corpus in a folder has; `SPEAKERS` of a new one.

    Raises
    ------
    CorpusError
        Where the folder's corpus.json does not tell it.

    Example
    -------
    >>> speakers_of(getfixture("tmp_path"))
    {'train': 32, 'valid': 8, 'test': 8}
    """
    marker = folder / "corpus.json"
    if not marker.is_file():
        return SPEAKERS
    try:
        speakers = json.loads(read_text(marker))["speakers"]
        return {split: int(count) for split, count in speakers.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(
            f"{marker} does not tell how many speakers each split has: use a new folder."
        ) from error


def claim(folder, settings):
    """Mark a folder as this corpus's; refuse one that holds something else."""
    marker = folder / "corpus.json"
    text = json.dumps(settings, indent=2) + "\n"
    if not marker.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise CorpusError(f"{folder} holds something else than a synthetic corpus.")
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(marker, text)
    elif marker.read_text(encoding="utf-8") != text:
        raise CorpusError(f"{folder} was made with other settings ({marker}): use a new folder.")


def synthesise(tasks, num_workers):
    """Make speakers side by side, each in a process of its own: see `recipes.Synthetic.espeak`."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise CorpusError("eSpeak NG is not installed: pip install -r requirements-demo.txt")
    forking = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forking else "spawn")
    if forking:  # imports once for all
        context.set_forkserver_preload(["__main__", "recipes.Synthetic.corpus"])
    with context.Pool(num_workers, maxtasksperchild=1) as pool:
        made = pool.imap_unordered(make_speaker, tasks)
        list(tqdm(made, "Speakers", len(tasks), dynamic_ncols=True))


def make_speaker(task):
    """Synthesise all sessions of a speaker.

    Arguments
    ---------
    task : tuple
        The corpus's folder, the split, the speaker's number in it and the split's speakers.
    """
    from recipes.Synthetic.espeak import Espeak

    folder, split, number, count = task
    speaker = speaker_name(split, number)
    final, partial = folder / "wav" / speaker, folder / "wav" / f".{speaker}"
    shutil.rmtree(partial, ignore_errors=True)
    sentences = read_sentences()
    espeak, lines = Espeak(voice(split, number, count), derive_seed(SEED, speaker)), []
    for utterance, session, sentence in utterances(split, number):
        phones = utterance_audio(
            espeak, sentences[sentence], utterance, session, partial / path_of(utterance)
        )
        lines += [f"{utterance} 1 {start:.4f} {span:.4f} {name}\n" for start, span, name in phones]
    replace_text(partial / f"{speaker}.ctm", "".join(lines))
    os.rename(partial, final)


def utterance_audio(espeak, text, utterance, session, path):
    """Write a sentence as it sounds in a session; return its phones as (start, duration, name)."""
    audio, phones = espeak.say(text)
    audio = np.pad(resample_poly(audio, SAMPLE_RATE, espeak.rate), LEAD)
    starts = [round(start * SAMPLE_RATE / espeak.rate) + LEAD for _, start in phones]
    starts[0] = 0
    names = [name for name, _ in phones]
    if names[-1] != "sil":
        starts.append(len(audio) - LEAD)
        names.append("sil")
    recording = record(audio, session, derive_rng(SEED, "noise", utterance))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, recording.astype(np.float32), SAMPLE_RATE, subtype="PCM_16")
    edges = np.array([*starts, len(audio)]) / SAMPLE_RATE
    return list(zip(edges[:-1], np.diff(edges), names, strict=True))


def voice(split, number, count):
    """Return a speaker's lines of an eSpeak voice file.

    Example
    -------
    >>> voice("test", 0, 8) == voice("test", 0, 8) != voice("test", 1, 8)
    True
    """
    traits = {}
    for name, (low, high) in TRAITS.items():
        rng = derive_rng(SEED, "trait", name, split, count)
        place = (rng.permutation(count) + rng.uniform(0.2, 0.8, count))[number] / count
        traits[name] = low * (high / low) ** place if low else high * place
    rng = derive_rng(SEED, "formants", split, number)
    formants = traits["tract"] * rng.uniform(0.94, 1.06, 9)
    bright = round(traits["brightness"])
    return {
        "pitch": f"{traits['pitch']:.0f} {traits['pitch'] * traits['range']:.0f}",
        "speed": f"{traits['pace']:.0f}",
        "roughness": f"{traits['roughness']:.0f}",
        "breath": " ".join([f"{traits['breath']:.0f}"] * 8),
        "tone": f"600 170 1200 {(170 + bright) // 2} 2000 {bright}",
        **{f"formant {place}": f"{formants[place]:.0f} 100 100" for place in range(1, 9)},
    }


def draw_session(speaker, session):
    """Return the channel of a session: `room`, `microphone`, `hiss` (filters), `snr`, `level`.

    Example
    -------
    >>> draw_session("train00", 0)["microphone"].shape
    (255,)
    """
    rng = derive_rng(SEED, "session", speaker, session)
    decay_time = rng.uniform(0.1, 0.35)  # s to fall by 60 dB
    time = np.arange(round(decay_time * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.normal(size=len(time)) * 10 ** (-3 * time / decay_time) * (time > 0.002)
    ratio = rng.uniform(6, 15)  # direct by reverberant, dB
    room = tail * 10 ** (-ratio / 20) / np.linalg.norm(tail)
    room[0] = 1.0
    return {
        "room": room,
        "microphone": random_filter(rng, decibels=10),
        "hiss": random_filter(rng, decibels=15),
        "snr": rng.uniform(15, 30),
        "level": rng.uniform(-32, -20),  # dB below full scale
    }


def random_filter(rng, decibels):
    """Return 255 taps of a symmetric filter whose gain wanders within so many dB either way."""
    knots = np.array([0, 125, 250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000])
    gains = rng.uniform(-decibels, decibels, len(knots))
    return firwin2(255, knots / knots[-1], 10 ** (gains / 20))


def record(speech, session, rng):
    """Return speech as it sounds in a session; nothing moves in time.

    Arguments
    ---------
    speech : numpy.ndarray
        Shape (samples,).
    session : dict
        As `draw_session` returns it.
    rng : numpy.random.Generator
        Where the noise is drawn from.

    Returns
    -------
    numpy.ndarray
        Shape (samples,), in [-1, 1].
    """
    heard = fftconvolve(speech, session["room"])[: len(speech)]
    noise = fftconvolve(rng.normal(size=len(speech)), session["hiss"], mode="same")
    noise *= rms(heard) / rms(noise) * 10 ** (-session["snr"] / 20)
    heard = fftconvolve(heard + noise, session["microphone"], mode="same")
    heard *= 10 ** (session["level"] / 20) / rms(heard)
    return heard / max(1.0, np.abs(heard).max() / 0.99)


def rms(audio):
    """Return the root mean square."""
    return np.sqrt(np.mean(np.square(audio)))


def speaker_name(split, number):
    """Return a speaker's name.

    Example
    -------
    >>> speaker_name("train", 7)
    'train07'
    """
    return f"{split}{number:02d}"


def path_of(utterance):
    """Return where an utterance's audio is, in the folder of its speaker.

    Example
    -------
    >>> path_of("train07-2-005").as_posix()
    '2/005.flac'
    """
    _, session, number = utterance.split("-")
    return Path(session) / f"{number}.flac"


def utterances(split, number):
    """Yield (ID, session, line of the sentence) of a speaker's utterances."""
    speaker = speaker_name(split, number)
    lines = np.array(SENTENCES[split])
    shared, rest = np.split(lines, [SESSIONS * SHARED])
    own = derive_rng(SEED, "sentences", speaker).permutation(rest)[: SESSIONS * OWN]
    for session in range(SESSIONS):
        channel = draw_session(speaker, session)
        said = [*np.split(shared, SESSIONS)[session], *np.split(own, SESSIONS)[session]]
        for place, sentence in enumerate(said):
            yield f"{speaker}-{session}-{place:03d}", channel, int(sentence)


def read_sentences():
    """Return the lines of sentences.txt."""
    path = Path(__file__).with_name("sentences.txt")
    return path.read_text(encoding="utf-8").splitlines()


def words(sentence):
    """Return a sentence as transcripts have it.

    Example
    -------
    >>> words("It's a twenty-first, isn't it?")
    "IT'S A TWENTY FIRST ISN'T IT"
    """
    return " ".join(re.findall(r"[A-Z']+", sentence.upper()))


def write_tables(folder, speakers):
    """Write the alignments of each split and the table of all utterances."""
    sentences, table = read_sentences(), io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["ID", "split", "speaker", "session", "sentence", "words"])
    (folder / "alignments").mkdir(exist_ok=True)
    for split, count in speakers.items():
        names = [speaker_name(split, number) for number in range(count)]
        parts = [folder / "wav" / name / f"{name}.ctm" for name in names]
        text = "".join(part.read_text(encoding="utf-8") for part in parts)
        replace_text(folder / "alignments" / f"{split}.ctm", text)
        for number, name in enumerate(names):
            for utterance, _, sentence in utterances(split, number):
                session = utterance.split("-")[1]
                row = [utterance, split, name, session, sentence + 1, words(sentences[sentence])]
                writer.writerow(row)
    replace_text(folder / "utterances.csv", table.getvalue())
