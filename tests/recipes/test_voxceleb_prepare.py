"""VoxCeleb preparation: training speakers, identification, verification trials."""

import os
import subprocess
from pathlib import Path

import pytest

from recipes.common.corpora.preparation import BadAudioError
from recipes.common.data.files import CorpusError
from recipes.common.data.manifest import validate_manifests, write_manifest
from recipes.common.data.table import read_manifest
from recipes.VoxCeleb.voxceleb_prepare import prepare_voxceleb, read_trials, trials_path

LISTS = ("veri_dev", "veri_test2")
PARTS = ("iden_train", "iden_valid", "iden_test")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "manifest"


def ids(path):
    return {row["ID"] for row in read_manifest(path)}


def speakers(path):
    return {row["spk_id"] for row in read_manifest(path)}


def refuse(root, out, *messages, error=CorpusError, splits=LISTS, **options):
    """Assert that a tree is refused with all of the messages, and that nothing was written."""
    with pytest.raises(error) as caught:
        prepare_voxceleb(root, out, splits, **options)
    for message in messages:
        assert str(message) in str(caught.value)
    assert not out.exists()
    return str(caught.value)


def test_the_utterances_of_each_list(voxceleb1, out):
    prepare_voxceleb(voxceleb1, out, LISTS)
    rows = {row["ID"]: row for row in read_manifest(out / "veri_dev.csv")}
    assert len(rows) == 18 and {row["spk_id"] for row in rows.values()} == {
        "id00017",
        "id00018",
        "id00019",
    }
    wav = "$data_root/wav/id00017/session170/00000.wav"
    assert rows["id00017-session170-00000"]["wav"] == wav
    assert rows.keys().isdisjoint(ids(out / "veri_test2.csv"))


def test_only_what_a_list_names_is_in_its_manifest(voxceleb1_copy, out):
    path = trials_path(voxceleb1_copy, "veri_dev")
    path.write_text(path.read_text().splitlines()[0])
    prepare_voxceleb(voxceleb1_copy, out, ["veri_dev"])
    assert len(ids(out / "veri_dev.csv")) == 2
    assert not (out / "veri_test2.csv").exists()


def test_trials_name_the_utterances_of_the_manifest(voxceleb1, out):
    prepare_voxceleb(voxceleb1, out, LISTS)
    known = ids(out / "veri_test2.csv")
    trials = read_trials(trials_path(voxceleb1, "veri_test2"), known)
    assert len(trials) == 18 * 17 // 2
    assert {name for _, *pair in trials for name in pair} == known
    for label, enrol, test in trials:
        assert label == (enrol.split("-")[0] == test.split("-")[0])


BAD_LINES = {
    "label": "2 id00017/session170/00000.wav id00017/session170/00001.wav",
    "no label": "id00017/session170/00000.wav id00017/session170/00001.wav",
    "one path": "1 id00017/session170/00000.wav",
    "four fields": "1 id1/a/1.wav id1/a/2.wav id1/a/3.wav",
    "no session": "1 id00017/00000.wav id00017/session170/00001.wav",
    "another folder": "1 ../session170/00000.wav id00017/session170/00001.wav",
    "absolute path": "1 /session170/00000.wav id00017/session170/00001.wav",
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_malformed_line_is_named(line, voxceleb1_copy, out):
    path = trials_path(voxceleb1_copy, "veri_dev")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], line, *lines[4:]]))
    refuse(voxceleb1_copy, out, f"{path}, line 5")
    with pytest.raises(CorpusError, match="veri_dev.txt, line 5"):
        read_trials(path)


def test_a_list_that_is_not_text_is_named(voxceleb1_copy, out):
    path = trials_path(voxceleb1_copy, "veri_dev")
    path.write_bytes(b"1 id\xe9/a/1.wav id1/a/2.wav\n")
    refuse(voxceleb1_copy, out, f"{path}, line 1: not text in UTF-8")


def test_a_list_without_trials(voxceleb1_copy, out):
    path = trials_path(voxceleb1_copy, "veri_dev")
    path.write_text("")
    refuse(voxceleb1_copy, out, f"{path} holds no trial")


def test_a_missing_list_and_what_is_there(voxceleb1_copy, out):
    path = trials_path(voxceleb1_copy, "veri_dev")
    path.unlink()
    refuse(voxceleb1_copy, out, f"{path} is missing", "veri_test2")
    prepare_voxceleb(voxceleb1_copy, out, ["veri_test2"])


