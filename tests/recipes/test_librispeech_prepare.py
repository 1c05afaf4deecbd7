"""LibriSpeech preparation: what is written, and which trees are refused."""

import shutil

import pytest
import soundfile

from recipes.common.corpora.preparation import BadAudioError
from recipes.common.data.files import CorpusError
from recipes.common.data.table import read_manifest
from recipes.common.data.utterances import load_dataset
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech

SPLITS = ["train-clean-100", "dev-clean", "test-clean"]


def prepare(root, out, **options):
    prepare_librispeech(root, out, splits=options.pop("splits", SPLITS), num_workers=1, **options)


def refuse(root, out, *messages, error=CorpusError, **options):
    """Assert that a tree is refused with all of the messages, and that nothing was written."""
    with pytest.raises(error) as caught:
        prepare(root, out, **options)
    for message in messages:
        assert str(message) in str(caught.value)
    assert not out.exists()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "manifest"


@pytest.fixture
def chapter(librispeech_copy):
    """One chapter's folder, of reader 11, to change."""
    return librispeech_copy / "train-clean-100" / "11" / "110"


def test_every_utterance_has_its_reader_words_and_duration(librispeech, out):
    prepare(librispeech, out)
    assert sorted(path.name for path in out.glob("*.csv")) == sorted(f"{s}.csv" for s in SPLITS)
    rows = {row["ID"]: row for row in read_manifest(out / "train-clean-100.csv")}
    assert len(rows) == 36
    row = rows["11-110-0001"]
    path = librispeech / "train-clean-100" / "11" / "110" / "11-110-0001.flac"
    assert row["wav"] == "$data_root/train-clean-100/11/110/11-110-0001.flac"
    assert row["duration"] == soundfile.info(path).duration
    assert row["wrd"] == "TWO THREE"
    assert {row["spk_id"] for row in rows.values()} == {"11", "12", "13", "14", "15", "16"}
    dataset = load_dataset(out / "train-clean-100.csv", librispeech)
    audio = dict(zip(dataset.data_ids, dataset.column("wav"), strict=True))
    assert audio["11-110-0001"] == path.as_posix()


def test_any_subset_of_the_splits(librispeech, out):
    prepare(librispeech, out, splits=["dev-clean"])
    assert [path.name for path in out.glob("*.csv")] == ["dev-clean.csv"]


def test_the_manifest_does_not_tell_where_the_tree_was(librispeech, librispeech_copy, tmp_path):
    prepare(librispeech, tmp_path / "a")
    prepare(librispeech_copy, tmp_path / "b")
    for split in SPLITS:
        name = f"{split}.csv"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_changed_transcript_has_the_split_prepared_again(librispeech_copy, chapter, out):
    prepare(librispeech_copy, out)
    path = chapter / "11-110.trans.txt"
    path.write_text(path.read_text().replace("TWO THREE", "TWO FOUR"))
    prepare(librispeech_copy, out)
    assert read_manifest(out / "train-clean-100.csv")[1]["wrd"] == "TWO FOUR"


def test_skip_prep_takes_what_is_there(librispeech, out):
    prepare(librispeech, out)
    prepare("no such folder", out, skip_prep=True)


def test_skip_prep_needs_the_manifests(librispeech, tmp_path, out):
    refuse(librispeech, out, "train-clean-100.csv is missing", skip_prep=True)


def test_no_data_folder(tmp_path, out):
    refuse(tmp_path / "gone", out, tmp_path / "gone")


def test_an_empty_data_folder(tmp_path, out):
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", out, tmp_path / "empty", "empty")


def test_the_folder_above(librispeech, out):
    refuse(librispeech.parent, out, f"mean {librispeech} as data_folder")


def test_a_missing_split_and_what_is_there(librispeech, out):
    missing = librispeech / "dev-other"
    refuse(librispeech, out, missing, *SPLITS, splits=["dev-clean", "dev-other"])


def test_a_split_without_audio(librispeech_copy, out):
    for path in librispeech_copy.joinpath("dev-clean").rglob("*.flac"):
        path.unlink()
    refuse(librispeech_copy, out, f"{librispeech_copy / 'dev-clean'} holds no audio")


def test_a_transcript_without_audio_and_the_reverse(librispeech_copy, chapter, out):
    (chapter / "11-110-0000.flac").unlink()
    other = librispeech_copy / "dev-clean" / "17" / "170"
    path = other / "17-170.trans.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    refuse(
        librispeech_copy,
        out,
        f"{chapter / '11-110.trans.txt'}, line 1: 11-110-0000",
        f"{other / '17-170-0000.flac'}: no transcript",
    )


def test_a_chapter_without_transcripts(librispeech_copy, chapter, out):
    (chapter / "11-110.trans.txt").unlink()
    names = [f"11-110-{number:04d}.flac" for number in range(3)]
    refuse(librispeech_copy, out, *names)


