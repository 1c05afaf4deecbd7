"""The downstream recipes by their own command: what comes out, kills, ranks."""

import csv
import itertools
import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from pretrained import Classifier, SpeakerVerifier, Transcriber
from pretrained.decoding import BeamDecoder
from pretrained.exported import load_folder
from tests.downstream.tasks import RATES, RECIPES, TASKS, arguments

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
HEADS = {"PR": "ctc_head", "ASR": "ctc_head", "SID": "classification_head"}
CRITERIA = {"PR": "per", "ASR": "wer", "SID": "error", "xvector": "eer", "embedding": "eer"}

pytestmark = pytest.mark.long


def script(task):
    return RECIPES / TASKS[task].folder / "train.py"


def torchrun(task, *words):
    """Run a task on two ranks to its end."""
    done = subprocess.run(
        [sys.executable, *TORCHRUN, "train.py", *map(str, words)],
        cwd=script(task).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())["figures"]


@pytest.fixture(scope="module")
def left_alone(corpora, commands, tmp_path_factory):
    """Each task's command, run without interruption."""
    output = tmp_path_factory.mktemp("left_alone")
    for task in TASKS:
        commands.succeed(script(task), *arguments(task, corpora, output / task))
    return output


@pytest.mark.parametrize("task", ["ASR", "SID", "embedding"])
def test_a_quick_look_runs_to_the_end(task, corpora, commands, tmp_path):
    words = arguments(task, corpora, tmp_path / "run", frozen_steps=1000)
    said = commands.succeed(script(task), *words, "--debug")
    assert ("upstream rests" in said) == (task != "SID")  # which tunes nothing
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert figures(tmp_path / "run" / "debug")["test"]


@pytest.mark.parametrize("task", TASKS)
def test_the_rate_that_is_best_on_validation_is_tested(task, left_alone):
    found = figures(left_alone / task)
    assert list(found["sweep"]) == [str(rate) for rate in RATES]
    values = []
    for rate in RATES:
        history = (left_alone / task / f"lr_{rate}" / "history.jsonl").read_text().splitlines()
        rows = {row["epoch"]: row["valid"] for row in map(json.loads, history)}
        values.append(min(row[CRITERIA[task]] for row in rows.values()))
        told = found["sweep"][str(rate)]
        assert told == {"epoch": told["epoch"], **rows[told["epoch"]]}
        assert told[CRITERIA[task]] == values[-1]
    assert found["lr"] == RATES[values.index(min(values))]
    assert found["valid"] == found["sweep"][str(found["lr"])]
    assert 0 <= found["test"][CRITERIA[task]] < math.inf and found["valid"]["epoch"] in (1, 2)
    head = HEADS.get(task, "speaker_head")
    assert found["parameters"][head] > 0
    assert ("upstream" in found["parameters"]) == (task in ("ASR", "embedding"))


