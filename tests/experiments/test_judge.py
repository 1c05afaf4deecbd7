"""The verdict on stage C: what meets an aim, what does not, and where there is nothing to judge."""

import csv
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pretrained.plain_files import read_json
from recipes.common.evaluation.metrics import eer
from recipes.common.training.hparams import check_options, read_tree
from recipes.experiments import ablate, compare_methods, judge, method_readings, results, runner
from recipes.experiments.judging import aims, recognition
from recipes.experiments.runner import PRETRAIN
from recipes.Synthetic import demo
from tests.conftest import WORDS

SPEAKERS = 20


def reading(value, seed, spread=0.05, shuffled=0.0, dev=None):
    noise = np.random.default_rng(seed).normal(0, spread, SPEAKERS)
    scores = value + noise - noise.mean()
    evidence = {"group_scores": [scores.tolist()]}
    dev = value if dev is None else dev
    return {"value": value, "evidence": evidence, "control": shuffled, "dev": dev}


def verification(noise, seed):
    """Return trials of 20 speakers whose scores are as noisy as asked."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(SPEAKERS, size=(2, 2000))
    second = np.where(rng.random(2000) < 0.5, first, second)
    labels = (first == second).astype(int)
    scores = labels + noise * np.random.default_rng(seed + 1).normal(size=2000)
    evidence = {"scores": scores, "labels": labels, "speakers": np.stack([first, second], 1)}
    return method_readings.plain({"value": eer(scores, labels), "evidence": evidence})


def run(seed, speaker, phones, last_phones, noise, content, spread=0.05):
    return {
        "speaker": {**reading(speaker, seed, spread), "attacker": "x-vector"},
        "speaker_eer": {**reading(0.3, seed), "attacker": "x-vector"},
        "phones": reading(phones, seed + 1, 0.01),
        "last_phones": reading(last_phones, seed + 3, 0.01),
        "eer": verification(noise, seed=5),
        "content": reading(content, seed + 2, shuffled=-0.05),
    }


def verdict(joint, control=(0.8, 0.7, 0.75, 0.3, 0.2), seeds=3, **options):
    pairs = [
        {"joint": run(s, *joint, **options), "joint_plain": run(s + 50, *control, **options)}
        for s in range(seeds)
    ]
    return aims.judge(pairs)


def met(*args, **options):
    return [line["met"] for line in verdict(*args, **options)]


def test_a_joint_model_that_does_all_it_should_meets_every_aim():
    assert met((0.3, 0.7, 0.75, 0.3, 0.05)) == [True] * 5


def test_a_joint_model_like_its_control_meets_only_what_is_to_be_kept():
    lines = verdict((0.8, 0.7, 0.75, 0.3, 0.2))
    assert [line["met"] for line in lines] == [False, True, True, True, False]
    assert lines[0]["margin"] == pytest.approx(0.8 - 0.6 * 0.8)
    assert lines[4]["interval"][0] < 0 < lines[4]["interval"][1]


@pytest.mark.long
@pytest.mark.parametrize(
    "joint, missed",
    [
        ((0.5, 0.7, 0.75, 0.3, 0.05), 0),  # 37 % lower
        ((0.3, 0.73, 0.75, 0.3, 0.05), 1),  # 4 % higher
        ((0.3, 0.7, 0.78, 0.3, 0.05), 2),
        ((0.3, 0.7, 0.75, 0.42, 0.05), 3),
        ((0.3, 0.7, 0.75, 0.3, 0.3), 4),
    ],
)
def test_each_aim_can_be_missed(joint, missed):
    assert met(joint) == [place != missed for place in range(5)]


def test_an_aim_met_only_on_average_is_not_met():
    assert met((0.46, 0.7, 0.75, 0.3, 0.05), spread=0.01)[0]
    assert not met((0.46, 0.7, 0.75, 0.3, 0.05), spread=0.5)[0]


def test_seeds_that_disagree_widen_the_interval():
    pairs = [
        {"joint": run(s, 0.2 + 0.4 * (s == 2), 0.7, 0.75, 0.3, 0.05)}
        | {"joint_plain": run(s + 50, 0.8, 0.7, 0.75, 0.3, 0.2)}
        for s in range(3)
    ]
    apart = aims.judge(pairs)[0]
    alike = verdict((1 / 3, 0.7, 0.75, 0.3, 0.05))[0]
    assert apart["margin"] == pytest.approx(alike["margin"])
    width = [high - low for low, high in (apart["interval"], alike["interval"])]
    assert width[0] > 2 * width[1] and alike["met"] and not apart["met"]


def test_there_is_nothing_to_lower_where_the_control_tells_nothing():
    assert met((0.3, 0.7, 0.75, 0.3, -0.05), control=(0.8, 0.7, 0.75, 0.3, -0.05))[4] is None


def rival(speaker, last_phones, seed):
    """Return a rival's readings, the same of development and of test speakers."""
    return {
        "speaker": {**reading(speaker, seed), "attacker": "means"},
        "speaker_eer": {**reading(0.3, seed), "attacker": "x-vector"},
        "last_phones": reading(last_phones, seed + 1, 0.01),
    }


