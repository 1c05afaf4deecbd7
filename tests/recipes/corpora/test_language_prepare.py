"""VoxLingua107: splits by video, languages, and which trees are refused."""

import pytest

from recipes.common.data.files import CorpusError
from recipes.common.data.manifest import validate_manifests
from recipes.common.data.table import read_manifest
from recipes.VoxLingua107.voxlingua107_prepare import prepare_voxlingua107
from tests.recipes.corpora.trees import SPLITS, write_noise, write_voxlingua


@pytest.fixture
def corpus(tmp_path):
    return write_voxlingua(tmp_path / "corpus")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "manifest"


def prepare(corpus, out, splits=SPLITS):
    prepare_voxlingua107(corpus, out, splits, num_workers=1)
    return {split: read_manifest(out / f"{split}.csv") for split in splits}


def test_each_language_is_in_all_splits_and_no_video_in_two(corpus, out):
    rows = prepare(corpus, out)
    counts = {"train": 18, "valid": 6, "test": 9}
    for split, found in rows.items():
        assert {row["label"] for row in found} == {"de", "en", "et"}
        assert len(found) == counts[split]
        start = "$data_root/dev/" if split == "test" else "$data_root/"
        assert all(row["wav"].startswith(f"{start}{row['label']}/") for row in found)
    paths = {split: out / f"{split}.csv" for split in SPLITS}
    validate_manifests(paths, corpus, {split: [split] for split in SPLITS})


def test_a_language_that_is_not_trained_on_is_not_tested_and_told(corpus, out, caplog):
    write_noise(corpus / "dev" / "fi" / "a__U__S1.wav")
    rows = prepare(corpus, out)
    assert {row["label"] for row in rows["test"]} == {"de", "en", "et"}
    assert "Not tested, as not there to train on: fi" in caplog.text


def test_what_is_missing_is_named(corpus, out):
    write_noise(corpus / "fi" / "a__U__S1.wav")
    with pytest.raises(CorpusError, match="corpus/fi: 1 utterance.* are too few.*a video stands"):
        prepare(corpus, out)
    (corpus / "dev").rename(corpus.parent / "dev")
    with pytest.raises(CorpusError, match="dev has no audio of the languages.* de, en, et, fi"):
        prepare(corpus, out)
    for language in ("de", "en", "fi"):
        (corpus / language).rename(corpus.parent / language)
    with pytest.raises(CorpusError, match=r"corpus has audio of 1 language\(s\)"):
        prepare(corpus, out)
    with pytest.raises(CorpusError, match="No split dev"):
        prepare(corpus, out, ["dev"])
    assert not out.exists()
