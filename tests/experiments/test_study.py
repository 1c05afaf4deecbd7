"""The study: its steps' commands, what it says before it begins, what it leaves where one fails."""

import argparse
import importlib
import sys
from pathlib import Path

import pytest

from recipes.common.data.files import CorpusError
from recipes.common.training.hparams import read_tree
from recipes.experiments import study
from recipes.experiments.runner import RECIPES
from recipes.experiments.study import STEPS, Step, describe, main, run_group, words_of

COMMANDS = [text for step in STEPS for text in (step.command, step.write) if text]


@pytest.fixture
def options(tmp_path):
    folders = {"corpora": tmp_path / "my corpora", "output_folder": tmp_path / "my study"}
    return argparse.Namespace(**folders, seeds=2, jobs=1, skip_bad="True")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_of_a_program_that_knows_its_options(command, options):
    python, program, *words = words_of(command, options.output_folder, options)
    path = study.HERE / program
    assert python == sys.executable and path.is_file()
    texts = [path.read_text()]
    texts += [str(read_tree(study.HERE / word)) for word in words if word.endswith(".yaml")]
    texts.append((study.HERE / "runner.py").read_text())
    for word in words:
        if word.startswith("--"):
            assert any(word[2:] in text for text in texts), word
    assert not any("{" in word for word in words)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_each_program_takes_its_step_s_options(step, options, monkeypatch, capsys):
    """Those that have a parser of their own refuse what is not there, after they read it all."""
    _, program, *words = words_of(step.command, options.output_folder, options)
    if words[0].endswith(".yaml"):
        pytest.skip("its options are keys of its hyperparameters file")
    path = (study.HERE / program).resolve()
    module = ".".join(path.relative_to(RECIPES.parent).with_suffix("").parts)
    monkeypatch.setattr(sys, "argv", [program, *words])
    with pytest.raises((SystemExit, CorpusError)) as refusal:
        importlib.import_module(module).main()
    said = capsys.readouterr().err + str(refusal.value)
    assert "unrecognized arguments" not in said and "invalid choice" not in said
    assert str(options.corpora) in said or str(options.output_folder) in said


def test_the_time_is_told_before_anything_is_run(options, monkeypatch, capsys):
    for name in study.NEEDED:
        (options.corpora / name).mkdir(parents=True)
    ran = []
    monkeypatch.setattr(study, "run_step", lambda step, options, logged: ran.append(step.name))
    monkeypatch.setattr(study.runner, "check_language_models", lambda parser: None)
    given = ["--corpora", options.corpora, "--output_folder", options.output_folder]
    main([*map(str, given), "--only", "tasks", "--seeds", "1"])
    assert ran == ["tasks"]
    [tasks] = [step for step in STEPS if step.name == "tasks"]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("1 steps with 1 seed(s), some ")
    assert second == f"  tasks: {tasks.minutes[0]} minutes"


def test_a_corpus_that_is_missing_is_named(options, capsys):
    for name in study.NEEDED[1:]:
        (options.corpora / name).mkdir(parents=True)
    given = ["--corpora", options.corpora, "--output_folder", options.output_folder]
    with pytest.raises(SystemExit):
        main([*map(str, given)])
    assert f"{options.corpora} holds no LibriSpeech" in capsys.readouterr().err


def test_without_what_reads_language_models_nothing_is_begun(options, monkeypatch, capsys):
    for name in study.NEEDED:
        (options.corpora / name).mkdir(parents=True)
    monkeypatch.setattr(study.runner.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(study, "run_step", lambda step, options: pytest.fail("was begun"))
    given = ["--corpora", options.corpora, "--output_folder", options.output_folder]
    with pytest.raises(SystemExit):
        main([*map(str, given)])
    assert "kenlm and pygtrie must be installed" in capsys.readouterr().err


def test_the_study_has_steps_that_run_side_by_side_after_what_they_need():
    names = [[step.name for step in group] for group in study.side_by_side(STEPS)]
    assert names[1:4] == [["verdict"], ["more speech", "shuffled units", "leakage"], ["tasks"]]


def test_steps_of_one_process_are_estimated_side_by_side():
    single = [
        Step(name, "", (minutes, 0), one_process=True) for name, minutes in (("a", 40), ("b", 20))
    ]
    assert "some 0.7 hours" in describe(single, seeds=3)
    assert "some 1.7 hours" in describe([*single, Step("c", "", (20, 20))], seeds=3)
    assert "some 1.0 hours" in describe([step._replace(one_process=False) for step in single], 1)


@pytest.fixture
def programs(tmp_path, monkeypatch, options):
    """A folder of programs in the place of the study's; its steps run two at a time."""
    monkeypatch.setattr(study, "HERE", Path(tmp_path))
    (tmp_path / "fails.py").write_text("raise SystemExit(3)")
    (tmp_path / "says.py").write_text("print('said')")
    wait = "import pathlib, time\nstart = time.monotonic()\npathlib.Path({own!r}).touch()\n"
    wait += "while not pathlib.Path({other!r}).exists():\n    time.sleep(0.01)\n"
    wait += "    assert time.monotonic() < start + 20\n"
    for own, other in ("ab", "ba"):
        (tmp_path / f"waits_{own}.py").write_text(wait.format(own=own, other=other))
    options.jobs = 2
    return tmp_path


def test_a_step_that_fails_stops_the_study_and_is_named(options, programs, capfd):
    with pytest.raises(SystemExit, match="^a step ended with 3: see above. What is done is kept"):
        run_group([Step("a step", "fails.py", (1, 0))], options)
    run_group([Step("a step", "says.py", (1, 0))], options)
    assert "said" in capfd.readouterr().out


def test_steps_of_one_process_run_side_by_side_and_into_logs(options, programs, capfd):
    """Each of two waits for the other; one that fails does not stop its neighbour."""
    run_group([Step(f"step {name}", f"waits_{name}.py", (1, 0)) for name in "ab"], options)
    log = options.output_folder / "logs" / "fails.txt"
    with pytest.raises(SystemExit, match=f"^fails ended with 3: see {log}. What is done is kept"):
        run_group([Step("fails", "fails.py", (1, 0)), Step("says", "says.py", (1, 0))], options)
    assert (options.output_folder / "logs" / "says.txt").read_text() == "said\n"
    assert "said" not in capfd.readouterr().out
