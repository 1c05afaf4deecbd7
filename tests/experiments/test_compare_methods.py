"""Methods side by side: what is run, for how long, what is read and how it is told."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pretrained.audio import read_speech
from recipes.common.evaluation.bootstrap import bootstrap_eer, bootstrap_groups, bootstrap_trials
from recipes.common.evaluation.metrics import eer
from recipes.common.report.representations import load_systems
from recipes.common.training.hparams import load_hparams, read_tree
from recipes.experiments import compare_methods, method_readings, runner

SETTINGS = read_tree(compare_methods.SETTINGS)


def comparison(kind, folder, **changes):
    """Return a Comparison whose costs are known."""
    given = {"kind": kind, "minutes": 2.0, "seeds": 2, "jobs": 1, "only": None}
    given |= {"output_folder": folder, "data_folder": folder, **changes}
    made = compare_methods.Comparison(SimpleNamespace(**given))
    for name in made.tried:
        folder = made.folder / "costs" / compare_methods.slug(name)
        folder.mkdir(parents=True)
        (folder / "costs.json").write_text(json.dumps({"before": 20.0, "epoch": 10.0}))
    return made


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_setting_is_one_that_train_can_be_run_with(kind, tmp_path):
    made = comparison(kind, tmp_path)
    for tried in made.tried.values():
        for setting in tried:
            run = made.training(setting, 1, 3, tmp_path / "run")
            given = {key: str(x) if isinstance(x, Path) else x for key, x in run.given.items()}
            hparams = load_hparams(run.recipe / run.words[1], {**given, "output_folder": "O"})
            assert run.given.keys() <= hparams.keys() and hparams["number_of_epochs"] == 3


def test_a_run_has_the_epochs_that_the_time_pays_for(tmp_path):
    made = comparison("utterance", tmp_path)
    name = next(iter(made.tried))
    assert made.epochs(name) == 10
    assert made.epochs(name, share=0.5) == 4
    assert made.epochs(name, share=0.01) == 1


def test_the_best_setting_is_that_of_the_lowest_rate_on_development_speakers(tmp_path):
    made = comparison("utterance", tmp_path)
    name = next(iter(made.tried))
    rates = [0.3, 0.1, 0.2]
    for place, rate in enumerate(rates[: len(made.tried[name])]):
        folder = made.run(name, place, made.seeds[0])
        folder.mkdir(parents=True)
        text = json.dumps({"eer": {"value": rate}})
        (folder / "dev-clean.json").write_text(text)
        (folder / "test-clean.json").write_text(json.dumps({"eer": {"value": 1 - rate}}))
    made.read_model = lambda run, split: json.loads((run / f"{split}.json").read_text())
    assert made.best(name) == 1


def test_test_speakers_are_read_with_the_chosen_settings_alone(monkeypatch, tmp_path):
    """Spin's second setting is the best; what both start from is trained first, and once."""
    made = comparison("frame", tmp_path)
    trained, read = [], []

    def read_model(folder, split):
        read.append((folder.parent.parent.name, int(folder.parent.name), int(folder.name), split))
        return {"abx_across": {"value": 0.5 - 0.1 * read[-1][1]}}

    made.read_model = read_model
    made.train = made.train_start = lambda *plan: trained.append(plan)
    patched = {
        "Comparison": lambda options: made,
        "in_processes": lambda jobs, function, *given: list(map(function, *given)),
        "read_others": lambda *_: {},
        "add_phone_errors": lambda *_: None,
    }
    for name, value in patched.items():
        monkeypatch.setattr(compare_methods, name, value)
    monkeypatch.setattr(runner, "read_figures", lambda folder: {"epochs": 3})
    found = compare_methods.compare(made.options)
    spin = "k-means, then Spin"
    places = {name: int(name == spin) for name in made.tried}
    seeds = runner.SEEDS[:2]
    tested = {(name, n, seed) for name, n, seed, split in read if split == "test-clean"}
    slugs = {compare_methods.slug(name): place for name, place in places.items()}
    assert tested == {(name, place, seed) for name, place in slugs.items() for seed in seeds}
    of_all = [(name, place, seeds[1]) for name, place in places.items()]
    of_second = [plan for plan in trained if plan[-1] == seeds[1]]
    assert of_second[0] == (0.7, seeds[1]) and sorted(of_second[1:]) == sorted(of_all)
    assert of_second[-1] == (spin, 1, seeds[1])
    assert trained[0] == (0.7, seeds[0]) and trained.count(trained[0]) == 2  # before, and again
    assert found[spin]["setting"] == made.tried[spin][1] and found[spin]["minutes"] == 2.0


def test_phone_errors_are_those_of_the_row_seed_and_split(monkeypatch, tmp_path):
    made = comparison("frame", tmp_path)
    made.recognise = lambda *_: None
    rates = {
        ("FBANK", 2407): 0.1,
        ("FBANK", 2408): 0.2,
        ("k-means", 2407): 0.3,
        ("k-means", 2408): 0.4,
    }
    folders = {made.phones(*key): rate for key, rate in rates.items()}
    read = {"speakers_of": lambda path: path.name}
    read["read_phone_errors"] = lambda folder, owners: {
        "value": folders[folder],
        "dev": folders[folder] / 2,
        "evidence": {"owners": owners},
    }
    for name, function in read.items():
        monkeypatch.setattr(compare_methods, name, function)
    found = {}
    for name, seed in rates:
        compare_methods.add_run(found, name, seed, name, {"dev-clean": {}, "test-clean": {}})
    compare_methods.add_phone_errors(made, found)
    for (name, seed), rate in rates.items():
        run = found[name]["runs"][seed]
        assert run["dev-clean"]["per"] == {"value": rate / 2, "evidence": {}}
        owners = {"owners": "test-clean.csv"}
        assert run["test-clean"]["per"] == {"value": rate, "evidence": owners}


