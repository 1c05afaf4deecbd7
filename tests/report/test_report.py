"""The report finds what was put into made-up representations, and nothing where nothing was."""

import json
import os
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from lobes.frame_encoder import FrameEncoder
from lobes.signal import num_frames
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.exported import save_model
from recipes.common.annotations.alignments import frame_phones, write_ctm
from recipes.common.evaluation import information, probe_fitting
from recipes.common.evaluation.comparison import ATTACKED
from recipes.common.report import measurement, report
from recipes.common.report.measures import make_trials, nearer_sentence
from recipes.common.report.phone_errors import read_phone_errors
from recipes.common.report.representations import Encoded, draw_places
from recipes.common.report.speech import (
    PER_SPEAKER,
    Speech,
    check_trials,
    draw_rows,
    drawn_phones,
    load_rows,
    phone_texts,
    set_targets,
)
from recipes.common.training.limits import check_limits
from recipes.common.units.unit_purity import PHONE_MEASURES

RECIPE = Path(report.__file__).parents[2] / "LibriSpeech" / "report"
PHONES = ("AA", "B", "D", "IY")
SECONDS = 0.5
FRAMES = 4  # drawn of each utterance
DIM, VOICE = 8, 3
OPTIONS = {"seed": 1, "seeds": [1], "frames_per_utterance": FRAMES, "max_items": 3}
OPTIONS |= {"max_speakers": 2, "hidden_dim": 16, "num_workers": 0, "num_units": 4}
OPTIONS |= {"probes": ["linear"], "information": True}


@pytest.fixture
def quick(monkeypatch):
    """Short fits: what is planted here is found at once."""
    monkeypatch.setattr(probe_fitting, "MAX_STEPS", 60)
    monkeypatch.setattr(information, "INFORMATION_BATCH", 256)
    brief = partial(measurement.measure_information, steps=200)
    monkeypatch.setattr(measurement, "measure_information", brief)


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
    """Return eight phones that the sentence decides, each another than the one before."""
    steps = np.random.default_rng(list(row["sentence"].encode())).integers(1, len(PHONES), 8)
    phones = [PHONES[number] for number in np.cumsum(steps) % len(PHONES)]
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
    set_targets(speech)
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
        u = voice + 4 * leak * said @ content.mean(0)
        return z, u + 0.3 * rng.normal(size=VOICE)

    return make


def labels(row):
    """Return the phones and the speaker themselves."""
    speaker = int(row["spk_id"][-2:])
    return np.eye(len(PHONES))[own_phones(row)], np.eye(60)[speaker]


def noise(seed):
    """Return a function from a row to what knows nothing of it."""

    def make(row):
        rng = rng_of(row["ID"], seed=seed)
        return rng.normal(size=(num_frames(8000), DIM)), rng.normal(size=DIM)

    return make


def measure(speech, make, *left_out, probed=None):
    """Return the figures of made-up representations, by what is told of what by which measure.

    `left_out` are steps of `Measurement`. `probed` are pairs of a representation and what is told
    of it, where not all of them are to be probed.
    """

    def encode(system, rows, count, folder, whole=False):
        frames, embeddings = zip(*map(make, rows), strict=True)
        drawn = [x[draw_places(row, count)] for row, x in zip(rows, frames, strict=True)]
        return Encoded(
            np.stack(drawn)[:, :, None].astype("f4"),
            np.stack([x.mean(0) for x in frames]).astype("f4"),
            list(frames) if whole else None,
            np.stack(embeddings).astype("f4"),
        )

    def leak(made, vectors):
        plan_to_leak(made, vectors)
        if probed is not None:
            made.jobs = [job for job in made.jobs if job[0].args[1:] in probed]

    plan_to_leak = measurement.Measurement.leak
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "encode", encode)
        patch.setattr(measurement.Measurement, "leak", leak)
        for step in left_out:
            patch.setattr(measurement.Measurement, step, lambda *given: None)
        system = SimpleNamespace(name="made up", kind="model")
        made = measurement.Measurement(system, speech, OPTIONS, None)
        made.measure_all()
    assert len(made.evidence) == len(made.figures)
    return {(f["representation"], f["factor"], f["measure"]): f for f in made.figures}


