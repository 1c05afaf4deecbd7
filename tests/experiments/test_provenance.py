"""What made a result: what is kept, what is made again and why, what an interrupted run leaves."""

import json

import pytest

from recipes.common.data.files import REPOSITORY
from recipes.common.training.record import loaded_code, write_metrics
from recipes.experiments import method_readings, provenance
from recipes.experiments.judging import recognition
from recipes.experiments.provenance import Run, changed, kept_reading, make_run, project_code

SCRIPT = """
import json, pathlib, sys
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
folder = pathlib.Path(given["--output_folder"])
with open(folder / "runs.txt", "a") as file:
    file.write("run\\n")
(folder / "states").mkdir(exist_ok=True)
if given["--fails"] == "True":
    sys.exit("no speech")
code = ["lobes/losses.py", "pretrained/sharing/card.py", "recipes/experiments/runner.py"]
(folder / "metrics.json").write_text(json.dumps({"figures": {}, "code": code}))
"""
YAML = """
lr: 0.1 # high
output_folder: out
fails: False
data_folder: d
log: !ref <output_folder>/l
"""


def test_what_does_not_count_is_there():
    assert all((REPOSITORY / file).is_file() for file in provenance.CARDS)


@pytest.fixture
def recipe(tmp_path):
    """A recipe with a hyperparameters file and a corpus of one file."""
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "a.yaml").write_text(YAML)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.wav").write_bytes(b"RIFF")
    yield tmp_path
    provenance.digest_data.cache_clear()


def run_in(recipe, **given):
    given = {"data_folder": recipe / "corpus", "fails": False, **given}
    return Run(recipe / "out", recipe, ["-S", "train.py", "a.yaml"], given)


def count(run):
    path = run.folder / "runs.txt"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def test_a_run_that_ended_is_made_once(recipe):
    run = run_in(recipe)
    assert make_run(run, 1) is None and make_run(run, 1) is None
    assert count(run) == 1 and changed(run) is None
    record = json.loads((run.folder / "made_by.json").read_text())
    assert record["code"] == {
        file: project_code()[file] for file in ("lobes/losses.py", "recipes/experiments/runner.py")
    }
    assert record["settings"]["lr"] == "0.1"


def test_a_failed_run_is_told_and_gone_on_with(recipe):
    run = run_in(recipe, fails=True)
    assert make_run(run, 1) == f"{run.folder} ended with 1: see {run.folder / 'log.txt'}"
    assert make_run(run, 1) is not None and count(run) == 2


def test_states_are_kept_for_a_run_that_failed_alone(recipe):
    make_run(run_in(recipe, fails=True), 1)
    assert (recipe / "out" / "states").is_dir()
    assert make_run(run_in(recipe), 1) is None
    assert not (recipe / "out" / "states").exists()


def test_runs_of_other_code_are_told(recipe, monkeypatch, capsys):
    run = run_in(recipe)
    make_run(run, 1)
    provenance.tell_other_code(recipe)
    assert capsys.readouterr().out == ""
    alter_code(recipe, monkeypatch)
    provenance.tell_other_code(recipe)
    assert f"1 of 1 runs were made by other code than is here, such as {run.folder}" in (
        capsys.readouterr().out
    )


def alter_yaml(recipe, monkeypatch):
    (recipe / "a.yaml").write_text(YAML.replace("lr: 0.1", "lr: 0.2"))


def alter_data(recipe, monkeypatch):
    (recipe / "corpus" / "b.wav").write_bytes(b"RIFF")
    provenance.digest_data.cache_clear()


def alter_code(recipe, monkeypatch):
    code = {**project_code(), "lobes/losses.py": "other"}
    monkeypatch.setattr(provenance, "project_code", lambda: code)


def alter_other_code(recipe, monkeypatch):
    code = {**project_code(), "lobes/tdnn.py": "other"}
    monkeypatch.setattr(provenance, "project_code", lambda: code)


def alter_card(recipe, monkeypatch):
    code = {**project_code(), "pretrained/sharing/card.py": "other"}
    monkeypatch.setattr(provenance, "project_code", lambda: code)


def alter_layout(recipe, monkeypatch):
    (recipe / "a.yaml").write_text("# A header\n" + YAML.replace("# high", "# high enough"))


