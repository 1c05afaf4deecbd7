"""The synthetic corpus: the same bytes, phones in step with the audio; and the demo's table."""

import csv
import filecmp
import threading
from collections import defaultdict

import numpy as np
import pytest
import soundfile

from recipes.common.data.files import CorpusError
from recipes.common.data.table import read_manifest
from recipes.common.training.hparams import check_options
from recipes.Synthetic import corpus, demo, synthetic_prepare

pytestmark = pytest.mark.long

SPEAKERS = {"train": 2, "valid": 2, "test": 1}
EACH = corpus.SESSIONS * (corpus.SHARED + corpus.OWN)


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """A corpus of few speakers. Do not change it."""
    pytest.importorskip("espeakng_loader", reason="the corpus needs requirements-demo.txt")
    folder = tmp_path_factory.mktemp("synthetic") / "corpus"
    corpus.make_corpus(folder, num_workers=2, speakers=SPEAKERS)
    return folder


@pytest.fixture(scope="session")
def table(synthetic):
    """The rows of its utterances.csv."""
    with open(synthetic / "utterances.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def alignments(synthetic):
    """Each utterance's phones as (start, duration, name)."""
    phones = defaultdict(list)
    for split in SPEAKERS:
        for line in (synthetic / "alignments" / f"{split}.ctm").read_text().splitlines():
            utterance, channel, start, duration, name = line.split()
            assert channel == "1"
            phones[utterance].append((float(start), float(duration), name))
    return phones


def read(folder, row):
    path = folder / "wav" / row["speaker"] / corpus.path_of(row["ID"])
    audio, rate = soundfile.read(path)
    assert rate == 16000 and audio.ndim == 1
    return audio


@pytest.mark.long
def test_the_same_bytes_again_in_another_order(synthetic, tmp_path):
    again = tmp_path / "corpus"
    corpus.make_corpus(again, num_workers=1, speakers=dict(reversed(SPEAKERS.items())))
    names = [path.relative_to(synthetic).as_posix() for path in synthetic.rglob("*.[fc][lt]*")]
    assert len(names) == 5 * (EACH + 1) + 3
    _, mismatch, errors = filecmp.cmpfiles(synthetic, again, names, shallow=False)
    assert not mismatch and not errors


@pytest.mark.long
def test_what_is_there_is_kept_and_what_is_missing_made_again(synthetic, tmp_path):
    again = tmp_path / "corpus"
    again.mkdir()
    (again / "corpus.json").write_bytes((synthetic / "corpus.json").read_bytes())
    for name in ("train00", "train01", "valid00", "valid01"):
        (again / "wav").mkdir(exist_ok=True)
        (again / "wav" / name).symlink_to(synthetic / "wav" / name)
    (again / "wav" / ".test00").mkdir()  # begun and interrupted
    corpus.make_corpus(again, num_workers=1, speakers=SPEAKERS)
    for name in ("utterances.csv", "alignments/test.ctm", "wav/test00/3/004.flac"):
        assert (again / name).read_bytes() == (synthetic / name).read_bytes()
    before = (again / "utterances.csv").stat().st_mtime_ns
    corpus.make_corpus(again, speakers=SPEAKERS)
    assert (again / "utterances.csv").stat().st_mtime_ns == before


def test_a_folder_of_something_else_is_refused(synthetic, tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(CorpusError, match="something else"):
        corpus.make_corpus(tmp_path)
    with pytest.raises(CorpusError, match="other settings"):
        corpus.make_corpus(synthetic, speakers={"train": 3})
    (tmp_path / "corpus.json").write_text("[]")
    with pytest.raises(CorpusError, match="how many speakers"):
        corpus.make_corpus(tmp_path)
    (tmp_path / "corpus.json").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_phones_cover_the_audio(synthetic, table, alignments):
    assert len(table) == len(alignments) == 5 * EACH
    for row in table:
        phones = alignments[row["ID"]]
        ends = [start + duration for start, duration, _ in phones]
        assert phones[0][0] == 0 and min(duration for _, duration, _ in phones) > 0
        assert np.allclose(ends[:-1], [start for start, _, _ in phones[1:]], atol=2e-4)
        assert ends[-1] == pytest.approx(len(read(synthetic, row)) / 16000, abs=2e-4)


def test_phones_are_where_they_sound(synthetic, table, alignments):
    levels = defaultdict(list)
    for row in table:
        audio = read(synthetic, row)
        for start, duration, name in alignments[row["ID"]]:
            if duration > 0.03:
                part = audio[round(start * 16000) : round((start + duration) * 16000)]
                levels[name].append(np.log10(np.mean(part**2)) - np.log10(np.mean(audio**2)))
    mean = {name: 10 * np.mean(values) for name, values in levels.items()}  # dB
    assert all(mean["sil"] < mean[vowel] - 6 for vowel in ("aI", "eI", "oU", "i:", "E"))
    assert len(mean) > 35 and all(not name.startswith(("'", ",", "_")) for name in mean)
    for row in table:
        spoken = [name for _, _, name in alignments[row["ID"]] if name != "sil"]
        assert 2 * len(row["words"].split()) <= len(spoken) <= 6 * len(row["words"].split())
        assert 5 < len(spoken) / alignments[row["ID"]][-1][0] < 20  # in a second


def test_splits_share_no_speaker_and_no_sentence():
    for split, lines in corpus.SENTENCES.items():
        for other, others in corpus.SENTENCES.items():
            assert split == other or not set(lines) & set(others)
    lines = corpus.read_sentences()
    assert len(set(lines)) == len(lines) == sum(map(len, corpus.SENTENCES.values()))


def test_all_speakers_of_a_split_share_sentences(table):
    said = defaultdict(set)
    for row in table:
        said[row["speaker"]].add(row["sentence"])
    assert all(len(sentences) == EACH for sentences in said.values())  # none twice
    assert 8 <= len(said["train00"] & said["train01"]) < EACH
    assert not said["train00"] & said["valid00"]


def test_speakers_differ_as_full_splits(tmp_path):
    for split, count in corpus.SPEAKERS.items():
        voices = [corpus.voice(split, number, count) for number in range(count)]
        pitches = sorted(float(voice["pitch"].split()[0]) for voice in voices)
        assert len(set(map(str, voices))) == count >= 8
        assert pitches[0] < 100 and pitches[-1] > 215
    assert sum(corpus.SPEAKERS.values()) >= 40


def test_sessions_of_a_speaker_have_channels_of_their_own(synthetic, table):
    spectra = defaultdict(list)
    for row in table:
        if row["speaker"] == "train00":
            frames = read(synthetic, row)[: 16000 * 2 // 512 * 512].reshape(-1, 512)
            power = (np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2).mean(0)
            bands = power[1:].reshape(16, 16).mean(1)
            spectra[row["session"]].append(10 * np.log10(bands))
    means = np.stack([np.mean(values, 0) for _, values in sorted(spectra.items())])
    within = np.mean([np.std(values, 0).mean() for values in spectra.values()])
    assert len(means) == 4
    for first in range(4):
        for second in range(first):
            difference = means[first] - means[second]
            assert np.std(difference) > 2  # dB, beside the level
    assert means.std(0).mean() > within


def test_manifest_of_a_corpus_of_another_size(synthetic, tmp_path):
    synthetic_prepare.prepare_synthetic(synthetic, tmp_path, ["train", "test"])
    assert len(list((synthetic / "wav").iterdir())) == sum(SPEAKERS.values())
    rows = read_manifest(tmp_path / "train.csv")
    assert len(rows) == 2 * EACH and {row["spk_id"] for row in rows} == {"train00", "train01"}
    assert rows[0]["wrd"] == corpus.words(corpus.read_sentences()[0])
    assert rows[0]["phn"].startswith("sil D @2 f E r i")


def test_the_table_has_a_line_for_each_model_and_what_was_not_measured():
    figures = [
        {"model": model, "representation": "utterance", "factor": "speaker", "measure": "EER"}
        | {"probe": None, "value": value, "interval": [value - 0.05, value + 0.05]}
        for model, value in (("joint", 0.1), ("FBANK", 0.3))
    ]
    figures.append({**figures[0], "probe": "MLP", "measure": "R2", "factor": "phone"})
    report = {"models": [{"name": "joint"}, {"name": "FBANK"}], "figures": figures}
    head, joint, fbank = demo.make_table(report).splitlines()
    assert all(name in head for name in demo.COLUMNS) and len(head) == len(joint) == len(fbank)
    assert joint.split() == ["joint", "-", "-", "10.0", "[5.0,", "15.0]", "-"]
    assert "30.0 [25.0, 35.0]" in fbank


@pytest.mark.parametrize("name", demo.REPORT)
def test_the_options_of_the_report_are_those_of_its_file(name):
    words = [*demo.REPORT[name], "--models", "[A,B]", "--manifest_folder", "M"]
    given = dict(zip([w.removeprefix("--") for w in words[::2]], words[1::2], strict=True))
    yaml = demo.REPOSITORY / "recipes" / name / "report" / "hparams" / "report.yaml"
    check_options(yaml, given)
    assert demo.PREPARE[name][1][-1] in yaml.read_text()


def test_a_run_that_has_ended_is_left_alone_and_one_that_fails_stops_the_demo(tmp_path):
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "metrics.json").write_text("{}")
    demo.run("Synthetic/pretrain", "frame_tiny.yaml", tmp_path / "done", ["--unknown", "1"])
    with pytest.raises(SystemExit, match="ended with code 3"):
        demo.start(["-c", "raise SystemExit(3)"], tmp_path)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (5, 2)])