def test_a_missing_data_folder(tmp_path, out):
    refuse(tmp_path / "gone", out, tmp_path / "gone")


def test_a_missing_file_is_named_with_its_line(voxceleb1_copy, out):
    wav = voxceleb1_copy / "wav" / "id00017" / "session170" / "00002.wav"
    wav.unlink()
    refuse(voxceleb1_copy, out, f"{trials_path(voxceleb1_copy, 'veri_dev')}, line 2: {wav}")


@pytest.fixture
def with_bad_audio(voxceleb1_copy):
    """A tree in which one utterance is cut short, and the utterance's path."""
    wav = voxceleb1_copy / "wav" / "id00017" / "session170" / "00002.wav"
    wav.write_bytes(wav.read_bytes()[:-1000])
    return voxceleb1_copy, wav


def test_bad_audio_is_named(with_bad_audio, out):
    root, wav = with_bad_audio
    refuse(root, out, f"{wav} is cut short", error=BadAudioError)


def test_trials_of_audio_that_was_left_out(with_bad_audio, out, caplog):
    root, _ = with_bad_audio
    prepare_voxceleb(root, out, LISTS, skip_bad=True)
    known, path = ids(out / "veri_dev.csv"), trials_path(root, "veri_dev")
    assert len(known) == 17
    with pytest.raises(CorpusError, match="veri_dev.txt, line 2: id00017-session170-00002"):
        read_trials(path, known)
    assert len(read_trials(path, known, skip_bad=True)) == 17 * 16 // 2
    assert "17 of 153 trials left out" in caplog.text
    message = "line 2: id00017-session170-00002 is 0.3 s long, which is less than min_seconds"
    with pytest.raises(CorpusError, match=message):
        read_trials(path, known, short={"id00017-session170-00002": 0.3})
    with pytest.raises(CorpusError, match="none of the 153 trials"):
        read_trials(path, {"other"}, skip_bad=True)


def test_training_speakers_are_those_that_no_list_names(voxceleb1, out):
    prepare_voxceleb(voxceleb1, out, ["train", *LISTS])
    named = speakers(out / "veri_dev.csv") | speakers(out / "veri_test2.csv")
    everyone = {path.name for path in (voxceleb1 / "wav").iterdir()}
    assert len(named) == 6 and speakers(out / "train.csv") == everyone - named
    assert len(ids(out / "train.csv")) == 6 * 6


def test_one_held_out_list_or_none(voxceleb1, tmp_path):
    prepare_voxceleb(voxceleb1, tmp_path / "one", ["train"], held_out="veri_test2")
    prepare_voxceleb(voxceleb1, tmp_path / "none", ["train"], held_out=())
    assert len(speakers(tmp_path / "one" / "train.csv")) == 9
    assert len(speakers(tmp_path / "none" / "train.csv")) == 12


def test_one_trial_holds_a_speaker_out(voxceleb1_copy, out):
    path = trials_path(voxceleb1_copy, "veri_dev")
    path.write_text("0 id00017/session170/00000.wav id00011/session110/00000.wav")
    prepare_voxceleb(voxceleb1_copy, out, ["train"], held_out=["veri_dev"])
    assert len(speakers(out / "train.csv")) == 10
    assert speakers(out / "train.csv").isdisjoint({"id00017", "id00011"})


def test_missing_held_out_lists_and_what_to_do(voxceleb1_copy, out):
    dev, test = (trials_path(voxceleb1_copy, name) for name in LISTS)
    dev.unlink()
    refuse(voxceleb1_copy, out, f"{dev} is missing", "--held_out [veri_test2]", splits=["train"])
    prepare_voxceleb(voxceleb1_copy, out.with_name("other"), ["train"], held_out=["veri_test2"])
    test.unlink()
    messages = (f"{dev} is missing", f"{test} is missing", "--held_out [])")
    refuse(voxceleb1_copy, out, *messages, splits=["train"])


def test_all_malformed_lines_of_held_out_lists_are_named(voxceleb1_copy, out):
    messages = []
    for name in LISTS:
        path = trials_path(voxceleb1_copy, name)
        path.write_text(f"2 a b\n{path.read_text()}1 a\n")
        messages += [f"{path}, line 1:", f"{path}, line 155:"]
    refuse(voxceleb1_copy, out, *messages, splits=["train"])