def covers_chance(figure):
    low, high = figure["interval"]
    return low <= figure["chance"] <= high


LEAKS = (0.0, 0.2, 0.5, 2.0)
WEAK = LEAKS[1]
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


@pytest.mark.long
def test_leakage_of_rising_strength_reads_rising_in_every_measure(quick):
    speech, found = make_speech(), []
    for leak in LEAKS:
        # Of the weak one the information alone is looked at.
        left_out = ["leak", "discriminate", "retrieve"] if leak == WEAK else []
        found.append(measure(speech, mixture(leak), "cluster", "draw", *left_out))
    graded = [found[0], *found[2:]]  # what shows in weak leaks is full in strong ones
    for keys, runs in (
        (SPEAKER_IN_FRAMES + CONTENT_IN_EMBEDDINGS, graded),
        (INFORMATION, found[:3]),
    ):
        for *key, sign in keys:
            values = [figures[tuple(key)]["value"] for figures in runs]
            assert all(np.diff(values) * sign > 0.01), (key, values)
    for key in (*SPEAKER_IN_FRAMES[:3], CONTENT_IN_EMBEDDINGS[0]):
        assert not covers_chance(found[-1][key[:3]]), (key, found[-1][key[:3]])
    for *key, _ in INFORMATION:
        none, much = (figures[tuple(key)] for figures in (found[0], found[-1]))
        assert none["interval"][0] <= 0.02 and none["value"] < much["identical"] / 10
        assert none["value"] < much["value"] < much["identical"]
        assert abs(much["independent"]) < much["identical"] / 10 and much["interval"][0] > 0
    assert found[0]["frame, layer 0", "phone", "balanced accuracy"]["value"] > 0.9
    assert found[0]["utterance", "speaker", "balanced accuracy"]["value"] > 0.7


@pytest.mark.long
def test_leakage_of_none_reads_chance_within_its_interval(quick):
    keys = [tuple(key) for *key, _ in (*SPEAKER_IN_FRAMES[:3], CONTENT_IN_EMBEDDINGS[0])]
    runs, probed = [], {key[:2] for key in keys}
    for seed in range(14):
        left_out = ("inform", "draw", "discriminate", "cluster")
        runs.append(measure(make_speech(seed=seed), mixture(0.0), *left_out, probed=probed))
    for key in keys:
        assert sum(covers_chance(run[key]) for run in runs) >= 11, key


@pytest.mark.long
def test_what_is_the_label_itself_reads_100_percent(quick):
    found = measure(make_speech(), labels, "inform", "draw")
    expected = {
        ("frame, layer 0", "phone", "balanced accuracy"): 1,
        ("frame, layer 0", "phone", "ABX error within, cosine"): 0,
        ("frame, layer 0", "phone", "ABX error across, angular"): 0,
        ("utterance", "speaker", "balanced accuracy"): 1,
        ("utterance", "speaker", "EER"): 0,
        ("utterance", "sentence", "same sentence nearer"): 0,
    }
    for key, value in expected.items():
        assert found[key]["value"] == pytest.approx(value, abs=1e-9), key
        assert found[key]["interval"] == pytest.approx([value, value], abs=1e-9), key
    for measure_name in PHONE_MEASURES:
        figure = found["frame, layer 0", "phone", measure_name]
        assert figure["value"] == pytest.approx(1) and figure["control"] < 0.5
    assert 0.9 < found["frame, pooled", "phone", "R2"]["value"] <= 1
    # Below 1 only where two sentences have the same phones in another order.
    assert found["frame, pooled", "sentence", "same sentence nearer"]["value"] > 0.99


def signs(row):
    """Return frames of mean 0 and deviation 1; the signs of correlations tell the speaker."""
    rng, number = rng_of(row["ID"]), int(row["spk_id"][-2:])
    first, other = rng.normal(size=(2, num_frames(8000), 4))
    told = np.array([1.0 if number >> bit & 1 else -1.0 for bit in range(4)])
    frames = np.hstack([first, 0.95 * told * first + 0.3 * other])
    return (frames - frames.mean(0)) / frames.std(0), rng.normal(size=VOICE)


