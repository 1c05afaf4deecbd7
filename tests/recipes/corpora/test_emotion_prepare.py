"""IEMOCAP and Emo-DB: folds, labels, speakers, and which trees are refused."""

import shutil

import pytest

from recipes.common.data.files import CorpusError
from recipes.common.data.table import read_manifest
from recipes.EmoDB.emodb_prepare import FOLDS, prepare_emodb
from recipes.IEMOCAP.iemocap_prepare import prepare_iemocap
from tests.recipes.corpora.trees import SPLITS, write_emodb, write_iemocap, write_noise

NAMES = {"neu": "neutral", "hap": "happiness", "exc": "happiness", "ang": "anger", "sad": "sadness"}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "manifest"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("emotions")
    write_iemocap(root / "iemocap")
    write_emodb(root / "emodb")
    return root


@pytest.fixture
def iemocap(made, tmp_path):
    return shutil.copytree(made / "iemocap", tmp_path / "corpus")


@pytest.fixture
def emodb(made, tmp_path):
    return shutil.copytree(made / "emodb", tmp_path / "corpus")


def read(folder, splits=SPLITS):
    return {split: read_manifest(folder / f"{split}.csv") for split in splits}


def column(rows, name):
    return {row[name] for row in rows}


# ---- IEMOCAP


def test_a_session_is_tested_and_the_others_are_divided(iemocap, out):
    tested = set()
    for session in range(1, 6):
        prepare_iemocap(iemocap, out / str(session), SPLITS, test_session=session, num_workers=1)
        rows = read(out / str(session))
        assert {split: len(found) for split, found in rows.items()} == {
            "train": 38,
            "valid": 10,
            "test": 12,
        }
        assert {name[:5] for name in column(rows["test"], "ID")} == {f"Ses0{session}"}
        ids = [column(found, "ID") for found in rows.values()]
        assert len(set.union(*ids)) == 60
        tested |= ids[2]
    assert len(tested) == 60


def test_a_turn_has_the_speaker_and_the_emotion_of_its_own_line(iemocap, out):
    prepare_iemocap(iemocap, out, SPLITS, test_session=2, num_workers=1)
    found = {row["ID"]: row for rows in read(out).values() for row in rows}
    listed = [
        line.split("\t")[1:3]
        for table in iemocap.glob("Session*/dialog/EmoEvaluation/*.txt")
        for line in table.read_text().splitlines()
        if line.startswith("[")
    ]
    assert {name: row["label"] for name, row in found.items()} == {
        name: NAMES[code] for name, code in listed if code in NAMES
    }
    # The dialog's letter is of who wears the markers, the turn's of who speaks.
    row = found["Ses03F_impro02_M001"]
    assert row["spk_id"] == "Ses03M" and row["label"] == "happiness"
    assert row["wav"] == (
        "$data_root/Session3/sentences/wav/Ses03F_impro02/Ses03F_impro02_M001.wav"
    )
    assert len(column(found.values(), "spk_id")) == 10


def labels_of(corpus):
    return corpus / "Session4/dialog/EmoEvaluation/Ses04M_impro01.txt"


@pytest.mark.parametrize(
    "place, message",
    [
        ("dialog/EmoEvaluation/Ses04M_impro01.txt", "Ses04M_impro01.txt is missing: the emotions"),
        ("dialog/EmoEvaluation", "EmoEvaluation is missing: expected IEMOCAP"),
        ("sentences/wav/Ses04M_impro01/Ses04M_impro01_F002.wav", "line 11: .*F002.wav is missing"),
        (".", "Session4.* is missing: expected IEMOCAP"),
    ],
)
def test_what_iemocap_lacks_is_named(place, message, iemocap, out):
    path = iemocap / "Session4" / place
    (shutil.rmtree if path.is_dir() else type(path).unlink)(path)
    with pytest.raises(CorpusError, match=message):
        prepare_iemocap(iemocap, out, SPLITS, test_session=1)
    assert not out.exists()


@pytest.mark.parametrize(
    "old, new",
    [("\tneu\t", "\thum\t"), ("\tneu\t", " neu "), ("[0.2901", "[from 0.2901"), ("_F000", "_X000")],
)
def test_a_line_that_tells_no_emotion_is_refused(old, new, iemocap, out):
    table = labels_of(iemocap)
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    with pytest.raises(CorpusError, match=r"Ses04M_impro01.txt, line 3: .*is not \[START - END\]"):
        prepare_iemocap(iemocap, out, SPLITS, test_session=1)
    assert not out.exists()


def test_files_of_macos_are_none_of_iemocap(iemocap, out):
    table = labels_of(iemocap)
    table.with_name(f"._{table.name}").write_bytes(b"\0\5\x16\7[\xff")
    prepare_iemocap(iemocap, out, SPLITS, test_session=1, num_workers=1)


@pytest.mark.parametrize("session", [0, 6, "1", None])
def test_an_unknown_session_is_refused(session, iemocap, out):
    with pytest.raises(ValueError, match="expected a session, 1 to 5"):
        prepare_iemocap(iemocap, out, SPLITS, test_session=session)


# ---- Emo-DB


def test_the_folds_of_emodb_share_no_speaker_and_test_everyone_once(emodb, out):
    tested = []
    for fold in FOLDS:
        prepare_emodb(emodb, out / str(fold), SPLITS, test_fold=fold, num_workers=1)
        rows = read(out / str(fold))
        speakers = {split: column(found, "spk_id") for split, found in rows.items()}
        assert {split: len(found) for split, found in speakers.items()} == {
            "train": 6,
            "valid": 2,
            "test": 2,
        }
        assert len(set.union(*speakers.values())) == 10
        tested += sorted(speakers["test"])
    assert len(set(tested)) == len(tested) == 10


def test_the_emotions_of_emodb_are_those_that_are_there(emodb, out):
    write_noise(emodb / "wav" / "03b10Ab.wav")
    prepare_emodb(emodb, out, SPLITS, test_fold=1, num_workers=1)
    found = {row["ID"]: row["label"] for rows in read(out).values() for row in rows}
    letters = {"W": "anger", "T": "sadness", "N": "neutral", "A": "fear"}
    assert found == {name: letters[name[5]] for name in found} and len(found) == 61


@pytest.mark.parametrize("name", ["03a01Xa", "99a01Wa", "03a1Wa", "a01Wa", "03a01Wab"])
def test_a_name_that_is_none_of_emodb_is_refused(name, emodb, out):
    write_noise(emodb / "wav" / f"{name}.wav")
    with pytest.raises(CorpusError, match=f"{name}.wav: expected a name such as 03a01Fa.wav"):
        prepare_emodb(emodb, out, SPLITS, test_fold=1)
    assert not out.exists()


def test_what_emodb_lacks_is_named(emodb, out):
    for path in (emodb / "wav").glob("13*"):
        path.unlink()
    with pytest.raises(CorpusError, match="has no utterance of speaker 13"):
        prepare_emodb(emodb, out, SPLITS, test_fold=1)
    shutil.rmtree(emodb / "wav")
    (emodb / "readme.txt").write_text("")
    with pytest.raises(CorpusError, match=r"wav holds no \*.wav: expected Emo-DB"):
        prepare_emodb(emodb, out, SPLITS, test_fold=1)
    with pytest.raises(ValueError, match="test_fold is 6: expected a fold, 1 to 5"):
        prepare_emodb(emodb, out, SPLITS, test_fold=6)
    with pytest.raises(CorpusError, match="No split dev"):
        prepare_emodb(emodb, out, ["dev"], test_fold=1)
    assert not out.exists()
