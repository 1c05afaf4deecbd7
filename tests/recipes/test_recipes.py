"""The pretraining recipes, by their own command on made-up speech."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretrained.exported import load_model
from recipes.common.data.seeding import derive_seed
from recipes.common.training.hparams import load_hparams, read_tree
from recipes.common.training.run import split_datasets
from recipes.experiments import evaluate
from recipes.experiments.runner import PRETRAIN, RECIPES
from recipes.LibriSpeech.pretrain.utterance import UtteranceBrain
from tests.training.distributed_gradients import METHODS
from tests.training.distributed_gradients import SMALL as METHOD_SETTINGS

TRAIN = PRETRAIN / "train.py"
STAGES = ("frame", "spin", "utterance", "joint")
POINTS = {
    "frame": "kmeans,labelling,epoch,save,validation,end",
    "spin": "epoch,save,validation,end",
    "utterance": "epoch,save,validation,moments,end",
    "joint": "epoch,save,validation,end",
}
SMALL = {
    "frame": ["--num_targets", "16", "--kmeans_passes", "2"],
    "spin": ["--num_targets", "16", "--codebook_size", "16", "--trained_layers", "2"],
    "utterance": [],
    "joint": ["--num_targets", "16", "--critic_steps", "1"],
}

pytestmark = pytest.mark.long


def arguments(stage, data, output, *more):
    """Return the command line of a small run of a stage."""
    options = {
        "--data_folder": data,
        "--output_folder": Path(output) / stage,
        "--number_of_epochs": 2,
        "--max_batch_seconds": 20,
        "--ckpt_interval_minutes": 0,
        "--ckpt_interval_steps": 3,
    }
    pairs = [str(word) for pair in options.items() for word in pair]
    return [f"hparams/{stage}_tiny.yaml", *pairs, *SMALL[stage], *map(str, more)]


@pytest.fixture(scope="module")
def left_alone(librispeech, commands, tmp_path_factory):
    """The three stages, run one after the other without interruption."""
    output = tmp_path_factory.mktemp("left_alone")
    for stage in STAGES:
        commands.succeed(TRAIN, *arguments(stage, librispeech, output))
    return output


def test_a_quick_look_leaves_nothing_that_a_run_would_read(librispeech, commands, tmp_path):
    for stage in STAGES:
        words = arguments(stage, librispeech, tmp_path, "--debug")
        for name in {"joint": ("frame", "utterance"), "spin": ("frame",)}.get(stage, ()):
            words += [f"--{name}_model", str(tmp_path / name / "debug" / "model")]
        commands.succeed(TRAIN, *words)
        folder = tmp_path / stage
        assert json.loads((folder / "debug" / "metrics.json").read_text())["figures"]["test"]
        left = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
        assert left == {"debug", "manifest"}


def test_each_stage_leaves_its_results(left_alone):
    expected = {"frame": {"frame_encoder"}, "utterance": {"utterance_encoder"}}
    expected["spin"] = expected["frame"]
    expected["joint"] = expected["frame"] | expected["utterance"]
    for stage in STAGES:
        folder = left_alone / stage
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["figures"]["epochs"] == 2 and metrics["seed"] == 2407
        assert set(metrics["figures"]["test"]) >= {"loss"}
        config = json.loads((folder / "model" / "config.json").read_text())
        assert set(config) - {"format", "sha256"} == expected[stage]
        assert (folder / "curves.png").stat().st_size > 1000
        assert len((folder / "history.jsonl").read_text().splitlines()) == 2
        assert len(list((folder / "save").glob("CKPT*"))) >= 1


def test_the_exported_embeddings_are_those_of_training_whitened_without_lines(left_alone):
    folder = left_alone / "utterance"
    exported = load_model(folder / "model")["utterance_encoder"].eval()
    trained = load_model(folder / "model")["utterance_encoder"].eval()
    (checkpoint,) = (folder / "save").glob("CKPT*/utterance_encoder.ckpt")
    trained.load_state_dict(torch.load(checkpoint, weights_only=True))
    wavs = torch.randn(8, 16000, generator=torch.Generator().manual_seed(0)) / 10
    with torch.no_grad():
        assert not torch.allclose(trained(wavs), exported(wavs), atol=0.1)
        maps = [encoder.backbone.fc.weight[..., 0] for encoder in (trained, exported)]
        left = [int(torch.linalg.matrix_rank(weights, rtol=1e-5)) for weights in maps]
    settings = read_tree(folder / "hyperparams.yaml")
    assert left[0] - left[1] == settings["line_directions"] > 0
    figures = json.loads((folder / "metrics.json").read_text())["figures"]
    assert figures["test"]["embedding_deviation"] > 1.2 * figures["valid"]["embedding_deviation"]


def test_the_exported_frames_lose_the_mean_and_deviation_of_their_utterance(left_alone):
    wavs = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) / 10
    encoder = load_model(left_alone / "joint" / "model")["frame_encoder"]
    with torch.no_grad():
        frames = encoder(wavs)[0]
    assert frames.mean(0).abs().max() < 1e-5
    assert ((frames.std(0, correction=0) - 1).abs() < 0.01).all()


def test_the_last_step_is_fitted_on_training_utterances(left_alone, librispeech):
    folder = left_alone / "utterance"
    given = {"data_folder": str(librispeech), "output_folder": str(folder)}
    hparams = load_hparams(PRETRAIN / "hparams" / "utterance_tiny.yaml", given)
    datasets = split_datasets(hparams)
    plain = UtteranceBrain.make_loaders(hparams, datasets, "cpu")["plain"].dataset
    assert sorted(plain.data_ids) == sorted(datasets["train"].data_ids)


def evaluation(left_alone, data, model, draws=1):
    """Return the hyperparameters of evaluate.py, with the joint stage as the control."""
    given = {"data_folder": str(data), "output_folder": str(left_alone / "leakage")}
    given["crop_draws"] = draws
    given |= {"model": str(model), "control": str(left_alone / "joint" / "model")}
    return load_hparams(RECIPES / "experiments" / "hparams" / "evaluate.yaml", given)


def test_accuracies_are_compared_over_the_same_draws_of_crops(left_alone, librispeech, monkeypatch):
    hparams = evaluation(left_alone, librispeech, left_alone / "joint" / "model", draws=2)
    kept = evaluate.kept_accuracies(hparams)
    assert [values["ratio"] for values in kept.values()] == [1.0] * 4
    both = kept["test_retrieval_accuracy"]["model"]
    seeds = [derive_seed(hparams["seed"], "crops", draw) for draw in range(2)]
    assert seeds[0] != seeds[1]
    each = []
    for seed in seeds:
        monkeypatch.setattr(evaluate, "derive_seed", lambda *names, seed=seed: seed)
        once = evaluate.retrieval_accuracies({**hparams, "crop_draws": 1})
        each.append(once["test"]["model"])
    assert 0 < both <= 1 and both == pytest.approx(sum(each) / 2)


def test_a_stage_holds_out_nothing_that_an_earlier_one_was_trained_on(
    left_alone, librispeech, commands, tmp_path
):
    words = ["--train_splits", "[dev-clean]", "--valid_splits", "[test-clean]"]
    words += ["--test_splits", "[train-clean-100]"]
    words += ["--units_folder", left_alone / "frame" / "units"]
    for name in ("frame", "utterance"):
        words += [f"--{name}_model", left_alone / name / "model"]
    code, said = commands.run(TRAIN, *arguments("joint", librispeech, tmp_path, *words))
    assert code == 1 and "utterances that are held out here" in said and "(test)" in said


def test_a_stage_does_not_go_on_with_other_utterances(left_alone, librispeech, commands, tmp_path):
    shutil.copytree(left_alone / "utterance", tmp_path / "utterance")
    path = tmp_path / "utterance" / "manifest" / "train-clean-100.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    words = arguments("utterance", librispeech, tmp_path)
    code, said = commands.run(TRAIN, *words)
    assert code == 1 and f"{path} was changed since it was written" in said
    code, said = commands.run(TRAIN, *words, "--skip_prep", "True")
    assert code == 1 and "whose utterances of train were others" in said


def test_a_model_without_its_run_is_refused(left_alone, librispeech, tmp_path):
    with pytest.raises(ValueError, match="metrics.json is not there: --model is to be"):
        evaluate.check_runs(evaluation(left_alone, librispeech, tmp_path / "model"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_ends_with_the_same_weights(
    stage, workers, left_alone, librispeech, commands, tmp_path
):
    earlier = {
        "frame": [],
        "spin": ["--frame_model", str(left_alone / "frame" / "model")],
        "utterance": [],
        "joint": [
            *("--frame_model", str(left_alone / "frame" / "model")),
            *("--utterance_model", str(left_alone / "utterance" / "model")),
        ],
    }[stage]
    args = arguments(stage, librispeech, tmp_path, "--num_workers", workers, *earlier)
    commands.succeed(TRAIN, *args, points="epoch" if workers else POINTS[stage])
    assert_same(left_alone / stage, tmp_path / stage)


def assert_same(expected_run, found_run):
    """Check that two runs have the same weights, to the bit, and the same figures of the test."""
    runs = expected_run, found_run
    expected, found = (load_file(run / "model" / "model.safetensors") for run in runs)
    assert expected.keys() == found.keys()
    different = [name for name in expected if not expected[name].equal(found[name])]
    assert not different, f"{len(different)} of {len(expected)} tensors differ: {different[:3]}"
    records = (run / "metrics.json" for run in runs)
    expected, found = (json.loads(path.read_text())["figures"]["test"] for path in records)
    assert expected == found


@pytest.mark.parametrize("method", [name for name in METHODS if name != "simclr"])
def test_a_killed_run_of_a_method_ends_with_the_same_weights(
    method, librispeech, commands, tmp_path
):
    small = METHOD_SETTINGS.get(method, {}).items()
    options = ["--method", method, *(word for key, x in small for word in (f"--{key}", x))]
    runs = tmp_path / "whole", tmp_path / "killed"
    for run, points in zip(runs, ("", "epoch,end"), strict=True):
        args = arguments("utterance", librispeech, run, *options)
        commands.succeed(TRAIN, *args, points=points)
    assert_same(*(run / "utterance" for run in runs))


def batches_noted(said):
    """Return the utterances of each batch of the first epoch."""
    start = "trains in epoch 1 on "
    lines = [line.removeprefix(start) for line in said.splitlines() if line.startswith(start)]
    return [line.split() for line in lines]


@pytest.mark.parametrize(("before", "after", "again"), [(2, 1, 0), (1, 2, 1)])
def test_an_epoch_goes_on_with_another_number_of_ranks(
    before, after, again, librispeech, commands, tmp_path
):
    """Three steps are in the checkpoint; the one that the kill cut short is trained on anew."""
    options = ["--max_batch_seconds", 8, "--log_steps", 1, "--distributed_backend", "gloo"]
    args = arguments("frame", librispeech, tmp_path, *options)
    code, said = commands.run(TRAIN, *args, point="noted+epoch", ranks=before)
    assert code < 0, said[-3000:]
    done = batches_noted(said)[: 3 * before]
    code, said = commands.run(TRAIN, *args, point="noted", ranks=after)
    assert code == 0, said[-3000:]
    rest = batches_noted(said)
    counts = Counter(name for batch in done + rest for name in batch)
    given = {"data_folder": str(librispeech), "output_folder": str(tmp_path / "frame")}
    hparams = load_hparams(PRETRAIN / "hparams" / "frame_tiny.yaml", given)
    assert set(counts) == set(split_datasets(hparams)["train"].column("id"))
    twice = {name for name, times in counts.items() if times == 2}
    assert max(counts.values()) <= 2 and len(done) == 3 * before
    assert twice == {name for batch in done[-again:] for name in batch if again}
    record = json.loads((tmp_path / "frame" / "metrics.json").read_text())
    assert record["figures"]["epochs"] == 2