def with_rivals(rivals, seeds=3):
    """Return runs whose joint model has a speaker accuracy of 0.3 and a phone error of 0.75."""
    joint, control = (0.3, 0.7, 0.75, 0.3, 0.05), (0.8, 0.7, 0.75, 0.3, 0.2)
    return [
        {"joint": run(s, *joint), "joint_plain": run(s + 50, *control)}
        | {name: rival(seed=s + 90, **own) for name, own in rivals.items()}
        for s in range(seeds)
    ]


RIVALS = {
    "costly": {"speaker": 0.05, "last_phones": 0.77},  # 2.7 % more phone errors: it does not count
    "good": {"speaker": 0.5, "last_phones": 0.76},
    "weak": {"speaker": 0.7, "last_phones": 0.70},
}


def test_a_rival_counts_at_equal_phone_error_alone():
    lines = aims.judge(with_rivals(RIVALS), list(RIVALS))
    assert lines[-1]["aim"].endswith("(good)") and lines[-1]["met"]
    assert lines[-1]["margin"] == pytest.approx(0.3 - 0.5)
    better = {"good": {"speaker": 0.2, "last_phones": 0.76}}
    assert aims.judge(with_rivals(better), ["good"])[-1]["met"] is False


def test_the_best_rival_is_chosen_on_development_speakers():
    others = {  # which test speakers alone would choose
        "lucky": {"speaker": 0.1, "last_phones": 0.76},
        "good": {"speaker": 0.5, "last_phones": 0.76},
    }
    runs = with_rivals(others)
    for one in runs:
        one["lucky"]["speaker"]["dev"] = 0.6
    assert aims.best_rival(runs, list(others)) == "good"
    for one in runs:
        one["good"]["last_phones"]["dev"] = 0.9
    assert aims.best_rival(runs, list(others)) == "lucky"


def test_there_is_no_rival_where_none_keeps_the_phones():
    [*_, line] = aims.judge(with_rivals({"costly": RIVALS["costly"]}), ["costly"])
    assert line["met"] is None and line["note"] == aims.NO_RIVAL
    table = aims.tell_aims([line])
    assert f"| - | {aims.NO_RIVAL} |" in table and table.startswith("None of 0 aims")


def test_a_row_tells_what_was_read_of_it():
    runs = with_rivals({"good": RIVALS["good"]})
    for one in runs[1:]:
        del one["good"]
    rows = aims.tell_rows(runs, {"joint": "joint", "good": "a rival"})
    assert [row[0] for row in rows] == ["joint", "a rival"]
    cells = dict(zip(aims.COLUMNS, rows[1][1:], strict=False))
    assert cells["phone errors, last layer"].startswith("76.0 [")
    assert cells["EER of u"] == cells["phone errors, all layers"] == "-"
    assert rows[0][-1] == "x-vector" and rows[1][-1] == "means; EER: x-vector"


