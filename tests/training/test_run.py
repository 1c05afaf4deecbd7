"""The beginning of a recipe's run."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lobes.utterance_encoder import UtteranceEncoder
from pretrained.exported import save_model
from recipes.common.data.files import REPOSITORY
from recipes.common.data.loaders import load_split
from recipes.common.data.table import read_manifest
from recipes.common.downstream.sweep import best_epoch
from recipes.common.training import run
from recipes.common.training.history import read_history, record_epoch
from recipes.common.training.hparams import read_tree
from recipes.common.training.limits import check_limits
from recipes.common.training.run import claim, count_utterances, prepare
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from tests.made_datasets import made_dataset


def test_a_corpus_is_prepared_with_its_own_options(tmp_path):
    calls = []
    hparams = {"train_splits": ["a"], "valid_splits": ["b"], "test_splits": ["c"]}
    hparams |= {"data_folder": "D", "manifest_folder": "M", "skip_prep": False, "skip_bad": True}
    hparams |= {"prepare": lambda **given: calls.append(given), "prepare_options": {"deep": 2}}
    hparams["download"] = False
    prepare(hparams)
    expected = {"data_folder": "D", "save_folder": "M", "splits": ["a", "b", "c"]}
    assert calls == [{**expected, "skip_prep": False, "skip_bad": True, "deep": 2}]
    hparams["download"] = True
    with pytest.raises(ValueError, match="--download True: this corpus cannot be fetched"):
        prepare(hparams)
    assert len(calls) == 1
    hparams["prepare"] = lambda download, **given: calls.append(download)
    prepare(hparams)
    assert calls[1:] == [True]


def test_an_option_that_the_preparation_does_not_take_is_named():
    def prepare_corpus(data_folder, deeply=False, **given):
        raise TypeError("list_utterances() got an unexpected keyword argument 'deeplly'")

    hparams = {f"{split}_splits": ["a"] for split in run.SPLITS}
    hparams |= {"data_folder": "D", "manifest_folder": "M", "skip_prep": False, "skip_bad": True}
    hparams |= {"download": False, "prepare": prepare_corpus}
    with pytest.raises(ValueError, match="prepare_options has deeplly, .* Did you mean deeply?"):
        prepare({**hparams, "prepare_options": {"deeplly": True}})
    with pytest.raises(TypeError):  # a defect
        prepare({**hparams, "prepare_options": {"deeply": True}})


def test_what_an_earlier_stage_was_trained_on_is_not_held_out(tmp_path):
    earlier = tmp_path / "O" / "utterance"
    (earlier / "model").mkdir(parents=True)
    (earlier / "manifest").mkdir()
    lines = ["ID,duration,wav,spk_id", *(f"{name},1.0,$data_root/{name},{name}" for name in "abc")]
    (earlier / "manifest" / "train.csv").write_text("\n".join(lines) + "\n")
    hparams = {"utterance_model": tmp_path / "O" / "joint" / ".." / "utterance" / "model"}
    hparams["frame_model"] = None  # public weights in its place
    datasets = {
        split: SimpleNamespace(data_ids=[*names])
        for split, names in {"train": "abc", "valid": "d", "test": "eb"}.items()
    }
    run.check_unseen(hparams, datasets)  # a model that lies there without its run
    splits = {f"{split}_splits": [split] for split in run.SPLITS}
    settings = {"manifest_folder": f"{earlier}/manifest", **splits}
    lines = [f"{name}: {json.dumps(value)}" for name, value in settings.items()]
    (earlier / "hyperparams.yaml").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"train.csv has 1 utterances .* such as b \(test\)"):
        run.check_unseen(hparams, datasets)
    datasets["test"].data_ids.remove("b")
    run.check_unseen(hparams, datasets)

    # A command that was refused since has written the manifest anew
    with open(earlier / "hyperparams.yaml", "a") as file:
        file.write(f"data_folder: {tmp_path}\nmin_seconds: 0.5\n")
    trained = load_split(
        [earlier / "manifest" / "train.csv"], read_tree(earlier / "hyperparams.yaml")
    )
    given = {"output_folder": str(earlier)}
    run.keep_to_data(given, {"train": trained, "valid": trained})
    run.check_unseen(hparams, datasets)
    with open(earlier / "manifest" / "train.csv", "a") as file:
        file.write("f,1.0,$data_root/f,f\n")
    with pytest.raises(
        ValueError, match="train.csv lists other utterances than .*utterance was tra"
    ):
        run.check_unseen(hparams, datasets)


HOLDING = """
import sys
from recipes.common.training.run import claim
claim(sys.argv[1])
print("claimed", flush=True)
sys.stdin.read()
"""


def test_a_run_goes_on_with_the_utterances_of_before_alone(tmp_path):
    def datasets(name, **rows):
        return {
            split: made_dataset(
                tmp_path / name / f"{split}.csv",
                {utterance: {"duration": seconds, "wav": "none"} for utterance, seconds in own},
            )
            for split, own in rows.items()
        }

    given = {"train": [("a", 1.0), ("b", 2.0)], "valid": [("c", 1.0)], "test": [("d", 1.0)]}
    hparams = {"output_folder": str(tmp_path)}
    first = datasets("first", **given)
    run.keep_to_data(hparams, first)
    run.keep_to_data(hparams, datasets("no checkpoint yet", **{**given, "valid": [("e", 1.0)]}))
    run.keep_to_data(hparams, first)
    (tmp_path / "save" / "CKPT+1").mkdir(parents=True)
    same = {**given, "train": given["train"][::-1], "test": [("e", 3.0)]}
    run.keep_to_data(hparams, datasets("same", **same))
    for number, changed in enumerate(
        ({"train": [("a", 1.0)]}, {"train": [("a", 1.0), ("b", 2.5)]}, {"valid": [("d", 1.0)]})
    ):
        with pytest.raises(
            ValueError, match=f"whose utterances of {next(iter(changed))} were others"
        ):
            run.keep_to_data(hparams, datasets(f"changed {number}", **{**given, **changed}))
    (tmp_path / "data.json").unlink()  # of an earlier version
    run.keep_to_data(hparams, first)


def test_a_run_goes_on_from_the_model_that_it_started_from_alone(tmp_path):
    rows = {"a": {"duration": 1.0, "wav": "none"}}
    datasets = {split: made_dataset(tmp_path / f"{split}.csv", rows) for split in run.SPLITS}
    models = [tmp_path / name for name in ("first", "second")]
    for number, folder in enumerate(models):
        torch.manual_seed(number)
        save_model(folder, {"utterance_encoder": UtteranceEncoder("tdnn", channels=8)})
    shutil.copytree(models[0], tmp_path / "moved")
    given = {"output_folder": str(tmp_path / "run"), "frame_model": None}
    (tmp_path / "run" / "save" / "CKPT+1").mkdir(parents=True)
    for folder in (models[0], tmp_path / "moved", tmp_path / "gone", models[0]):
        run.keep_to_data({**given, "utterance_model": str(folder)}, datasets)
    with pytest.raises(ValueError, match="started from another utterance_model: .*second has"):
        run.keep_to_data({**given, "utterance_model": str(models[1])}, datasets)

    # Where a link leads, and what public weights take the place of, do not count
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    given |= {"utterance_model": str(tmp_path / "link" / ".." / "first")}
    run.keep_to_data(given, datasets)
    for number in range(2):
        weights = {"frame_weights": "hubert", "frame_model": str(models[number])}
        run.keep_to_data({**given, **weights}, datasets)


@pytest.mark.long
def test_a_folder_is_one_run_s_until_that_ends_or_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LOCK_SECONDS", 0.1)
    folder = tmp_path / "O" / "run"
    command = [sys.executable, "-c", HOLDING, folder]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(ValueError, match="Another run is at work in .*run: wait"):
            claim(folder)
        other.kill()
    claim(folder)
    claim(folder / ".." / "run")  # its own


@pytest.mark.parametrize("name", ["model", "metrics.json", "history.jsonl", "run.lock"])
def test_a_folder_that_cannot_take_the_results_is_refused_before_training(name, tmp_path):
    (tmp_path / name).touch() if name == "model" else (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="cannot take the results"):
        claim(tmp_path)


def test_a_file_in_the_place_of_the_output_folder_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(ValueError, match="run is a file: expected the run's output folder"):
        claim(tmp_path / "run")


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "two", None])
def test_a_number_of_epochs_that_is_none_is_refused(epochs):
    with pytest.raises(ValueError, match="number_of_epochs is .*: expected a whole number"):
        check_limits({"number_of_epochs": epochs})
    check_limits({"number_of_epochs": 1})


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup": 2},
        {"mask_prob": 80},
        {"max_batch_seconds": 0},
        {"seed": -1},
        {"num_workers": -1},
        {"max_seconds": 0.1, "min_seconds": 0.5},
        {"max_crop_seconds": 1.0, "min_crop_seconds": 2.0},
        {"beta": -0.1},
        {"beta_reached": 0.1, "beta_starts": 0.3},
        {"lr": float("nan")},
        {"num_targets": 1},
        {"codebook_size": 1},
        {"trained_layers": 0},
        {"sinkhorn_iterations": 0},
        {"sinkhorn_epsilon": 0.01},
        {"kmeans_passes": 0},
        {"kmeans_passes": 0.5},
        {"frames_per_pair": 0},
        {"critic_projections": -1},
        {"critic_steps": True},
        {"quantizer": "k-means"},
        {"tokenizer": "words"},
        {"train_splits": []},
        {"probes": []},
        {"probes": ["linear", "cubic"]},
        {"probes": "linear"},
        {"valid_splits": "dev"},
    ],
)
def test_a_number_outside_its_range_is_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is "):
        check_limits(settings)


def test_null_is_none_of_a_few_settings():
    check_limits({"frames_per_pair": None, "num_workers": None})


def test_what_is_left_out_of_a_split_is_counted_and_told(librispeech, tmp_path, caplog):
    splits = {"train": "train-clean-100", "valid": "dev-clean", "test": "test-clean"}
    prepare_librispeech(librispeech, tmp_path, splits.values(), num_workers=1)
    hparams = {f"{part}_splits": [name] for part, name in splits.items()}
    hparams |= {"manifest_folder": tmp_path, "data_folder": librispeech}
    rows = read_manifest(tmp_path / "dev-clean.csv")
    hparams["min_seconds"] = sorted(row["duration"] for row in rows)[2]
    short = sum(row["duration"] < hparams["min_seconds"] for row in rows)
    marker = tmp_path / "dev-clean.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "left_out": 4}))
    datasets = run.split_datasets(hparams)
    loaders = {part: SimpleNamespace(dataset=data) for part, data in datasets.items()}
    counts = count_utterances(hparams, loaders)
    assert counts["valid"] == {"used": len(rows) - short, "shortened": 0, "left_out": short + 4}
    hparams |= {"max_seconds": sorted(row["duration"] for row in rows)[-3], "span_mask": None}
    long = sum(row["duration"] > hparams["max_seconds"] for row in rows)
    assert count_utterances(hparams, loaders)["valid"]["shortened"] == long > 0
    assert f"valid: {long} utterances are cropped to {hparams['max_seconds']} s" in caplog.text
    del hparams["span_mask"]
    counts = count_utterances({**hparams, "crop": True}, loaders)
    assert counts["valid"]["shortened"] == 0 < counts["train"]["shortened"]
    assert f"dev-clean: {short} of {len(rows)} utterances are left out: shorter than" in caplog.text


@pytest.mark.parametrize("text", ["{", '{"epoch": 1}\n', "[1]\n", "\n", "null\n"])
def test_a_history_that_is_none_is_refused_by_its_line(text, tmp_path):
    path = tmp_path / "history.jsonl"
    record_epoch(path, 1, {}, {})
    path.write_text(path.read_text() + text)
    with pytest.raises(ValueError, match="history.jsonl, line 2: no epoch of a training"):
        read_history(path)


def test_a_best_epoch_is_told_of_a_whole_history_alone(tmp_path):
    path = tmp_path / "history.jsonl"
    for epoch, error in ((1, 0.5), (2, 0.2), (3, 0.4)):
        record_epoch(path, epoch, {}, {"error": error})
    brain = SimpleNamespace(hparams=SimpleNamespace(output_folder=tmp_path), criterion="error")
    assert best_epoch(brain)["epoch"] == 2
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="history.jsonl lacks epochs"):
        best_epoch(brain)


@pytest.mark.long
def test_a_program_of_another_clone_is_refused(tmp_path):
    """As where two clones share an environment, in which one of them is installed."""
    for name in ("recipes", "lobes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    program = tmp_path / "recipes" / "LibriSpeech" / "train.py"
    program.parent.mkdir()
    program.write_text("import recipes; print('ran')")
    found = {}
    for place in (REPOSITORY, tmp_path):
        surroundings = {**os.environ, "PYTHONPATH": str(place)}
        command = [sys.executable, program]
        found[place] = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    assert found[REPOSITORY].returncode == 1 and not found[REPOSITORY].stdout
    assert f"{program} lies in {tmp_path}, but this environment" in found[REPOSITORY].stderr
    assert found[tmp_path].stdout == "ran\n"