def test_no_speaker_is_left_to_train_on(voxceleb1_copy, out):
    pairs = [next(path.glob("*/*.wav")) for path in (voxceleb1_copy / "wav").iterdir()]
    pairs = [path.relative_to(voxceleb1_copy / "wav") for path in pairs]
    trials_path(voxceleb1_copy, "all").write_text("".join(f"1 {wav} {wav}\n" for wav in pairs))
    message = "no held-out list (all) names"
    refuse(voxceleb1_copy, out, message, splits=["train"], held_out="all")


@pytest.fixture
def overlapping(voxceleb1, out):
    """Manifests of training and trials, made without holding the trials' speakers out."""
    prepare_voxceleb(voxceleb1, out, ["train", "veri_test2"], held_out=())
    return {split: out / f"{split}.csv" for split in ("train", "veri_test2")}


GROUPS = {"train": ["train"], "test": ["veri_test2"]}


def test_training_on_utterances_of_trials_is_refused_later(voxceleb1, overlapping):
    with pytest.raises(CorpusError) as caught:
        validate_manifests(overlapping, voxceleb1, GROUPS)
    first = f"{overlapping['veri_test2']}: ID id00020-session200-00000"
    assert str(caught.value) == f"{first} is in {overlapping['train']} too."


def test_training_on_speakers_of_trials_is_refused_later(voxceleb1, overlapping):
    rows, known = read_manifest(overlapping["train"]), ids(overlapping["veri_test2"])
    others = [row for row in rows if row["ID"] not in known]
    moved, *rest = [row for row in rows if row["ID"] in known]
    write_manifest(rest, overlapping["veri_test2"])
    write_manifest(others, overlapping["train"])
    validate_manifests(overlapping, voxceleb1, GROUPS)
    write_manifest([*others, moved], overlapping["train"])
    with pytest.raises(CorpusError) as caught:
        validate_manifests(overlapping, voxceleb1, GROUPS)
    first = f"{overlapping['veri_test2']}: id00020-session200-00001"
    assert str(caught.value).startswith(f"{first}: speaker id00020 is in the split train too")


def test_the_parts_of_identification(voxceleb1, out):
    prepare_voxceleb(voxceleb1, out, PARTS)
    counts = [len(ids(out / f"{part}.csv")) for part in PARTS]
    assert counts == [12 * 4, 12, 12]
    assert all(len(speakers(out / f"{part}.csv")) == 12 for part in PARTS)
    assert len(set.union(*(ids(out / f"{part}.csv") for part in PARTS))) == 12 * 6
    assert "id00011-session111-00001" in ids(out / "iden_valid.csv")


BAD_PARTS = {
    "another part": "4 id00011/session110/00000.wav",
    "no part": "id00011/session110/00000.wav",
    "three fields": "1 id00011/session110/00000.wav id00011/session110/00001.wav",
    "no session": "1 id00011/00000.wav",
    "absolute path": "1 /session110/00000.wav",
    "another format": "1 id00011/session110/00000.m4a",
}


@pytest.mark.parametrize("line", BAD_PARTS.values(), ids=BAD_PARTS)
def test_all_bad_lines_of_the_split_are_named(line, voxceleb1_copy, out):
    path = voxceleb1_copy / "meta" / "iden_split.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], line, *lines[4:], "0 a"]))
    messages = (f"{path}, line 5: {line!r} is not of the split", f"{path}, line 74: '0 a'")
    refuse(voxceleb1_copy, out, *messages, splits=["iden_valid"])


@pytest.mark.parametrize("part", [1, 3])
def test_an_utterance_that_is_twice_in_the_split_is_named(part, voxceleb1_copy, out):
    path = voxceleb1_copy / "meta" / "iden_split.txt"
    with path.open("a") as file:
        file.write(f"{part} id00011/session110/00001.wav\n")
    message = f"{path}, line 73: id00011/session110/00001.wav is in line 2 already"
    refuse(voxceleb1_copy, out, message, splits=["iden_valid"])


def test_missing_files_of_the_split_are_named(voxceleb1_copy, out):
    path, root = voxceleb1_copy / "meta" / "iden_split.txt", voxceleb1_copy / "wav" / "id00011"
    gone = [root / "session110" / "00001.wav", root / "session111" / "00001.wav"]
    for wav in gone:
        wav.unlink()
    messages = [f"{path}, line {n}: {wav} is missing" for n, wav in zip((2, 5), gone, strict=True)]
    refuse(voxceleb1_copy, out, *messages, splits=PARTS)