def test_the_attacker_of_the_verdict_finds_what_means_and_deviations_do_not_tell(quick):
    left_out = ("inform", "discriminate", "retrieve", "cluster", "draw")
    own = [("frame, pooled", "speaker"), (measurement.SPREAD, "speaker"), (ATTACKED, "speaker")]
    found = measure(make_speech(), signs, *left_out, probed=set(own))
    means, spread, attacked = (found[(*key, "balanced accuracy")]["value"] for key in own)
    assert means < 0.2 and spread < 0.2 and attacked > 0.6


def test_critics_are_left_out_where_that_is_asked_for_and_it_is_told(monkeypatch):
    told = []
    monkeypatch.setattr(measurement.Measurement, "miss", lambda self, *what: told.append(what))
    for step in ("leak", "retrieve"):
        monkeypatch.setattr(measurement.Measurement, step, lambda *_: None)
    monkeypatch.setitem(OPTIONS, "information", False)
    assert not measure(make_speech(), noise(1), "cluster", "discriminate", "draw")
    assert told == [("mutual information of z and u", "It was left out (--information False).")]


@pytest.mark.long
def test_noise_reads_chance_and_intervals_cover_it(quick):
    runs = []
    for seed in range(12):
        speech = make_speech(speakers=10, seed=seed)
        for targets in (speech.frame_targets, speech.utterance_targets):
            del targets["speaker"]
        runs.append(measure(speech, noise(seed), "inform", "draw", "cluster"))
    assert len(runs[0]) == 11
    for key in runs[0]:
        figures = [run[key] for run in runs]
        mean = np.mean([f["value"] for f in figures])
        room = 0.1 if key[2] == "R2" else 0.06  # probes that overfit noise read an R2 below 0
        assert sum(map(covers_chance, figures)) >= 9, (key, figures)
        assert abs(mean - figures[0]["chance"]) < room, (key, mean)


def test_trials_compare_other_sentences_of_other_sessions_and_are_drawn_alike():
    rows = make_rows("read", 5, sentences=8)
    rows = [{**row, "session": place % 3} for place, row in enumerate(rows)]
    by_name = {row["ID"]: row for row in rows}
    for told_apart in (False, True):
        trials = make_trials(rows, told_apart, 10**6, seed=0)
        expected = {
            (int(a["spk_id"] == b["spk_id"]), a["ID"], b["ID"])
            for place, a in enumerate(rows)
            for b in rows[place + 1 :]
            if a["sentence"] != b["sentence"] and not (told_apart and a["session"] == b["session"])
        }
        assert len(trials) == len(expected) and set(trials) == expected
        few = make_trials(rows, told_apart, 7, seed=0)
        assert [label for label, *_ in few] == [1] * 7 + [0] * 7 and set(few) < expected
        assert (
            few == make_trials(rows, told_apart, 7, seed=0) != make_trials(rows, told_apart, 7, 1)
        )
    unknown = [{"ID": name, "spk_id": row["spk_id"]} for name, row in by_name.items()]
    assert len(make_trials(unknown, False, 10**6, seed=0)) == len(rows) * (len(rows) - 1) // 2


@pytest.mark.parametrize("told_apart", [False, True])
def test_the_nearer_sentence_is_that_of_loops(told_apart):
    rng = np.random.default_rng(0)
    rows = make_rows("read", 5, sentences=8)
    rows = [{**row, "session": place % 3} for place, row in enumerate(rows)]
    vectors = {row["ID"]: rng.normal(size=3) for row in rows}
    unit = {name: vector / np.linalg.norm(vector) for name, vector in vectors.items()}

    def cosine(a, b):
        return np.round(unit[a["ID"]] @ unit[b["ID"]], 12)

    expected, anchors = [], []
    for x in rows:
        counts = [
            (cosine(x, a) > cosine(x, b)) + 0.5 * (cosine(x, a) == cosine(x, b))
            for a in rows
            for b in rows
            if a["sentence"] == x["sentence"] and a["spk_id"] != x["spk_id"]
            if b["spk_id"] == x["spk_id"] and b["sentence"] != x["sentence"]
            if not (told_apart and b["session"] == x["session"])
        ]
        if counts:
            expected.append(np.mean(counts))
            anchors.append(x["spk_id"])
    shares, speakers = nearer_sentence(vectors, rows, told_apart)
    assert speakers == anchors
    np.testing.assert_allclose(shares, expected, atol=1e-12)


