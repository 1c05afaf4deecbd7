"""speechocean762 preparation: splits by speaker, words, phones, and which trees are refused."""

import pytest
import soundfile

from recipes.common.corpora.preparation import BadAudioError
from recipes.common.data.files import CorpusError
from recipes.common.data.manifest import validate_manifests
from recipes.common.data.table import read_manifest
from recipes.speechocean762.speechocean762_prepare import prepare_speechocean762, read_phones

SPLITS = ["train", "valid", "test"]
WORDS = ("WE CALL", "W_B IY0_E", "K_B AO0_I L_E")
SECONDS = 0.3


def write_tables(root, folder, speakers, make_voice):
    """Write the tables of train or test, with three utterances of each speaker, and the audio."""
    (root / folder).mkdir(parents=True)
    (root / "resource").mkdir(exist_ok=True)
    tables = {name: open(root / folder / name, "w") for name in ("wav.scp", "utt2spk", "text")}
    phones = open(root / "resource" / "text-phone", "a")
    for speaker in speakers:
        wave = root / "WAVE" / f"SPEAKER{speaker:04d}"
        wave.mkdir(parents=True)
        for number in range(3):
            name = f"{speaker:04d}0{number:04d}"
            soundfile.write(wave / f"{name}.WAV", make_voice(speaker, number)[:4800], 16000)
            tables["wav.scp"].write(f"{name}\tWAVE/{wave.name}/{name}.WAV\n")
            tables["utt2spk"].write(f"{name}\t{speaker:04d}\n")
            tables["text"].write(f"{name}\t{WORDS[0]}\n")
            phones.writelines(f"{name}.{place}\t{word}\n" for place, word in enumerate(WORDS[1:]))
    for file in (*tables.values(), phones):
        file.close()


@pytest.fixture
def corpus(tmp_path, make_voice):
    """A tree with the table of 10 training speakers and none of the test split."""
    write_tables(tmp_path / "corpus", "train", range(1, 11), make_voice)
    return tmp_path / "corpus"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "manifest"


def prepare(corpus, out, **options):
    prepare_speechocean762(corpus, out, SPLITS, num_workers=1, **options)
    return {split: read_manifest(out / f"{split}.csv") for split in SPLITS}


def speakers_of(rows):
    return {row["spk_id"] for row in rows}


def test_every_utterance_has_its_speaker_words_and_phones(corpus, out):
    rows = [row for split in prepare(corpus, out).values() for row in split]
    assert len(rows) == 30
    row = next(row for row in rows if row["ID"] == "000300002")
    assert row["wav"] == "$data_root/WAVE/SPEAKER0003/000300002.WAV"
    assert (row["duration"], row["spk_id"]) == (SECONDS, "0003")
    assert (row["wrd"], row["phn"]) == ("WE CALL", "W IY K AO L")


def test_splits_share_no_speaker_and_are_always_the_same(corpus, out, tmp_path):
    rows = prepare(corpus, out)
    assert {split: len(speakers_of(rows[split])) for split in SPLITS} == {
        "train": 6,
        "valid": 2,
        "test": 2,
    }
    paths = {split: out / f"{split}.csv" for split in SPLITS}
    validate_manifests(paths, corpus, {split: [split] for split in SPLITS})
    assert prepare(corpus, tmp_path / "again") == rows


def test_the_corpus_s_own_test_split_is_taken_where_it_is(corpus, out, tmp_path, make_voice):
    before = prepare(corpus, out)
    write_tables(corpus, "test", (71, 72), make_voice)
    rows = prepare(corpus, out)
    assert speakers_of(rows["test"]) == {"0071", "0072"}
    assert rows["valid"] == before["valid"]
    assert speakers_of(rows["train"]) == speakers_of(before["train"]) | speakers_of(before["test"])


def test_phones_keep_the_order_of_the_words(tmp_path):
    path = tmp_path / "text-phone"
    phones = ["AH0_S"] * 10 + ["Z"]
    path.write_text("".join(f"a.{place}\t{phone}\n" for place, phone in enumerate(phones)))
    assert read_phones(path) == {"a": "AH " * 10 + "Z"}


@pytest.mark.parametrize(
    "table, line, message",
    [
        ("train/wav.scp", "000100000\tWAVE/again.WAV", "wav.scp, line 31: .*not a new ID"),
        ("train/wav.scp", "000119999", "wav.scp, line 31: .*not a new ID"),
        ("resource/text-phone", "000100000.9\tW_X", "W_X is not UTTERANCE.WORD"),
        ("resource/text-phone", "000100000\tW_B", "W_B is not UTTERANCE.WORD"),
        ("train/wav.scp", "x\tWAVE/x.WAV", "x has no audio WAVE/x.WAV, no speaker.*words.*phones"),
    ],
)
def test_tables_that_do_not_hold_are_refused(table, line, message, corpus, out):
    with open(corpus / table, "a") as file:
        file.write(line + "\n")
    with pytest.raises(CorpusError, match=message):
        prepare(corpus, out)
    assert not out.exists()


@pytest.mark.parametrize("table", ["train/utt2spk", "resource/text-phone"])
def test_a_missing_table_is_named(table, corpus, out):
    (corpus / table).unlink()
    with pytest.raises(CorpusError, match=f"{table} is missing"):
        prepare(corpus, out)


def test_bad_audio_of_all_splits_is_in_one_report_and_left_out_where_asked(corpus, out):
    bad = [corpus / "WAVE" / f"SPEAKER{n:04d}" / f"{n:04d}00000.WAV" for n in range(1, 11)]
    for path in bad:
        path.write_text("text")
    with pytest.raises(BadAudioError) as error:
        prepare(corpus, out)
    assert all(str(path) in str(error.value) for path in bad) and not out.exists()
    assert sum(map(len, prepare(corpus, out, skip_bad=True).values())) == 20