def test_the_picture_has_a_point_of_each_seed_and_what_is_allowed():
    runs = with_rivals({"good": RIVALS["good"]})
    del runs[0]["good"]
    titles = {"joint_plain": "control", "joint": "joint", "good": "a rival"}
    told = aims.tell_points(runs, titles)
    assert told["points"]["joint"] == [pytest.approx([30, 75])] * 3
    assert told["points"]["a rival"] == [pytest.approx([50, 76])] * 2
    assert told["limits"] == pytest.approx([0.6 * 80, 1.02 * 75])


def test_phones_are_counted_over_all_words_and_by_speaker(tmp_path):
    rows = [("a-1", "A B C D", "A B C"), ("a-2", "A B", "A B"), ("b-1", "A A", "B B")]
    with open(tmp_path / "hypotheses.csv", "w", newline="") as file:
        csv.writer(file).writerows([("ID", "reference", "greedy"), *rows])
    (tmp_path / "metrics.json").write_text(json.dumps({"figures": {"valid": {"per": 0.5}}}))
    speakers = {"a-1": "a", "b-1": "b", "a-2": "a"}
    errors = recognition.read_phone_errors(tmp_path, speakers)
    assert errors["value"] == pytest.approx(3 / 8) and errors["dev"] == 0.5
    [scores] = errors["evidence"]["group_scores"]
    assert np.mean(scores) == pytest.approx(3 / 8) and scores[1] > scores[0]


def test_seeds_differ_in_nothing_else_where_phones_are_recognised(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(recognition, "make_run", lambda run, jobs: runs.append(run))
    given = {"data_folder": "D", "lexicon": "L", "skip_bad": "True", "jobs": 1}
    options = SimpleNamespace(output_folder=tmp_path, seeds=2, only_seed=None, **given)
    for plan in judge.plans(options):
        if plan.name == judge.JOINT:
            assert judge.recognise_phones(plan) is None
    assert [(run.given["seed"], run.given["last_layers"]) for run in runs] == [
        (seed, layers) for seed in runner.SEEDS[:2] for layers in judge.PHONES.values()
    ]
    kept = [{**run.given, "seed": 0, "features": ""} for run in runs]
    assert kept[:2] == kept[2:] and all(run["skip_bad"] == "True" for run in kept)


def test_words_that_the_lexicon_lacks_are_told_before_anything_is_trained(librispeech, tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("".join(f"{word} AH\n" for word in " ".join(WORDS).split()))
    recognition.check_lexicon(librispeech, lexicon, "False")
    lacking = WORDS[0].split()[0]
    lexicon.write_text(lexicon.read_text().replace(f"{lacking} AH\n", ""))
    with pytest.raises(SystemExit, match=rf"(?s)1 word.*{lacking}: .*--skip_bad True"):
        recognition.check_lexicon(librispeech, lexicon, "False")
    recognition.check_lexicon(librispeech, lexicon, "True")


@pytest.mark.parametrize(
    ("study", "words"),
    [(judge, []), (compare_methods, ["frame", "--alignments"]), (results, ["--models"])],
)
def test_each_study_that_recognises_phones_looks_at_the_lexicon_first(
    study, words, librispeech, tmp_path, monkeypatch
):
    lexicon, models = tmp_path / "lexicon.txt", tmp_path / "models"
    lexicon.write_text("SEVEN S EH V AH N\n")
    for run in filter(None, results.ROWS.values()):
        (models / run).mkdir(parents=True, exist_ok=True)
    data = "--librispeech" if study is results else "--data_folder"
    given = [*words, models] if words else []
    given += [data, librispeech, "--lexicon", lexicon, "--output_folder", tmp_path / "runs"]
    monkeypatch.setattr("sys.argv", [study.__name__, *map(str, given)])
    with pytest.raises(SystemExit, match="has no pronunciation of"):
        study.main()
    assert not (tmp_path / "runs").exists()


def test_each_row_has_features_and_a_place_of_its_own(tmp_path):
    options = SimpleNamespace(output_folder=tmp_path, seeds=2, only_seed=None)
    planned = judge.plans(options)
    assert len(planned) == 2 * len(judge.ROWS) - 2
    places = [plan.attacks("frames") for plan in planned] + [
        plan.phones("phones") for plan in planned
    ]
    assert len(set(places)) == len(places)
    [leace] = [plan for plan in planned if plan.name == "leace"][:1]
    assert leace.features == f"{tmp_path}/{runner.SEEDS[0]}/rivals/leace/model"
    rivals = [name for name, row in judge.ROWS.items() if row.rival]
    assert "spin" in rivals and not [name for name in rivals if "shuffled" in name]
    options.only_seed = runner.SEEDS[2]
    alone = judge.plans(options)
    assert len(alone) == len(judge.ROWS) and {plan.seed for plan in alone} == {runner.SEEDS[2]}


def made_attacks(folder, attacker):
    """Write what attack.py writes, of one attacker that is the strongest."""
    readings = {
        "accuracy": {"value": 0.4, "evidence": {"group_scores": [[0.3, 0.5]]}, "control": 0.1},
        "eer": {"value": 0.2, "evidence": {"draws": [0.2], "speakers": 2}},
    }
    own = {"dev": {"accuracy": 0.6, "eer": 0.25}, "test": readings}
    found = {"attackers": {attacker: own}, "best": dict.fromkeys(readings, attacker)}
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"figures": found}))


