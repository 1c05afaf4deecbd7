"""The report finds what was put into made-up representations, and nothing where nothing was."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from lobes.frame_encoder import FrameEncoder, num_frames
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.exported import save_model
from recipes.common import leakage, measures, probes, report
from recipes.common.alignments import frame_phones, write_ctm
from recipes.common.measures import (
    make_trials,
    nearer_sentence,
    often_enough,
    phone_mix,
    read_phone_errors,
)
from recipes.common.metrics import wer
from recipes.common.probes import leakage as probe_all
from recipes.common.report_speech import (
    PER_SPEAKER,
    Speech,
    draw_rows,
    drawn_phones,
    load_rows,
    phone_texts,
    set_frame_targets,
    set_utterance_targets,
)
from recipes.common.representations import Encoded, draw_places

RECIPE = Path(report.__file__).parents[1] / "LibriSpeech" / "report"
PHONES = ("AA", "B", "D", "IY")
SECONDS = 0.5
FRAMES = 4  # drawn of each utterance
DIM, VOICE = 8, 3
OPTIONS = {"seed": 1, "seeds": [1], "frames_per_utterance": FRAMES, "max_items": 3}
OPTIONS |= {"max_speakers": 2, "hidden_dim": 16, "num_workers": 0}


@pytest.fixture
def quick(monkeypatch):
    """Linear probes alone, and short fits: what is planted here is found at once."""
    monkeypatch.setattr(report, "KINDS", ["linear"])
    monkeypatch.setattr(probes, "MAX_STEPS", 60)
    fit = partial(leakage.fit_critic, steps=300, lr=5e-3)
    monkeypatch.setattr(leakage, "fit_critic", fit)
    monkeypatch.setattr(leakage, "BATCH", 256)
    monkeypatch.setattr(leakage, "CHECK_EVERY", 50)


def make_rows(name, speakers, utterances=6, sentences=30, seed=0):
    """Return utterances of sentences that are drawn for each speaker, so that some are shared."""
    rows = []
    for number in range(speakers):
        rng, speaker = np.random.default_rng([seed, number]), f"{name}{number:02d}"
        for sentence in rng.permutation(sentences)[:utterances].tolist():
            row = {"ID": f"{speaker}-{sentence}", "spk_id": speaker, "duration": SECONDS}
            rows.append({**row, "sentence": f"{name} {sentence}"})
    return rows


def make_alignment(row):
    """Return eight phones that the sentence decides."""
    phones = np.random.default_rng(list(row["sentence"].encode())).choice(PHONES, 8).tolist()
    edges = np.linspace(0, row["duration"], 9).tolist()
    return list(zip(edges, edges[1:], phones, strict=False))


def make_speech(speakers=16, seed=0):
    read, train = make_rows("read", speakers, seed=seed), make_rows("train", 60, utterances=3)
    alignments = {row["ID"]: make_alignment(row) for row in read + train}
    speech = Speech(
        read=read,
        train=train,
        alignments=alignments,
        texts=phone_texts(read, alignments, None),
        phones=drawn_phones(read, alignments, FRAMES),
        train_phones=drawn_phones(train, alignments, FRAMES),
        told_apart=False,
        trials=make_trials(read, False, 2000, seed=0),
        train_trials=make_trials(train, False, 2000, seed=0),
    )
    set_frame_targets(speech)
    set_utterance_targets(speech)
    return speech


def own_phones(row):
    """Return the number of each frame's phone."""
    phones = frame_phones(make_alignment(row), num_frames(round(row["duration"] * 16000)))
    return np.array([PHONES.index(phone) for phone in phones])


def rng_of(*names, seed=0):
    return np.random.default_rng([seed, *"|".join(names).encode()])


def mixture(leak):
    """Return a function from a row to frames of content and an embedding of voice, that leak."""
    codes = np.random.default_rng(1).normal(size=(len(PHONES), DIM))
    said, heard = np.linalg.qr(np.random.default_rng(2).normal(size=(DIM, DIM)))[0][
        : 2 * VOICE
    ].reshape(2, VOICE, DIM)

    def make(row):
        rng, voice = rng_of(row["ID"]), rng_of(row["spk_id"]).normal(size=VOICE)
        content = codes[own_phones(row)]
        z = content + leak * voice @ heard + 0.4 * rng.normal(size=content.shape)
        u = voice + leak * said @ content.mean(0)
        return z, u + 0.3 * rng.normal(size=VOICE)

    return make


def labels(row):
    """Return the phones and the speaker themselves."""
    speaker = int(row["spk_id"][-2:])
    return np.eye(len(PHONES))[own_phones(row)], np.eye(20)[speaker]


def noise(seed):
    """Return a function from a row to what knows nothing of it."""

    def make(row):
        rng = rng_of(row["ID"], seed=seed)
        return rng.normal(size=(num_frames(8000), DIM)), rng.normal(size=DIM)

    return make


