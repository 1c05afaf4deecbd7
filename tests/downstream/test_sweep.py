"""The sweep over learning rates: what it refuses, tries, keeps and tests."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from speechbrain import Stage

from recipes.common.downstream.sweep import (
    best_epoch,
    check_rates,
    make_loaders,
    try_rates,
    warn_of_rest,
)
from recipes.common.training.brain import TrainingError
from recipes.common.training.history import record_epoch
from tests.downstream.tasks import TASKS, hparams_of, identify, made_up_speakers, moved, state_of


@pytest.mark.parametrize("rates", [[], 0.001, [0], [-0.1], ["x"], [0.1, None], [math.inf]])
def test_what_is_no_list_of_rates_is_refused(rates):
    with pytest.raises(ValueError, match="lrs"):
        check_rates(rates)


def test_rates_are_positive_numbers():
    check_rates([0.001, 1])


def at_rates(outcomes, folder):
    """Return a `train_at` whose Brain has a history of error rates, or comes to a halt."""

    def train_at(rate):
        if outcomes[rate] is None:
            raise TrainingError(f"no luck with {rate}")
        output = folder / str(rate)
        output.mkdir()
        for epoch, wer in enumerate(outcomes[rate], 1):
            record_epoch(output / "history.jsonl", epoch, {}, {"wer": wer, "cer": wer / 2})
        return SimpleNamespace(criterion="wer", hparams=SimpleNamespace(output_folder=output))

    return train_at


@pytest.mark.parametrize(
    ("outcomes", "best", "epoch"),
    [
        ({0.1: [0.5, 0.4], 0.2: [0.3, 0.6], 0.3: [0.9, 0.35]}, 0.2, 1),
        ({0.1: [0.5, 0.4], 0.2: [0.4, 0.5]}, 0.1, 2),
        ({0.1: None, 0.2: [0.9, 0.9], 0.3: None}, 0.2, 2),
    ],
    ids=["best epoch", "earlier of equals", "only one that ends"],
)
def test_the_sweep_keeps_the_rate_that_is_best_on_validation(outcomes, best, epoch, tmp_path):
    brain, tried = try_rates(at_rates(outcomes, tmp_path), list(outcomes))
    assert brain.hparams.output_folder == tmp_path / str(best)
    assert tried[best] == {
        "epoch": epoch,
        "wer": min(outcomes[best]),
        "cer": min(outcomes[best]) / 2,
    }
    assert list(tried) == list(outcomes)
    assert {rate for rate in tried if tried[rate] is None} == {
        rate for rate in outcomes if outcomes[rate] is None
    }


def test_a_sweep_without_success_raises(tmp_path):
    with pytest.raises(TrainingError, match="no luck with 0.2"):
        try_rates(at_rates({0.1: None, 0.2: None}, tmp_path), [0.1, 0.2])


@pytest.mark.parametrize("rate", [0.01, 1e-5, 1])
def test_each_rate_has_a_folder_and_everything_anew(rate, tmp_path):
    first, again = (hparams_of("PR", tmp_path, rate) for _ in range(2))
    assert first["lr"] == rate and first["optimizer"].keywords["lr"] == rate
    assert Path(first["output_folder"]) == tmp_path / f"lr_{rate}"
    assert first["epoch_counter"] is not again["epoch_counter"]


@pytest.mark.parametrize(
    ("upstream", "steps", "told"),
    [
        ("finetune", 60, "60 of 60"),
        ("finetune", 199, "100 of 199"),
        ("finetune", 200, None),
        ("frozen", 60, None),
    ],
)
def test_a_fine_tuning_that_hardly_tunes_is_warned_of(upstream, steps, told, caplog):
    warn_of_rest({"upstream": upstream, "frozen_steps": 100}, steps)
    assert (told in caplog.text) if told else not caplog.text


@pytest.mark.long
@pytest.mark.parametrize(
    ("errors", "epoch"), [((0.5, 0.2, 0.4), 2), ((0.3, 0.3, 0.4), 2)], ids=["best", "equals"]
)
def test_the_test_is_of_the_best_epoch(errors, epoch, tmp_path, monkeypatch):
    seen = {}

    def summarise(brain):
        stage = brain.stage
        if stage == Stage.TRAIN:
            return {}
        number = brain.hparams.epoch_counter.current if stage == Stage.VALID else "test"
        seen[number] = state_of(brain.modules)
        return {"error": errors[number - 1] if stage == Stage.VALID else 0.9}

    monkeypatch.setattr(TASKS["SID"].brain, "summarise", summarise)
    brain = identify(tmp_path, number_of_epochs=3)
    same = {n for n in (1, 2, 3) if not moved(brain.modules, seen[n])}
    assert same == {epoch} and not moved(brain.modules, seen["test"])
    history = (Path(brain.hparams.output_folder) / "history.jsonl").read_text().splitlines()
    rows = {row["epoch"]: row["valid"] for row in map(json.loads, history)}
    assert best_epoch(brain) == {"epoch": epoch, **rows[epoch]}
    assert [rows[number]["error"] for number in (1, 2, 3)] == list(errors)
    assert len({row["loss"] for row in rows.values()}) == 3


def test_embeddings_that_learn_are_normalised_over_two_utterances_or_more(tmp_path):
    datasets, _ = made_up_speakers(tmp_path, 5, 1, distance=1.0)
    for tuned, fewest in (("finetune", 2), ("frozen", 1)):
        changes = {"upstream": tuned, "representation": "utterance", "max_batch_seconds": 2.5}
        hparams = hparams_of("SID", tmp_path, **changes)
        loaders = make_loaders(hparams, datasets, None, [])
        assert min(map(len, loaders["train"].batch_sampler)) == fewest