def test_a_draw_takes_turns_of_speakers_and_leaves_some_out():
    rows = [{"ID": f"{s}-{n}", "spk_id": s} for s in range(10) for n in range(3 + 4 * s)]
    drawn = draw_rows(rows, 60)
    counts = Counter(row["spk_id"] for row in drawn)
    assert len(drawn) == 60 and len(counts) == 60 // PER_SPEAKER
    assert all(row in rows for row in drawn) and len({row["ID"] for row in drawn}) == 60
    left = [count for speaker, count in counts.items() if count < 3 + 4 * speaker]
    assert max(left) - min(left) <= 1 and max(counts.values()) <= max(left) + 1
    assert draw_rows(rows, None) is rows and draw_rows(rows, len(rows)) is rows


@pytest.mark.parametrize(("speakers", "known"), [(3, False), (4, True)])
def test_phones_of_few_speakers_are_not_probed_and_that_is_told(speakers, known):
    speech = make_speech(speakers)
    assert ("phone" in speech.utterance_targets) == known == bool(speech.texts)
    lacking = [entry["why"] for entry in speech.missing if "phone error rate" in entry["what"]]
    assert known or "fewer than 4 speakers" in lacking[0]


def test_voices_are_not_told_apart_of_one_speaker_or_of_single_utterances():
    rows = make_rows("read", 3)
    check_trials("read_splits", make_trials(rows, False, 100, seed=0))
    for own, why in ((rows[:2], "no two speakers"), (rows[::6], "no speaker says two")):
        with pytest.raises(ValueError, match=f"read_splits: .*{why}"):
            check_trials("read_splits", make_trials(own, False, 100, seed=0))


def test_sessions_are_found_in_names_or_refused(tmp_path):
    lines = ["ID,duration,wav,spk_id,wrd", "a-1-7,1.0,$data_root/a.wav,a,Now  then"]
    lines += ["b-2-8,0.2,$data_root/b.wav,b,x", ""]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    options = {"data_folder": "D", "session": ".*-", "min_seconds": 0.5}
    [row] = load_rows([tmp_path / "x.csv"], options)
    assert row["session"] == "a-1-" and row["sentence"] == "NOW THEN"
    assert row["wav"] == Path("D") / "a.wav"
    with pytest.raises(ValueError, match="finds none in a-1-7"):
        load_rows([tmp_path / "x.csv"], {**options, "session": "z"})


def test_what_is_wanted_of_each_figure():
    wanted = {
        ("frame, layer 2", "phone", "balanced accuracy"): "high",
        ("frame, layer 2", "phone", "ABX error across, cosine"): "low",
        ("frame, layer 2", "phone", "PNMI"): "high",
        ("frame, pooled", "speaker", "EER"): "high",
        ("frame, weighted sum", "speaker", "balanced accuracy"): "low",
        ("utterance", "speaker", "EER"): "low",
        ("utterance", "sentence", "same sentence nearer"): "low",
        ("utterance", "session", "balanced accuracy"): None,
        ("z and u", "z and u", "InfoNCE"): "low",
    }
    assert {key: measurement.wanted(*key) for key in wanted} == wanted


def test_a_model_is_described_by_its_run(tmp_path):
    (tmp_path / "hyperparams.yaml").write_text("beta: 0.5\nseed: 3\nframe_norm: mean\n")
    system = SimpleNamespace(name="a", kind="model", folder=str(tmp_path / "model"))
    expected = {"name": "a", "kind": "model", "folder": system.folder, "beta": 0.5, "train_seed": 3}
    expected["frame_norm"] = "mean"
    assert report.describe(system) == expected
    bands = SimpleNamespace(name="FBANK", kind="fbank", folder=None)
    assert report.describe(bands)["beta"] is None