def test_a_missing_or_empty_split(voxceleb1_copy, out):
    path = voxceleb1_copy / "meta" / "iden_split.txt"
    path.write_text("1 id00011/session110/00000.wav\n")
    refuse(voxceleb1_copy, out, f"{path} has no utterance of part 3", splits=["iden_test"])
    path.unlink()
    refuse(voxceleb1_copy, out, f"{path} is missing", splits=["train", *PARTS])


@pytest.fixture(params=["aac", "dev/aac", "wav"])
def with_m4a(request, voxceleb1_copy, tmp_path):
    """A tree without lists whose audio is in m4a files (in name), in a folder hard to quote."""
    root = tmp_path / 'Vox $HOME\'s "2"'
    for wav in sorted((voxceleb1_copy / "wav" / "id00011").glob("*/*.wav")):
        m4a = root / request.param / "id 11" / wav.parent.name / f"{wav.stem}.m4a"
        m4a.parent.mkdir(parents=True, exist_ok=True)
        m4a.write_bytes(wav.read_bytes())
    return root


@pytest.fixture
def convert(tmp_path):
    """Return a function that runs the command of a message, by an ffmpeg that copies, elsewhere."""
    ffmpeg = tmp_path / "bin" / "ffmpeg"
    ffmpeg.parent.mkdir()
    ffmpeg.write_text(
        f'#!/bin/sh\necho "$@" >>"{tmp_path}/calls"\n'
        'while [ $# -gt 1 ]; do [ "$1" = -i ] && from=$2; shift; done\n'
        'cp "$from" "$1"\n'
    )
    ffmpeg.chmod(0o755)

    def run(message):
        command = message[message.index("\n(cd ") :]
        environment = {**os.environ, "PATH": f"{ffmpeg.parent}:{os.environ['PATH']}"}
        subprocess.run(["sh", "-c", command], cwd=ffmpeg.parent, env=environment, check=True)
        calls = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "calls").unlink()
        return calls

    return run


def test_m4a_is_refused_with_the_command_that_converts_it(with_m4a, convert, out, monkeypatch):
    example = min(with_m4a.rglob("*.m4a"))
    monkeypatch.chdir(with_m4a.parent)
    given = Path(with_m4a.name)
    message = refuse(given, out, "6 utterance(s)", splits="train", held_out=())
    assert str(example.relative_to(with_m4a.parent)) in message
    calls = convert(message)
    assert len(calls) == 6 and all("-ac 1 -ar 16000" in call for call in calls)
    assert len(list(with_m4a.glob("wav/id 11/*/*.wav"))) == 6
    assert not list(with_m4a.rglob("*.part"))
    prepare_voxceleb(given, out, "train", held_out=())
    assert len(ids(out / "train.csv")) == 6


def test_what_an_interrupted_conversion_left_is_converted(with_m4a, convert, out):
    message = refuse(with_m4a, out, splits="train", held_out=())
    convert(message)
    wav = min(with_m4a.glob("wav/*/*/*.wav"))
    wav.unlink()
    message = refuse(with_m4a, out, "1 utterance(s)", splits="train", held_out=())
    assert len(convert(message)) == 1 and wav.is_file()


def test_m4a_of_an_utterance_that_a_list_names(voxceleb1_copy, out):
    wavs = [voxceleb1_copy / "wav" / "id00017" / "session170" / f"0000{n}.wav" for n in (1, 2)]
    m4a = wavs[0].with_suffix(".m4a")
    wavs[0].rename(m4a)
    wavs[1].unlink()
    line = f"{trials_path(voxceleb1_copy, 'veri_dev')}, line 2: {wavs[1]} is missing"
    refuse(voxceleb1_copy, out, "1 utterance(s) are there as m4a only", str(m4a), "ffmpeg", line)
    prepare_voxceleb(voxceleb1_copy, out, ["train", "veri_test2"])


def test_real_speech(real_speech, out):
    root = real_speech / "voxceleb1"
    prepare_voxceleb(root, out, LISTS)
    for name in ("veri_dev", "veri_test2"):
        assert read_trials(trials_path(root, name), ids(out / f"{name}.csv"))