def trials(rng):
    """Return 400 trials of 12 speakers: their scores, labels and speakers."""
    speakers = rng.integers(12, size=(400, 2))
    speakers[:200, 1] = speakers[:200, 0]
    labels = (speakers[:, 0] == speakers[:, 1]).astype(int)
    return labels + rng.normal(size=400), labels, speakers


def reading(scores, labels, speakers):
    """Return the EER of trials as it is kept."""
    evidence = {"scores": scores, "labels": labels, "speakers": speakers}
    return method_readings.plain({"value": eer(scores, labels), "evidence": evidence})


def test_of_one_seed_the_interval_is_that_over_speakers():
    one = trials(np.random.default_rng(0))
    value, interval = method_readings.pool([reading(*one)])
    expected = bootstrap_eer(*one, runner.SEEDS[0])
    assert value == expected[0] and interval == pytest.approx(expected[1], abs=1e-6)
    scores = np.random.default_rng(1).random((1, 9))
    figure = {"value": scores.mean(), "evidence": {"group_scores": scores.tolist()}}
    assert method_readings.pool([figure])[1] == bootstrap_groups(scores, runner.SEEDS[0])


def test_seeds_that_differ_widen_the_interval():
    scores, *others = trials(np.random.default_rng(0))
    one = reading(scores, *others)
    worse = reading(scores * np.where(np.arange(400) % 3 == 0, -1, 1), *others)
    same = method_readings.pool([one, one])[1]
    apart = method_readings.pool([one, worse])[1]
    assert apart[1] - apart[0] > 1.3 * (same[1] - same[0])


def test_the_table_has_a_row_for_each_method_and_a_dash_where_nothing_is_read():
    figure = {"value": 0.25, "evidence": {}}
    run = {"dev-clean": {"eer": figure}, "test-clean": {"eer": figure, "phones": figure}}
    row = {"setting": {"lr": 0.003}, "minutes": 2.5, "epochs": 7, "runs": {"1": run, "2": run}}
    lines = compare_methods.make_table("utterance", {"SimCLR": row}).splitlines()
    assert lines[0].startswith("| method | setting | minutes | epochs | seeds | EER, dev | EER |")
    assert lines[2] == "| SimCLR | lr 0.003 | 2.5 | 7 | 2 | 25.0 | 25.0 | 25.0 | - | |"


def test_a_method_is_compared_with_the_first_on_the_same_speakers():
    """Speakers differ by far more than the methods do."""
    rng = np.random.default_rng(0)
    speakers = 0.2 * rng.normal(size=30)
    rows = {}
    for name, value in (("k-means", 0.3), ("another", 0.28)):
        noise = 0.01 * rng.normal(size=(2, 30))
        scores = value + speakers - speakers.mean() + noise - noise.mean(1, keepdims=True)
        read = [{"value": value, "evidence": {"group_scores": [own.tolist()]}} for own in scores]
        runs = {
            str(n): {part: {"abx_across": own} for part in ("dev-clean", "test-clean")}
            for n, own in enumerate(read)
        }
        rows[name] = {"setting": {}, "runs": runs}
    table = compare_methods.make_table("frame", rows).splitlines()
    assert table[0].endswith("| ABX across, less k-means |")
    assert table[2].endswith("| - | |")
    first = [run["test-clean"]["abx_across"] for run in rows["k-means"]["runs"].values()]
    assert f"| {method_readings.percent(first, 1.0)} |" in table[2]  # no probe: not widened
    difference, low, high = re.findall(r"[+-][\d.]+", table[3].split("|")[-2])
    assert float(difference) == -2.0 and -2.6 < float(low) < float(high) < -1.4


def test_the_difference_of_eers_pairs_their_trials():
    scores, *others = trials(np.random.default_rng(0))
    one = reading(scores, *others)
    value, (low, high) = method_readings.pool([one], less=[one])
    assert value == low == high == 0
    better = scores + others[0]

    def difference(weights):
        return eer(better, others[0], weights) - eer(scores, others[0], weights)

    _, interval = method_readings.pool([reading(better, *others)], less=[one])
    expected = bootstrap_trials(difference, *others, runner.SEEDS[0])
    assert interval == pytest.approx(expected, abs=1e-5)


def test_an_utterance_is_sent_through_one_channel_and_always_the_same(librispeech):
    [bands] = load_systems([], controls=True, seed=0)
    paths = sorted(Path(librispeech).glob("dev-clean/*/*/*.flac"))
    rows = [{"ID": path.stem, "wav": path} for path in paths]
    sent, channels = method_readings.send(bands, rows)
    again, same = method_readings.send(bands, rows[::-1])
    assert np.array_equal(sent, again[::-1]) and channels.tolist() == same[::-1].tolist()
    assert 2 < len(set(channels)) <= len(method_readings.CHANNELS)
    whole = [bands.utterance(read_speech(row["wav"])[None])[0][0, 0, 0].numpy() for row in rows]
    unchanged = [np.allclose(x, y, atol=1e-5) for x, y in zip(sent, whole, strict=True)]
    assert unchanged == [name == "16 kHz" for name in channels]