@pytest.mark.parametrize("name", ["models", "seeds", "read_splits", "train_splits"])
@pytest.mark.parametrize("value", [[], "A", None])
def test_an_option_that_is_no_list_is_refused_by_name(name, value):
    options = {key: [1] for key in ("models", "seeds", "read_splits", "train_splits")}
    with pytest.raises(ValueError, match=f"{name} is .* expected a list"):
        check_limits({**options, name: value})


def test_a_rival_is_compared_with_its_model_alone():
    systems = [
        SimpleNamespace(name=n, rival_of=r) for n, r in (("a", None), ("b", None), ("c", "b"))
    ]
    figure = {"representation": "frame, pooled", "factor": "speaker", "probe": "linear"}
    figure |= {"measure": "balanced accuracy", "group_names": ["x", "y", "z"], "seeds": [1]}
    evidence = {
        name: [{**figure, "group_scores": [[share, share, share + 0.1]]}]
        for name, share in (("a", 0.1), ("b", 0.2), ("c", 0.3))
    }
    found = report.compare_systems(systems, evidence, seed=1)
    assert [(entry["first"], entry["second"]) for entry in found] == [("a", "b"), ("b", "c")]


def test_measures_that_are_kept_are_those_that_were_written(tmp_path):
    made = SimpleNamespace(
        figures=[{"value": 0.25, "interval": None}, {"value": 1.0, "interval": [0, 1]}],
        evidence=[{"group_names": np.array(["a", "b"]), "group_scores": np.eye(2)}, {}],
        maps=[],
        det=[{"eer": 0.1}],
        missing=[{"what": "x", "why": "y"}],
    )
    assert measurement.load_measures(tmp_path, "key") is None
    measurement.save_measures(tmp_path, "key", made, 1.23)
    found = measurement.load_measures(tmp_path, "key")
    assert found["seconds"] == 1.2
    for name in ("figures", "maps", "det", "missing"):
        assert found[name] == getattr(made, name)
    assert [sorted(evidence) for evidence in found["evidence"]] == [
        ["group_names", "group_scores"],
        [],
    ]
    np.testing.assert_array_equal(found["evidence"][0]["group_scores"], np.eye(2))
    assert measurement.load_measures(tmp_path, "another key") is None


@pytest.mark.long
def test_phone_errors_of_labels_are_few_and_of_noise_as_many_as_of_dealt_transcripts():
    rows = make_rows("read", 8, sentences=40)
    texts = [" ".join(phone for *_, phone in make_alignment(row)) for row in rows]
    speakers = [row["spk_id"] for row in rows]
    told = [4 * np.eye(len(PHONES))[own_phones(row)] for row in rows]
    result = read_phone_errors(told, texts, speakers, seed=1)
    assert result["value"] < result["control"] - 0.15
    assert result["interval"][0] <= result["value"] <= result["interval"][1]
    assert result["evidence"]["group_scores"].mean() == pytest.approx(result["value"])
    silent = [noise(0)(row)[0] for row in rows]
    result = read_phone_errors(silent, texts, speakers, seed=1)
    assert abs(result["selectivity"]) < 0.1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_voice):
    """A LibriSpeech tree of 10 training speakers and 5 others, alignments, and two models."""
    root = tmp_path_factory.mktemp("report")
    alignments = {}
    for split, readers, count in (
        ("train-clean-100", range(11, 21), 3),
        ("dev-clean", range(21, 26), 4),
    ):
        for reader in readers:
            folder = root / "LibriSpeech" / split / str(reader) / "1"
            folder.mkdir(parents=True)
            lines = []
            for number in range(count):
                name = f"{reader}-1-{number:04d}"
                audio = make_voice(reader, seed=number)
                soundfile.write(folder / f"{name}.flac", audio, 16000)
                lines.append(f"{name} {' '.join(['WORD'] * (number + 1))}\n")
                row = {"sentence": name, "duration": len(audio) / 16000}
                alignments[name] = make_alignment(row)
            (folder / f"{reader}-1.trans.txt").write_text("".join(lines))
    (root / "alignments").mkdir()
    write_ctm(alignments, root / "alignments" / "all.ctm")
    for seed, (name, beta) in enumerate((("joint", 0.5), ("control", 0.0))):
        torch.manual_seed(seed)
        encoders = {
            "frame_encoder": FrameEncoder("fbank", 16, 16, 1, 2, 32, pos_conv_kernel=4),
            "utterance_encoder": UtteranceEncoder("tdnn", channels=8, embedding_dim=6),
        }
        save_model(root / name / "model", encoders)
        (root / name / "hyperparams.yaml").write_text(f"beta: {beta}\nseed: 7\n")
    return root


