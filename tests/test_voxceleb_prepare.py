"""VoxCeleb1 preparation and its verification trials."""

import pytest

from recipes.common.manifest import BadAudioError, CorpusError, read_manifest
from recipes.VoxCeleb.voxceleb_prepare import prepare_voxceleb1, read_trials, trials_path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "manifest"


def ids(path):
    return {row["ID"] for row in read_manifest(path)}


def refuse(root, out, *messages, error=CorpusError, **options):
    """Assert that a tree is refused with all of the messages, and that nothing was written."""
    with pytest.raises(error) as caught:
        prepare_voxceleb1(root, out, **options)
    for message in messages:
        assert str(message) in str(caught.value)
    assert not out.exists()


def test_the_utterances_of_each_list(voxceleb1, out):
    prepare_voxceleb1(voxceleb1, out)
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
    prepare_voxceleb1(voxceleb1_copy, out, trials=["veri_dev"])
    assert len(ids(out / "veri_dev.csv")) == 2
    assert not (out / "veri_test2.csv").exists()


def test_trials_name_the_utterances_of_the_manifest(voxceleb1, out):
    prepare_voxceleb1(voxceleb1, out)
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
    "empty line": "",
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
    refuse(voxceleb1_copy, out, f"{path} is not text in UTF-8")


def test_a_list_without_trials(voxceleb1_copy, out):
    path = trials_path(voxceleb1_copy, "veri_dev")
    path.write_text("")
    refuse(voxceleb1_copy, out, f"{path} holds no trial")


def test_a_missing_list_and_what_is_there(voxceleb1_copy, out):
    path = trials_path(voxceleb1_copy, "veri_dev")
    path.unlink()
    refuse(voxceleb1_copy, out, f"{path} is missing", "veri_test2")
    prepare_voxceleb1(voxceleb1_copy, out, trials=["veri_test2"])


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
    prepare_voxceleb1(root, out, skip_bad=True)
    known, path = ids(out / "veri_dev.csv"), trials_path(root, "veri_dev")
    assert len(known) == 17
    with pytest.raises(CorpusError, match="veri_dev.txt, line 2: id00017-session170-00002"):
        read_trials(path, known)
    assert len(read_trials(path, known, skip_bad=True)) == 17 * 16 // 2
    assert "17 of 153 trials left out" in caplog.text
    with pytest.raises(CorpusError, match="none of the 153 trials"):
        read_trials(path, {"other"}, skip_bad=True)


def test_real_speech(real_speech, out):
    root = real_speech / "voxceleb1"
    prepare_voxceleb1(root, out)
    for name in ("veri_dev", "veri_test2"):
        assert read_trials(trials_path(root, name), ids(out / f"{name}.csv"))