def test_runs_share_the_cores_and_one_that_fails_stops_the_demo(
    tmp_path, monkeypatch, cores, threads
):
    together, seen = threading.Barrier(min(cores, 2)), []

    def start(words, folder, threads):
        together.wait(timeout=10)  # broken unless as many runs as there are cores are at work
        seen.append((words[1], "--beta" in words, "--noprogressbar" in words, threads))

    monkeypatch.setattr(demo, "start", start)
    monkeypatch.setattr(demo.os, "cpu_count", lambda: cores)
    demo.train_side_by_side("Synthetic", demo.RUNS[1], tmp_path, ["--data_folder", "D"])
    file, quiet = "hparams/joint_tiny.yaml", cores > 1
    assert sorted(seen) == [(file, beta, quiet, threads) for beta in (False, True)]

    def fail(*_):
        raise SystemExit("ended with code 3")

    monkeypatch.setattr(demo, "start", fail)
    with pytest.raises(SystemExit, match="ended with code 3"):
        demo.train_side_by_side("Synthetic", demo.RUNS[1], tmp_path, [])


def test_results_of_other_data_are_refused(tmp_path):
    demo.claim(tmp_path, tmp_path / "a")
    demo.claim(tmp_path, tmp_path / "a")
    with pytest.raises(SystemExit, match="another --results"):
        demo.claim(tmp_path, tmp_path / "b")