@pytest.mark.long
def test_the_command_writes_a_report_and_goes_on_where_it_was(corpus, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(RECIPE)
    models = [str(corpus / name / "model") for name in ("joint", "control")]
    options = {
        "data_folder": corpus / "LibriSpeech",
        "output_folder": tmp_path / "O",
        "alignments": corpus / "alignments",
        "read_splits": "[dev-clean]",
        "seeds": "[1]",
        "frames_per_utterance": 2,
        "max_items": 2,
        "hidden_dim": 8,
        "num_units": 8,
        "num_workers": 0,
        "probes": "[linear]",
        "controls": False,
    }

    def run(models, page=False):
        pairs = {**options, "models": f"[{','.join(models)}]"}.items()
        with pytest.MonkeyPatch.context() as patch:
            if not page:  # which takes longer than all else that is not measured again
                patch.setattr(report, "write_page", lambda *given: None)
            report.run(["hparams/report.yaml", *(str(x) for k, v in pairs for x in (f"--{k}", v))])
        return json.loads((tmp_path / "O" / "report.json").read_text())

    first = run(models[:1])
    assert [model["name"] for model in first["models"]] == ["joint"]
    assert first["comparisons"] == [] and first["verdict"]["supports"] is None
    kept = tmp_path / "O" / "models" / "joint" / "measures.json"
    before = kept.stat().st_mtime_ns
    both = run(models, page=True)
    assert kept.stat().st_mtime_ns == before
    assert [figure for figure in both["figures"] if figure["model"] == "joint"] == first["figures"]
    assert [(m["name"], m["beta"], m["train_seed"]) for m in both["models"]] == [
        ("joint", 0.5, 7),
        ("control", 0.0, 7),
    ]
    assert both["read_on"]["speakers"] == 5 and both["read_on"]["utterances"] == 20
    assert {figure["probe"] for figure in both["figures"]} == {"linear", None}
    told = {(f["representation"], f["factor"], f["measure"]) for f in both["figures"]}
    for key in (
        ("frame, layer 1", "phone", "balanced accuracy"),
        ("frame, weighted sum", "speaker", "balanced accuracy"),
        ("frame, layer 1", "phone", "ABX error across, cosine"),
        ("frame, layer 0", "phone", "PNMI"),
        ("utterance", "speaker", "EER"),
        ("z and u", "z and u", "InfoNCE"),
    ):
        assert key in told, key
    assert both["comparisons"] and both["verdict"]["sentences"]
    assert set(both["notes"]) == {figure["measure"] for figure in both["figures"]}
    page = (tmp_path / "O" / "report.html").read_text(encoding="utf-8")
    assert both["verdict"]["sentences"][0][:40] in page
    monkeypatch.setattr(measurement, "Measurement", None)  # nothing is measured a third time
    again = run(models)
    assert again["figures"] == both["figures"] and again["comparisons"] == both["comparisons"]
    monkeypatch.setattr(measurement, "digest_code", lambda *places: "other code")
    with pytest.raises(TypeError, match="not callable"):  # measured anew, by nothing
        run(models)
    monkeypatch.undo()
    monkeypatch.chdir(RECIPE)
    monkeypatch.setattr(measurement, "Measurement", None)
    run(models)
    os.utime(next((corpus / "LibriSpeech" / "dev-clean").rglob("*.flac")))
    with pytest.raises(TypeError, match="not callable"):
        run(models)