def test_a_row_is_read_from_what_its_commands_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "read_phone_errors", lambda folder, speaker_of: folder)
    plan = judge.Plan("spin", runner.SEEDS[0], SimpleNamespace(output_folder=tmp_path))
    made_attacks(plan.attacks("frames"), "x-vector")
    readings = judge.read_row(plan, {})
    assert set(readings) == {"last_phones", "speaker", "speaker_eer"}
    assert readings["last_phones"] == tmp_path / str(runner.SEEDS[0]) / "last_phones" / "spin"
    assert readings["speaker"]["value"] == 0.4 and readings["speaker"]["dev"] == 0.6
    assert readings["speaker_eer"]["dev"] == 0.25
    assert readings["speaker_eer"]["attacker"] == "x-vector"


def test_the_options_of_each_run_are_those_of_its_stage():
    assert {name for step in judge.STEPS for name in step} >= {aims.JOINT, aims.CONTROL}
    for step in judge.STEPS:
        for name, given in step.items():
            yaml = PRETRAIN / "hparams" / f"{name.partition('_')[0]}_tiny.yaml"
            check_options(yaml, {**given, **judge.STARTS.get(name, {})})


def test_the_control_of_the_demo_and_of_the_ablations_is_that_of_the_verdict():
    control = judge.STEPS[1][aims.CONTROL]
    assert control == {"beta": 0.0, "frame_norm": "none"}
    assert dict(read_tree(ablate.SETTINGS)[ablate.CONTROL]) == control
    stage, words = demo.RUNS[1][aims.CONTROL]
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert stage == "joint" and given == {f"--{name}": str(x) for name, x in control.items()}


@pytest.fixture
def verdicts(tmp_path, monkeypatch):
    """Return a function that keeps readings of a seed in a folder, and the place of RESULTS.md."""
    results = tmp_path / "RESULTS.md"
    results.write_text("<!-- verdict -->\n<!-- /verdict -->\n")
    monkeypatch.setattr(judge, "HERE", tmp_path)
    monkeypatch.setattr(judge, "RESULTS", results)
    monkeypatch.setattr(judge, "PUBLISHED", tmp_path / "verdict")
    rows = {name: row for name, row in judge.ROWS.items() if name in (aims.JOINT, aims.CONTROL)}
    rows["spin"] = judge.ROWS["spin"]
    monkeypatch.setattr(judge, "ROWS", rows)
    monkeypatch.setattr(judge, "TITLES", {name: row.title for name, row in rows.items()})
    data = tmp_path / "data.txt"
    data.write_text("one")

    def keep(folder, seed, beta="0.03", **options):
        [runs] = with_rivals({"spin": RIVALS["good"]}, seeds=1)
        record = tmp_path / folder / str(seed) / "joint" / "made_by.json"
        record.parent.mkdir(parents=True)
        settings = {"beta": beta, "seed": str(seed), "__set_seed": f"[{seed}]", "lrs": f"[{seed}]"}
        record.write_text(json.dumps({"settings": settings, "code": {"lobes/wav.py": "..."}}))
        given = {"data_folder": data, "lexicon": data, "skip_bad": "True", **options}
        options = SimpleNamespace(output_folder=tmp_path / folder, **given)
        judge.keep({seed: runs}, options)
        return tmp_path / folder

    return SimpleNamespace(keep=keep, results=results)


