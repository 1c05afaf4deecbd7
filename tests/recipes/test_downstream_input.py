"""What the downstream recipes refuse, before anything is trained."""

import pytest

from pretrained.exported import save_model
from pretrained.tokenizers import PieceTokenizer
from tests.downstream.tasks import LEXICON, TASKS, arguments, encoders

pytestmark = pytest.mark.long


def refuse(task, corpora, output, *messages, **changes):
    """Assert that a run is refused with all of the messages, and writes manifests at most."""
    with pytest.raises(ValueError) as caught:
        TASKS[task].train.main(arguments(task, corpora, output, **changes))
    for message in messages:
        assert str(message) in str(caught.value)
    assert not output.exists() or {path.name for path in output.iterdir()} <= {"manifest"}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_word_without_pronunciation(corpora, tmp_path, out):
    path = tmp_path / "lexicon.txt"
    path.write_text("".join(line for line in LEXICON.splitlines(True) if "FIVE" not in line))
    refuse("PR", corpora, out, path, "FIVE: ", "add them", "--skip_bad True", lexicon=path)


def test_an_empty_transcript(corpora, librispeech_copy, out):
    path = librispeech_copy / "test-clean" / "20" / "200" / "20-200.trans.txt"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first.split()[0]} \n{rest}")
    expected = f"{path}, line 1", "is not an utterance and its words"
    refuse("ASR", corpora, out, *expected, data_folder=librispeech_copy)


def test_an_empty_transcript_in_a_manifest(corpora, out):
    (out / "manifest").mkdir(parents=True)
    for name in ("train-clean-100", "dev-clean", "test-clean"):
        path = min((corpora.librispeech / name).glob("*/*/*.flac"))
        wav = f"$data_root/{path.relative_to(corpora.librispeech)}"
        (out / "manifest" / f"{name}.csv").write_text(
            f"ID,duration,wav,spk_id,wrd\n{path.stem},1.2,{wav},{path.stem[:2]},\n"
        )
    expected = out / "manifest" / "train-clean-100.csv", "no transcript: 11-110-0000"
    refuse("ASR", corpora, out, *expected, skip_prep=True)


def test_a_tokenizer_of_another_vocabulary(corpora, tmp_path, out):
    path = tmp_path / "other.model"
    PieceTokenizer.train(["ABC", "ABC CBA"], path, vocab_size=5)
    expected = out / "manifest" / "train-clean-100.csv", "tokenizer of another vocabulary", "use"
    refuse("ASR", corpora, out, *expected, tokenizer_file=path)


def test_an_unknown_speaker_in_the_test_of_identification(corpora, voxceleb1_copy, out):
    path = voxceleb1_copy / "meta" / "iden_split.txt"
    lines = path.read_text().splitlines(True)
    path.write_text("".join(line for line in lines if "id00013" not in line or line[0] == "3"))
    expected = out / "manifest" / "iden_test.csv", "spk_id id00013", "move one there"
    refuse("SID", corpora, out, *expected, data_folder=voxceleb1_copy)


@pytest.mark.parametrize("task", ["xvector", "embedding"])
def test_trials_of_a_training_speaker(task, corpora, out):
    dev, train = (out / "manifest" / f"{name}.csv" for name in ("veri_dev", "train"))
    refuse(task, corpora, out, f"{dev}: ID id00017", f"is in {train} too", held_out=[])


def test_trials_of_a_missing_file(corpora, voxceleb1_copy, out):
    path, gone = voxceleb1_copy / "meta" / "veri_test2.txt", "id00020/session200/00009.wav"
    number = len(path.read_text().splitlines()) + 1
    path.write_text(path.read_text() + f"1 id00020/session200/00000.wav {gone}\n")
    expected = f"{path}, line {number}", voxceleb1_copy / "wav" / gone, "is missing"
    refuse("xvector", corpora, out, *expected, data_folder=voxceleb1_copy)


def test_a_model_without_the_encoder(corpora, tmp_path, out):
    save_model(tmp_path / "u", {"utterance_encoder": encoders()["utterance_encoder"]})
    expected = tmp_path / "u", "no frame_encoder", "--representation utterance"
    for task in ("PR", "ASR"):
        refuse(task, corpora, out, *expected, features=tmp_path / "u", upstream="frozen")


def test_bands_have_nothing_to_fine_tune(corpora, out):
    refuse("embedding", corpora, out, "fbank has no weights", "--upstream frozen", features="fbank")


@pytest.mark.parametrize("task", TASKS)
def test_more_layers_than_there_are(task, corpora, out):
    refuse(task, corpora, out, "last_layers is 4: expected 1 to", last_layers=4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beam_size": 2, "lm_file": "nowhere.arpa"}, "lm_file is nowhere.arpa, which is missing"),
        ({"tokenizer_file": "nowhere"}, "tokenizer_file is nowhere, which is missing"),
        ({"beam_size": 2, "lm_file": "transcript"}, "missing: expected a file, or transcripts"),
        ({"beam_size": 0, "lm_file": __file__}, "not used where beam_size is 0"),
        ({"beam_size": 2, "lm_weight": 0.2}, "not used where lm_file is None"),
        ({"tokenizer": "characters", "vocab_size": 99}, "not used where tokenizer is characters"),
        (
            {"tokenizer": "characters", "tokenizer_file": __file__},
            "not used where tokenizer is characters",
        ),
    ],
)
def test_an_option_that_is_missing_or_of_no_use(given, message, corpora, out):
    refuse("ASR", corpora, out, message, **given)
    assert not out.exists()


def test_a_learning_rate_of_an_upstream_that_is_frozen(corpora, out):
    expected = "upstream_lr is 0.1, which is not used where upstream is frozen"
    refuse("SID", corpora, out, expected, upstream_lr=0.1)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", 0.5, "lr is set by the sweep: expected --lrs"),
        ("run_folder", "x", "run_folder is set by the sweep: expected --output_folder"),
        ("debug_batches", 3, "--debug_batches cannot be used here"),
    ],
)
def test_what_the_sweep_sets_itself(name, value, message, corpora, out):
    refuse("SID", corpora, out, message, **{name: value})
    assert not out.exists()