def measure(monkeypatch, speech, make, *left_out):
    """Return the figures of made-up representations, by what is told of what by which measure."""
    for step in left_out:
        monkeypatch.setattr(report.Measurement, step, lambda self: None)

    def encode(system, rows, count, folder, whole=False):
        frames, embeddings = zip(*map(make, rows), strict=True)
        drawn = [x[draw_places(row, count)] for row, x in zip(rows, frames, strict=True)]
        return Encoded(
            np.stack(drawn)[:, :, None].astype("f4"),
            np.stack([x.mean(0) for x in frames]).astype("f4"),
            list(frames) if whole else None,
            np.stack(embeddings).astype("f4"),
        )

    monkeypatch.setattr(report, "encode", encode)
    system = SimpleNamespace(name="made up", kind="model")
    measurement = report.Measurement(system, speech, OPTIONS, None)
    measurement.measure_all()
    assert len(measurement.evidence) == len(measurement.figures)
    return {(f["representation"], f["factor"], f["measure"]): f for f in measurement.figures}


LEAKS = (0.0, 0.4, 1.6)
SPEAKER_IN_FRAMES = [  # what leaks into frames, and whether the measure rises with it
    ("frame, layer 0", "speaker", "balanced accuracy", 1),
    ("frame, pooled", "speaker", "balanced accuracy", 1),
    ("frame, pooled", "speaker", "EER", -1),
    ("frame, pooled", "sentence", "same sentence nearer", -1),
    ("frame, layer 0", "phone", "ABX error across, cosine", 1),
    ("frame, layer 0", "phone", "ABX error across, angular", 1),
]
CONTENT_IN_EMBEDDINGS = [
    ("utterance", "phone", "R2", 1),
    ("utterance", "speaker", "EER", 1),
    ("utterance", "sentence", "same sentence nearer", 1),
]
INFORMATION = [("z and u", "z and u", name, 1) for name in ("InfoNCE", "CLUB", "likelihood gain")]


@pytest.mark.recipe
def test_leakage_of_rising_strength_reads_rising_in_every_measure(quick, monkeypatch):
    speech = make_speech()
    found = [measure(monkeypatch, speech, mixture(leak)) for leak in LEAKS]
    for *key, sign in SPEAKER_IN_FRAMES + CONTENT_IN_EMBEDDINGS + INFORMATION:
        values = [figures[tuple(key)]["value"] for figures in found]
        assert all(np.diff(values) * sign > 0.03), (key, values)
    for key in (*SPEAKER_IN_FRAMES[:3], CONTENT_IN_EMBEDDINGS[0]):
        none, _, much = (figures[key[:3]] for figures in found)
        assert none["interval"][0] <= none["chance"] <= none["interval"][1], (key, none)
        assert not much["interval"][0] <= much["chance"] <= much["interval"][1], (key, much)
    for *key, _ in INFORMATION:
        none, _, much = (figures[tuple(key)] for figures in found)
        assert none["interval"][0] <= 0.02 and none["value"] < much["identical"] / 10
        assert none["value"] < much["value"] < much["identical"]
        assert abs(much["independent"]) < much["identical"] / 10 and much["interval"][0] > 0
    content, voice = ("frame, layer 0", "phone", "balanced accuracy"), ("utterance", "speaker")
    assert found[0][content]["value"] > 0.9
    assert found[0][*voice, "balanced accuracy"]["value"] > 0.9


@pytest.mark.recipe
def test_what_is_the_label_itself_reads_100_percent(quick, monkeypatch):
    found = measure(monkeypatch, make_speech(), labels, "inform", "draw")
    expected = {
        ("frame, layer 0", "phone", "balanced accuracy"): 1,
        ("frame, layer 0", "phone", "ABX error within, cosine"): 0,
        ("frame, layer 0", "phone", "ABX error across, angular"): 0,
        ("frame, pooled", "sentence", "same sentence nearer"): 1,
        ("utterance", "speaker", "balanced accuracy"): 1,
        ("utterance", "speaker", "EER"): 0,
        ("utterance", "sentence", "same sentence nearer"): 0,
    }
    for key, value in expected.items():
        assert found[key]["value"] == value, key
        assert found[key]["interval"] == [value, value], key
    mix = found["frame, pooled", "phone", "R2"]
    assert mix["value"] > 0.95 and mix["interval"][1] <= 1
    for key in (("frame, pooled", "speaker", "EER"), ("frame, pooled", "speaker")):
        figure = found[(*key, "balanced accuracy")[:3]]
        assert figure["interval"][0] <= figure["chance"] <= figure["interval"][1], key


@pytest.mark.recipe
def test_noise_reads_chance_and_intervals_cover_it(quick, monkeypatch):
    runs = []
    for seed in range(20):
        speech = make_speech(speakers=10, seed=seed)
        for targets in (speech.frame_targets, speech.utterance_targets):
            del targets["speaker"]
        runs.append(measure(monkeypatch, speech, noise(seed), "inform", "draw"))
    for key in runs[0]:
        figures = [run[key] for run in runs]
        covered = [f["interval"][0] <= f["chance"] <= f["interval"][1] for f in figures]
        mean = np.mean([f["value"] for f in figures])
        print(key, sum(covered), mean, figures[0]["interval"])