def write_verdict(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["judge.py", "--write", str(folder)])
    judge.main()


def test_seeds_of_several_machines_are_judged_together(verdicts, tmp_path, monkeypatch, capsys):
    write_verdict(verdicts.keep("a", runner.SEEDS[1]), monkeypatch)
    alone = verdicts.results.read_text()
    assert "| 30.0 | 80.0 |" in alone and (tmp_path / "verdict.png").is_file()
    other = verdicts.keep("b", runner.SEEDS[0])
    path = other / "readings" / f"{runner.SEEDS[0]}.json"
    path.write_text(path.read_text().replace('"code": {', '"code": {"lobes/losses.py": "other", '))
    write_verdict(other, monkeypatch)
    both = verdicts.results.read_text()
    assert "| 30.0 [30.0, 30.0] | 80.0 [80.0, 80.0] |" in both and both.count("spin") == 1
    kept = {path.name for path in (tmp_path / "verdict").iterdir()}
    assert kept == {f"{seed}.json" for seed in runner.SEEDS[:2]}
    told = capsys.readouterr().out
    assert f"Seed {runner.SEEDS[0]} was read by other code" in told and "2408" not in told


def test_seeds_of_other_data_or_settings_are_not_judged_together(verdicts, tmp_path, monkeypatch):
    write_verdict(verdicts.keep("a", runner.SEEDS[0]), monkeypatch)
    before = verdicts.results.read_text()
    other = verdicts.keep("b", runner.SEEDS[1], skip_bad="False")
    with pytest.raises(SystemExit, match=r"2407 and 2408 cannot .* skip_bad \(True, now False\)"):
        write_verdict(other, monkeypatch)
    other = verdicts.keep("e", runner.SEEDS[1], beta="0.06")
    with pytest.raises(SystemExit, match="settings of joint .* is not the same"):
        write_verdict(other, monkeypatch)
    elsewhere = tmp_path / "other.txt"
    elsewhere.write_text("two")
    other = verdicts.keep("c", runner.SEEDS[1], data_folder=elsewhere)
    with pytest.raises(SystemExit, match="data_folder is not the same"):
        write_verdict(other, monkeypatch)
    other = verdicts.keep("f", runner.SEEDS[1])
    path = other / "readings" / f"{runner.SEEDS[1]}.json"
    kept = json.loads(path.read_text())
    del kept["rows"]["spin"]
    path.write_text(json.dumps(kept))
    with pytest.raises(SystemExit, match="2407 and 2408 cannot .*: one alone has spin"):
        write_verdict(other, monkeypatch)
    assert verdicts.results.read_text() == before
    assert [path.name for path in (tmp_path / "verdict").iterdir()] == ["2407.json"]
    again = verdicts.keep("d", runner.SEEDS[0], data_folder=elsewhere)
    write_verdict(again, monkeypatch)  # in the place of the one before


def test_a_verdict_is_of_readings(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="has no readings of a seed: run judge.py first"):
        write_verdict(tmp_path, monkeypatch)


def test_the_published_verdict_is_that_of_the_published_readings():
    kept = [read_json(path) for path in sorted(judge.PUBLISHED.glob("*.json"))]
    written = judge.RESULTS.read_text(encoding="utf-8")
    assert judge.tell([one["rows"] for one in kept]) in written