@pytest.mark.parametrize("line", ["11-110-0000\n", "11-110-0001 AGAIN\n11-110-0000 A\n"])
def test_a_malformed_transcript(line, librispeech_copy, chapter, out):
    path = chapter / "11-110.trans.txt"
    path.write_text(line + "".join(path.read_text().splitlines(keepends=True)[1:]))
    refuse(librispeech_copy, out, f"{path}, line")


def test_transcripts_that_are_not_text(librispeech_copy, chapter, out):
    (chapter / "11-110.trans.txt").write_bytes(b"11-110-0000 \xff\xfe\n")
    refuse(librispeech_copy, out, chapter / "11-110.trans.txt", "UTF-8")


def test_two_files_of_the_same_name(librispeech_copy, chapter, out):
    other = chapter.parent / "111" / "11-110-0000.flac"
    shutil.copy(chapter / "11-110-0000.flac", other)
    refuse(librispeech_copy, out, other, "same name")


def test_bad_audio_of_all_splits_in_one_report(librispeech_copy, chapter, out):
    text, cut = chapter / "11-110-0000.flac", next(librispeech_copy.glob("test-clean/*/*/*.flac"))
    text.write_text("no audio")
    cut.write_bytes(cut.read_bytes()[:-100])
    refuse(librispeech_copy, out, text, cut, "--skip_bad True", error=BadAudioError)


def test_transcripts_and_bad_audio_in_one_report(librispeech_copy, chapter, out):
    (chapter / "11-110-0000.flac").unlink()
    text = next(librispeech_copy.glob("test-clean/*/*/*.flac"))
    text.write_text("no audio")
    refuse(librispeech_copy, out, "line 1: 11-110-0000", text, error=BadAudioError)
    refuse(librispeech_copy, out, "line 1: 11-110-0000", skip_bad=True)


def test_bad_audio_is_left_out_where_asked(librispeech_copy, chapter, out):
    (chapter / "11-110-0000.flac").write_text("no audio")
    prepare(librispeech_copy, out, skip_bad=True)
    rows = read_manifest(out / "train-clean-100.csv")
    assert len(rows) == 35 and rows[0]["ID"] == "11-110-0001"


def test_real_speech(real_speech, out):
    prepare(real_speech / "LibriSpeech", out)
    for split in SPLITS:
        rows = read_manifest(out / f"{split}.csv")
        assert len(rows) == len(list((real_speech / "LibriSpeech" / split).rglob("*.flac")))


def first_transcript(folder):
    return sorted((folder / "dev-clean").rglob("*.trans.txt"))[0]


def rewrite(path, change):
    path.write_text(change(path.read_text()))


ODD_TRANSCRIPTS = {
    "mark": lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
    "tab": lambda path: rewrite(path, lambda text: text.replace(" ", "\t", 1)),
    "spaces": lambda path: rewrite(path, lambda text: text.replace(" ", "   ", 1)),
    "empty lines": lambda path: rewrite(
        path, lambda text: "\n" + text.replace("\n", "\n\n") + "\n"
    ),
    "windows": lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")),
    "U+0085": lambda path: rewrite(path, lambda text: text.replace("\n", "\x85\n", 1)),
    "form feed": lambda path: rewrite(path, lambda text: text.replace("\n", "\f\n", 1)),
    "upper-case suffix": lambda path: [
        audio.rename(audio.with_suffix(".FLAC")) for audio in path.parent.glob("*.flac")
    ],
    "macOS": lambda path: [
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7\xff")
        for file in path.parent.iterdir()
    ],
}


@pytest.mark.parametrize("kind", ODD_TRANSCRIPTS)
def test_a_corpus_that_went_through_other_systems_is_the_same(kind, librispeech, tmp_path):
    shutil.copytree(librispeech, tmp_path / "L")
    ODD_TRANSCRIPTS[kind](first_transcript(tmp_path / "L"))
    found = []
    for place, folder in enumerate((librispeech, tmp_path / "L")):
        prepare_librispeech(folder, tmp_path / str(place), ["dev-clean"], num_workers=1)
        rows = read_manifest(tmp_path / str(place) / "dev-clean.csv")
        found.append([{**row, "wav": row["wav"].lower()} for row in rows])
    assert found[0] == found[1]


def test_audio_of_another_kind_beside_a_transcript_is_named(librispeech, tmp_path):
    shutil.copytree(librispeech, tmp_path / "L")
    audio = sorted(first_transcript(tmp_path / "L").parent.glob("*.flac"))[0]
    audio.rename(audio.with_suffix(".wav"))
    with pytest.raises(CorpusError, match=rf"{audio.stem} has no audio.*there is {audio.stem}.wav"):
        prepare_librispeech(tmp_path / "L", tmp_path / "m", ["dev-clean"], num_workers=1)