@pytest.mark.parametrize(
    "alter, named",
    [
        (alter_yaml, "lr (0.1, now 0.2)"),
        (alter_data, "data_folder"),
        (alter_code, "lobes/losses.py"),
        (alter_other_code, None),
        (alter_card, None),
        (alter_layout, None),
    ],
)
def test_a_run_is_made_again_where_what_made_it_changed(alter, named, recipe, monkeypatch, capsys):
    run = run_in(recipe)
    make_run(run, 1)
    alter(recipe, monkeypatch)
    assert changed(run) == named
    (run.folder / "old.txt").write_text("left by the run before")
    assert make_run(run, 1) is None
    assert (run.folder / "old.txt").exists() == (named is None)
    assert (f"made again: {named} changed." in capsys.readouterr().out) == (named is not None)
    assert changed(run) is None


def test_an_interrupted_run_is_begun_anew_with_other_code_alone(recipe, monkeypatch):
    run = run_in(recipe, fails=True)
    make_run(run, 1)
    assert changed(run) is None
    alter_other_code(recipe, monkeypatch)
    assert changed(run) == "the code"


def test_the_options_of_a_run_count(recipe):
    make_run(run_in(recipe), 1)
    assert changed(run_in(recipe, lr=0.3)) == "lr (0.1, now 0.3)"


def test_a_run_moved_elsewhere_is_the_same(recipe):
    make_run(run_in(recipe), 1)
    (recipe / "out").rename(recipe / "moved")
    (recipe / "corpus").rename(recipe / "speech")
    moved = run_in(recipe, data_folder=recipe / "speech")._replace(folder=recipe / "moved")
    assert changed(moved) is None


def test_a_folder_that_nothing_is_known_of_is_made_again(recipe):
    run = run_in(recipe)
    run.folder.mkdir()
    assert "not known" in changed(run)


def test_what_a_run_loaded_is_in_its_metrics(tmp_path):
    write_metrics(tmp_path / "metrics.json", {}, seed=1, manifests=[], start_time=0.0)
    code = json.loads((tmp_path / "metrics.json").read_text())["code"]
    assert code == loaded_code() and "recipes/experiments/provenance.py" in code
    assert all((REPOSITORY / file).is_file() for file in code)
    assert not any(file.startswith("tests") for file in code)
    assert set(code) <= set(project_code())


def test_a_reading_is_kept_until_its_inputs_or_its_code_change(recipe, monkeypatch):
    made = []

    def read(split="dev"):
        inputs = {"data": recipe / "corpus", "split": split}
        modules = [method_readings]
        return kept_reading(recipe / "r.json", inputs, lambda: made.append(1) or len(made), modules)

    assert [read(), read()] == [1, 1]
    code = json.loads((recipe / "r.json").read_text())["made_by"]["code"]
    assert recognition.__name__.replace(".", "/") + ".py" in loaded_code()
    experiments = {file for file in code if file.startswith("recipes/experiments/")}
    assert experiments == {"recipes/experiments/method_readings.py"}
    assert read("test") == 2 and read("test") == 2
    alter_data(recipe, monkeypatch)
    assert read("test") == 3
    alter_code(recipe, monkeypatch)
    assert read("test") == 4


def test_runs_that_differ_in_more_than_their_seeds_are_no_one_result(tmp_path):
    def made(name, **changes):
        record = {"settings": {"seed": name, "lrs": name, "beta": "0.1"}, "inputs": {"model": "m"}}
        for part, own in changes.items():
            record[part] |= own
        (tmp_path / name).mkdir()
        (tmp_path / name / "made_by.json").write_text(
            json.dumps({**record, "code": {"a.py": name}})
        )
        return tmp_path / name

    (tmp_path / "of no record").mkdir()
    provenance.refuse_mixed([made("1"), made("2"), tmp_path / "of no record"])
    for name, changes, told in (
        ("3", {"inputs": {"model": "other"}}, "model"),
        ("4", {"settings": {"beta": "0.2"}}, r"beta \(0.1, now 0.2\)"),
    ):
        with pytest.raises(SystemExit, match=f"1 and .*{name} are not of the same: {told}"):
            provenance.refuse_mixed([tmp_path / "1", tmp_path / "2", made(name, **changes)])