@pytest.mark.parametrize("task", ["PR", "ASR"])
def test_there_is_a_hypothesis_for_each_utterance_of_the_test(task, left_alone):
    with open(left_alone / task / "hypotheses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(left_alone / task / "manifest" / "test-clean.csv", newline="") as file:
        texts = {row["ID"]: row["wrd"] for row in csv.DictReader(file)}
    assert [row["ID"] for row in rows] == sorted(texts) and len(rows) == 18
    if task == "ASR":
        assert {row["ID"]: row["reference"] for row in rows} == texts
    assert all("greedy" in row for row in rows)


def check_hypotheses(transcriber, folder, column, corpora):
    """Check that a transcriber finds what a column of the recipe's hypotheses says."""
    with open(folder / "hypotheses.csv", newline="") as file:
        for row in itertools.islice(csv.DictReader(file), 6):
            reader, chapter, _ = row["ID"].split("-")
            path = corpora.librispeech / "test-clean" / reader / chapter / f"{row['ID']}.flac"
            assert transcriber.transcribe_file(path) == row[column]


@pytest.mark.parametrize("task", ["PR", "ASR"])
def test_a_transcriber_gives_the_hypotheses_of_the_recipe(task, left_alone, corpora):
    transcriber = Transcriber.from_pretrained(left_alone / task / "model")
    check_hypotheses(transcriber, left_alone / task, "greedy", corpora)
    assert "| test." in (left_alone / task / "model" / "README.md").read_text()


def test_a_classifier_gives_the_predictions_of_the_recipe(left_alone, corpora):
    classifier = Classifier.from_pretrained(left_alone / "SID" / "model")
    with open(left_alone / "SID" / "predictions.csv", newline="") as file:
        for row in itertools.islice(csv.DictReader(file), 6):
            path = corpora.voxceleb1 / "wav" / f"{row['ID'].replace('-', '/')}.wav"
            found = classifier.classify_file(path)
            assert found.label == row["predicted"]
            assert found.score == pytest.approx(float(row["score"]), abs=1e-3)  # float16 cached
    assert "# Classifier" in (left_alone / "SID" / "model" / "README.md").read_text()


@pytest.mark.parametrize("task", ["xvector", "embedding"])
def test_a_verifier_decides_by_the_threshold_of_the_recipe(task, left_alone, corpora):
    verifier = SpeakerVerifier.from_pretrained(left_alone / task / "model")
    wavs = sorted((corpora.voxceleb1 / "wav" / "id00020").glob("*/*.wav"))
    found = verifier.verify_files(wavs[0], wavs[1])
    assert found.threshold == figures(left_alone / task)["test"]["threshold"]
    assert found.same_speaker == (found.score >= found.threshold)
    assert (left_alone / task / "det.png").stat().st_size > 1000


def test_fine_tuning_is_exported_and_a_frozen_encoder_is_as_it_was(left_alone, corpora):
    given = load_file(corpora.model / "model.safetensors")
    for task, changed in (("PR", False), ("ASR", True), ("SID", False), ("embedding", True)):
        found = load_file(left_alone / task / "model" / "model.safetensors")
        own = [name for name in found if "_encoder." in name]
        assert own and any(not found[name].equal(given[name]) for name in own) == changed
    assert set(load_folder(left_alone / "xvector" / "model")[0]) == {"speaker_head"}


def test_a_trained_recogniser_is_decoded_again_without_training(
    left_alone, corpora, commands, tmp_path
):
    folder = tmp_path / "asr"
    shutil.copytree(left_alone / "ASR", folder)
    said = commands.succeed(script("ASR"), *arguments("ASR", corpora, folder, beam_size=2))
    assert "Goes on after epoch 2 of 2, from" in said
    before, now = weights(left_alone / "ASR"), weights(folder)
    assert before.keys() == now.keys() and all(x.equal(now[name]) for name, x in before.items())
    decoded = figures(folder)["test"]
    assert 0 <= decoded["beam_wer"]
    plain = {name: x for name, x in decoded.items() if not name.startswith("beam_")}
    assert plain == figures(left_alone / "ASR")["test"]
    transcriber = Transcriber.from_pretrained(folder / "model")
    transcriber.beam = BeamDecoder(transcriber.tokenizer, beam_size=2)
    check_hypotheses(transcriber, folder, "beam", corpora)


def test_a_run_on_other_features_says_so(left_alone, corpora, commands, tmp_path):
    folder = tmp_path / "pr"
    shutil.copytree(left_alone / "PR", folder)
    code, said = commands.run(script("PR"), *arguments("PR", corpora, folder, features="fbank"))
    assert code == 1 and "was trained on other features" in said


def test_a_run_on_other_labels_says_so(left_alone, corpora, commands, tmp_path):
    folder, lexicon = tmp_path / "pr", tmp_path / "lexicon.txt"
    shutil.copytree(left_alone / "PR", folder)
    lexicon.write_text(corpora.lexicon.read_text().replace("W AH1 N", "W AO1 N"))
    code, said = commands.run(script("PR"), *arguments("PR", corpora, folder, lexicon=lexicon))
    assert code == 1 and "was trained on other labels" in said
    assert figures(folder) == figures(left_alone / "PR")


# Kills and ranks


def weights(folder):
    """Return what was trained at each rate: the tensors of all checkpoints and of the export."""
    tensors = dict(load_file(folder / "model" / "model.safetensors"))
    for rate in RATES:
        for saved in (folder / f"lr_{rate}" / "save").iterdir():
            # Names tell the second of the save: two of one second are in no order.
            epoch = YAML(typ="safe").load(saved / "CKPT.yaml")["epoch"]
            for path in [*saved.glob("*_head.ckpt"), *saved.glob("upstream.ckpt")]:
                state = torch.load(path)
                tensors |= {f"{rate} epoch {epoch} {path.name} {k}": v for k, v in state.items()}
    return tensors


@pytest.mark.parametrize(
    ("task", "points"),
    [
        ("PR", "caching,epoch,sweep,epoch,save,validation"),
        ("embedding", "epoch,sweep,epoch,save,validation"),
    ],
)
def test_a_killed_run_ends_with_the_same_weights(
    task, points, left_alone, corpora, commands, tmp_path
):
    commands.succeed(script(task), *arguments(task, corpora, tmp_path), points=points)
    expected, found = weights(left_alone / task), weights(tmp_path)
    assert expected.keys() == found.keys()
    different = [name for name in expected if not expected[name].equal(found[name])]
    assert not different, f"{len(different)} of {len(expected)} tensors differ: {different[:3]}"
    assert figures(tmp_path)["test"] == figures(left_alone / task)["test"]


@pytest.mark.parametrize("task", ["ASR", "embedding"])
def test_two_ranks_train_a_recipe_that_fine_tunes(task, corpora, tmp_path):
    args = arguments(task, corpora, tmp_path, lrs=[0.003], distributed_backend="gloo")
    torchrun(task, *args)
    found = figures(tmp_path)
    assert math.isfinite(found["test"][CRITERIA[task]])
    given, tuned = (
        load_file(folder / "model.safetensors") for folder in (corpora.model, tmp_path / "model")
    )
    assert any(not tuned[name].equal(given[name]) for name in given if name in tuned)
