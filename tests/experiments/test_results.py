"""The table of results: which cells there are, how each is run, what the READMEs show."""

import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from recipes.common.training.hparams import check_options
from recipes.experiments import pretraining_tables, provenance, results, runner
from recipes.experiments.results import (
    ALL,
    CHANCE,
    CLASSIFIED,
    COLUMNS,
    FOLDED,
    FRONT,
    MINUTES,
    MORE,
    PAGES,
    ROWS,
    SHUFFLED,
    TUNED_ROWS,
    Cell,
    cells,
    columns_read_from,
    describe,
    make_table,
    plan,
    read_minutes,
    read_results,
    run_all,
    run_cell,
    run_of,
    sweeping_cell,
    write_readmes,
)
from recipes.experiments.runner import RECIPES, SEEDS

REPOSITORY = Path(__file__).parents[2]
PER, SID = ("PER", "frames"), ("SID accuracy", "utterance")
EMOTION = ("emotion accuracy", "frames")


@pytest.fixture
def options(tmp_path):
    folders = {name: tmp_path / name for name in results.PATHS}
    for folder in folders.values():
        folder.mkdir()
    for run in filter(None, ROWS.values()):
        pretrained = folders["models"] / run / "model"
        pretrained.mkdir(parents=True, exist_ok=True)
        write_digests(pretrained, run, "encoders")
        (pretrained.parent / "manifest").mkdir(exist_ok=True)
        (pretrained.parent / "manifest" / "train-clean-100.csv").touch()
    return Namespace(**folders, jobs=1, seeds=2, skip_bad="False")


def write_digests(model, weights, encoders):
    """Write what tells an exported model from another one."""
    digests = {"weights": weights, "encoders": encoders, "facts": None}
    (model / "config.json").write_text(json.dumps({"sha256": digests}))


def possible(row, column):
    """Return whether a row's features can be given to a column's task."""
    name, representation = column
    if row in ("frame only", MORE) and representation == "utterance":
        return False
    if row == "utterance only" and representation == "frames":
        return False
    if row == SHUFFLED:
        return name in CLASSIFIED
    return row in TUNED_ROWS or not name.startswith("WER, fine-tuned")


def write_figures(folder, cell, test, seconds=90, **more):
    path = folder / cell.folder / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"figures": {"test": test, **more}, "seconds": seconds}))


# ---- Cells


def test_the_cells_of_a_seed_are_all_that_are_possible():
    found = [(cell.row, key) for cell in cells([SEEDS[0]]) for key in columns_read_from(cell)]
    expected = {(row, column) for row in ROWS for column in COLUMNS if possible(row, column)}
    assert set(found) == expected
    assert len(found) == len(expected)


def test_a_cosine_that_does_not_depend_on_the_seed_is_of_the_first_alone():
    made = cells(list(SEEDS[:3]))
    assert [cell.seed for cell in made] == sorted(cell.seed for cell in made)
    cosines = [cell for cell in made if cell.name == "EER, cosine" and cell.seed != SEEDS[0]]
    assert {cell.row for cell in cosines} == {"random weights"} and len(cosines) == 4
    trained = [cell for cell in made if cell.name != "EER, cosine"]
    assert len(trained) == 3 * sum(cell.seed == SEEDS[0] for cell in trained)


def test_a_model_of_more_speech_is_read_where_there_is_one(options):
    assert MORE in {cell.row for cell in plan(options)}
    shutil.rmtree(options.models / "frame_more")
    left_out = [cell for cell in cells(SEEDS[:2]) if cell not in plan(options)]
    assert {cell.row for cell in left_out} == {MORE}


def test_each_cell_has_a_folder_of_its_own():
    made = cells(list(SEEDS))
    made += [cell._replace(last_layers=1) for cell in made]
    folders = [str(cell.folder) for cell in made]
    assert len(set(folders)) == len(folders)
    assert not any(sign in folder for folder in folders for sign in " ,")


@pytest.mark.parametrize("cell", cells([SEEDS[0]]), ids=lambda cell: str(cell.folder.parent))
def test_the_options_of_each_cell_are_those_of_its_recipe(cell, options):
    rates = None if cell.name == "EER, cosine" else [0.001]
    run = run_of(cell, options, rates)
    script, yaml, *words = run.words
    assert run.recipe == RECIPES / COLUMNS[cell.name, cell.representation].recipe
    assert (run.recipe / script).is_file()
    assert {*words[::2]} <= {"--upstream", "--beam_size", "--lm_file"}
    check_options(run.recipe / yaml, {**run.given, **{word[2:]: 0 for word in words[::2]}})
    assert run.given["representation"] == cell.representation and run.given["seed"] == SEEDS[0]
    assert run.folder == options.output_folder / cell.folder
    assert run.given.get("lrs") == (None if rates is None else "[0.001]")
    assert run.given.get("shuffle_labels") == (True if cell.row == SHUFFLED else None)
    corpora = {"LibriSpeech": "librispeech", "VoxCeleb": "voxceleb", "EmoDB": "emodb"}
    corpora |= {"SpeechCommands": "speech_commands", "FluentSpeechCommands": "fluent"}
    corpus = corpora[run.recipe.relative_to(RECIPES).parts[0]]
    assert run.given["data_folder"] == getattr(options, corpus)


def test_the_features_of_a_cell_are_those_of_its_row(options):
    models = options.models
    expected = {
        "log-mel": "fbank",
        "random weights": f"random:{models}/joint_plain/model",
        "frame only": models / "frame" / "model",
        "control": models / "joint_plain" / "model",
        "joint": models / "joint" / "model",
    }
    for row, value in expected.items():
        given = run_of(Cell(row, *PER, SEEDS[0]), options).given
        assert given["features"] == value and given["lexicon"] == options.lexicon
        assert "lrs" not in given and "last_layers" not in given
    assert run_of(Cell("joint", *PER, SEEDS[0], last_layers=1), options).given["last_layers"] == 1
    words = run_of(Cell("joint", "WER, fine-tuned", "frames", SEEDS[0]), options).words
    assert words[words.index("--upstream") + 1] == "finetune"


def test_a_task_without_its_corpus_is_left_out_and_told(options):
    whole = plan(options)
    assert whole == cells(SEEDS[:2])
    options.emodb = options.lexicon = None
    planned = plan(options)
    left_out = {cell.name for cell in whole} - {cell.name for cell in planned}
    assert left_out == {"PER", FOLDED}
    assert [cell for cell in whole if cell.name not in left_out] == planned
    write_figures(options.output_folder, planned[0], {})
    first, *lines = describe(planned, options).splitlines()
    assert first == f"{len(planned)} runs, 1 of them done, 1 at a time:"
    assert sum(int(line.split(": ")[1]) for line in lines if "none" not in line) == len(planned)
    assert "  PER, frames: none without --lexicon" in lines
    assert "  emotion accuracy, utterance: none without --emodb" in lines


def test_no_rate_of_cross_validation_is_chosen_on_speakers_that_it_tests():
    for cell in cells(SEEDS[:2]):
        swept = sweeping_cell(cell)
        if cell.name == FOLDED:
            assert swept == cell
        elif swept is not None:
            row = "joint" if cell.row == SHUFFLED else cell.row
            assert (swept.row, swept.seed) == (row, SEEDS[0])


# ---- Runs

RUN = """
import json, pathlib, sys
folder, rates, fails = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
print("begun", flush=True)
if fails == "True":
    sys.exit("no such speaker")
figures = {"lr": rates[-1] if rates else 0.03, "rates": rates, "test": {"per": 0.5}}
(folder / "metrics.json").write_text(json.dumps({"figures": figures, "code": []}))
"""


@pytest.fixture
def fake(monkeypatch, options):
    """Let each cell be a small script, and return the folders that were run and what fails."""
    state = Namespace(ran=[], fails=set(), folder=options.output_folder)

    def fake_run(cell, options, rates=None):
        run = run_of(cell, options, rates)
        fails = str((cell.row, cell.seed) in state.fails)
        words = ["-S", "-c", RUN, str(run.folder), json.dumps(rates), fails]
        return run._replace(words=words, recipe=Path("."))

    def logged(command, folder, log, jobs):
        state.ran.append(log.parent.relative_to(state.folder))
        return runner.run_logged(command, folder, log, jobs)

    few = {PER: COLUMNS[PER]}
    monkeypatch.setattr(results, "COLUMNS", few)
    monkeypatch.setattr(results, "ROWS", {"log-mel": None, "joint": "joint"})
    monkeypatch.setattr(results, "run_of", fake_run)
    monkeypatch.setattr(provenance, "run_logged", logged)
    return state


def figures_of(options, row, seed):
    path = options.output_folder / Cell(row, *PER, seed).folder / "metrics.json"
    return json.loads(path.read_text())["figures"]


def test_later_seeds_train_at_the_rate_that_was_best_for_the_first(fake, options):
    assert run_all(options) == []
    assert [int(ran.name) for ran in fake.ran] == [SEEDS[0]] * 2 + [SEEDS[1]] * 2
    for row in ("log-mel", "joint"):
        assert figures_of(options, row, SEEDS[0])["rates"] is None
        assert figures_of(options, row, SEEDS[1])["rates"] == [0.03]


def test_a_finished_cell_is_not_run_again(fake, options):
    run_all(options)
    (options.output_folder / Cell("joint", *PER, SEEDS[1]).folder / "metrics.json").unlink()
    fake.ran.clear()
    assert run_all(options) == []
    assert fake.ran == [Cell("joint", *PER, SEEDS[1]).folder]


@pytest.mark.parametrize(
    "row, weights, encoders, depends",
    [
        ("log-mel", "other", "other", False),
        ("random weights", "other", "encoders", False),
        ("random weights", "joint", "other", True),
        ("joint", "other", "encoders", True),
    ],
)
def test_a_cell_is_run_again_for_what_its_features_are_made_of(
    row, weights, encoders, depends, fake, options, monkeypatch, capsys
):
    monkeypatch.setattr(results, "ROWS", {"log-mel": None, row: ROWS[row]})
    run_all(options)
    write_digests(options.models / (ROWS[row] or "joint") / "model", weights, encoders)
    fake.ran.clear()
    assert run_all(options) == []
    again = [Cell(row, *PER, seed).folder for seed in SEEDS[:2]] if depends else []
    assert fake.ran == again
    assert ("made again: features changed" in capsys.readouterr().out) == depends


def test_a_failed_cell_is_reported_with_its_log(fake, options):
    states = options.output_folder / "states"
    states.mkdir(parents=True)
    fake.fails = {("joint", SEEDS[0])}
    first, second = run_all(options)
    assert states.is_dir()
    log = options.output_folder / Cell("joint", *PER, SEEDS[0]).folder / "log.txt"
    assert str(log) in first and "ended with 1" in first
    assert log.read_text().splitlines() == ["begun", "no such speaker"]
    assert f"{log.with_name('metrics.json')} is missing" in second
    assert figures_of(options, "log-mel", SEEDS[1])["rates"] == [0.03]
    fake.fails = set()
    assert run_all(options) == []
    assert log.read_text().splitlines()[-1] == "begun"
    assert not states.exists()


def test_a_cosine_of_a_later_seed_needs_no_rate(options, monkeypatch):
    monkeypatch.setattr(results, "make_run", lambda run, jobs: run.given.get("lrs"))
    cell = Cell("random weights", "EER, cosine", "frames", SEEDS[1])
    assert run_cell(cell, options) is None


# ---- Tables


def test_a_table_shows_means_ranges_and_what_is_missing():
    found = {
        ("joint", PER): [0.5, 0.6, 0.43],
        ("frame only", PER): [0.25],
        ("joint", SID): [1.0],
    }
    header, line, *lines = make_table(found, [PER, SID]).splitlines()
    assert header == "| features | PER, frames | SID accuracy, utterance |"
    assert line == "|---|--:|--:|"
    assert lines == [
        "| log-mel | not run | not run |",
        "| random weights | not run | not run |",
        "| frame only | 25.0 | - |",
        f"| {MORE} | not run | - |",
        "| utterance only | - | not run |",
        "| control | not run | not run |",
        "| joint | 51.0 [43.0, 60.0] | 100.0 |",
    ]


def test_the_figures_of_a_column_are_read_from_its_runs(tmp_path):
    write_figures(tmp_path, Cell("joint", *PER, SEEDS[0]), {"per": 0.5, "ctc_loss": 2.0})
    write_figures(tmp_path, Cell("joint", *PER, SEEDS[1]), {"per": 0.4, "ctc_loss": 2.0})
    systems = {name: {"eer": value} for name, value in (("frames", 0.1), ("fbank", 0.2))}
    systems["random"] = {"eer": 0.3}
    for row in ("joint", "log-mel", "random weights"):
        write_figures(tmp_path, Cell(row, "EER, cosine", "frames", SEEDS[0]), {"systems": systems})
    assert read_results(tmp_path) == {
        ("joint", PER): [0.5, 0.4],
        ("joint", ("EER, cosine", "frames")): [0.1],
        ("log-mel", ("EER, cosine", "frames")): [0.2],
        ("random weights", ("EER, cosine", "frames")): [0.3],
    }


def test_classified_columns_have_a_row_of_chance_and_one_of_shuffled_labels(tmp_path):
    for row, accuracy in (("log-mel", 0.5), (SHUFFLED, 0.25)):
        test = {"accuracy": accuracy, "chance": 0.3}
        write_figures(tmp_path, Cell(row, *EMOTION, SEEDS[0]), test)
    found = read_results(tmp_path)
    assert found == {
        ("log-mel", EMOTION): [0.5],
        (SHUFFLED, EMOTION): [0.25],
        (CHANCE, EMOTION): [0.3],
    }
    _, _, *lines = make_table(found, [EMOTION]).splitlines()
    assert lines == [
        "| log-mel | 50.0 |",
        "| random weights | not run |",
        "| frame only | not run |",
        f"| {MORE} | not run |",
        "| utterance only | - |",
        "| control | not run |",
        "| joint | not run |",
        f"| {SHUFFLED} | 25.0 |",
        f"| {CHANCE} | 30.0 |",
    ]


def test_a_run_that_decodes_twice_fills_two_columns(tmp_path):
    tuned = ("WER, fine-tuned", "frames")
    write_figures(tmp_path, Cell("joint", *tuned, SEEDS[0]), {"wer": 0.5, "beam_wer": 0.25})
    write_figures(tmp_path, Cell("control", *tuned, SEEDS[0]), {"wer": 0.5})
    table = make_table(read_results(tmp_path), [tuned, ("WER, fine-tuned, bigram", "frames")])
    assert "| control | 50.0 | not run |" in table and "| joint | 50.0 | 25.0 |" in table


def test_a_run_takes_the_median_of_those_that_sweep(tmp_path):
    tuned = ("WER, fine-tuned", "frames")
    for row, seconds in (("log-mel", 60), ("joint", 90), ("frame only", 600)):
        write_figures(tmp_path, Cell(row, *PER, SEEDS[0]), {"per": 0.5}, seconds)
    write_figures(tmp_path, Cell("joint", *PER, SEEDS[1]), {"per": 0.5}, 6)
    write_figures(tmp_path, Cell("joint", *tuned, SEEDS[0]), {"wer": 0.5}, 6)
    taken = read_minutes(tmp_path)
    assert taken == {PER: 1.5}
    table = make_table(read_results(tmp_path), [PER, tuned], taken)
    assert table.splitlines()[-1] == f"| {MINUTES} | 1.5 | |"


@pytest.fixture
def readmes(tmp_path, monkeypatch):
    """Copies of the READMEs that show results, and no other."""
    copies = tmp_path / "repository" / "recipes"
    monkeypatch.setattr(runner, "RECIPES", copies)
    for page in PAGES:
        path = copies / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((REPOSITORY / "recipes" / page).read_text())
    return copies


def test_results_are_written_into_every_readme(readmes, tmp_path):
    write_figures(tmp_path, Cell("joint", *PER, SEEDS[0]), {"per": 0.123})
    write_readmes(tmp_path)
    for page, tables in PAGES.items():
        before = (REPOSITORY / "recipes" / page).read_text()
        after = (readmes / page).read_text()
        head, _, rest = after.partition("<!-- results -->\n")
        table, _, tail = rest.partition("\n<!-- /results -->")
        found = {("joint", PER): [0.123]}
        taken = None if page == FRONT else {PER: 1.5}
        assert table == "\n\n".join(make_table(found, columns, taken) for columns in tables)
        assert before.startswith(head + "<!-- results -->") and before.endswith(tail)
        assert ("12.3" in table) == any(PER in columns for columns in tables)
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"row": "joint", "column": "PER", "representation": "frames", "values": [0.123]}
    ]


def test_who_writes_pages_is_told_of_runs_of_other_code(readmes, tmp_path, monkeypatch, capsys):
    cell = Cell("joint", *PER, SEEDS[0])
    write_figures(tmp_path, cell, {"per": 0.123})
    record = {"code": {"lobes/losses.py": "other"}}
    (tmp_path / cell.folder / "made_by.json").write_text(json.dumps(record))
    monkeypatch.setattr(sys, "argv", ["results.py", "--write", str(tmp_path)])
    results.main()
    assert "1 of 1 runs were made by other code" in capsys.readouterr().out


def test_every_column_is_shown_among_all_results_and_by_one_recipe():
    shown = {page: sum(tables, []) for page, tables in PAGES.items()}
    front, whole = shown.pop(FRONT), shown.pop(ALL)
    assert sorted(sum(shown.values(), [])) == sorted(COLUMNS) == sorted(whole)
    assert set(front) < set(whole)
    for page, columns in shown.items():
        assert {f"{COLUMNS[key].recipe}/README.md" for key in columns} == {page}


def test_a_folder_without_results_is_refused(readmes, tmp_path):
    with pytest.raises(ValueError, match="holds no results: run the cells first"):
        write_readmes(tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_missing_paths_are_named(monkeypatch, tmp_path, capsys):
    given = ["--models", tmp_path, "--librispeech", tmp_path, "--voxceleb", tmp_path / "gone"]
    given += ["--output_folder", tmp_path / "runs"]
    monkeypatch.setattr(sys, "argv", ["results.py", *map(str, given)])
    with pytest.raises(SystemExit):
        results.main()
    assert f"--voxceleb {tmp_path / 'gone'} does not exist" in capsys.readouterr().err


# ---- The tables of pretraining


def run_figures(**test):
    return {"epochs": 3, "steps": 70, "valid": {"masked_accuracy": 0.25}, "test": test}


def test_the_stages_tell_both_splits_and_what_was_not_run():
    runs = {"joint": run_figures(masked_accuracy=0.101, retrieval_accuracy=0.5), "frame": None}
    rows = pretraining_tables.make_stage_table(runs, {"joint": 1.5, "frame": None}).splitlines()
    assert rows[2] == "| joint | 3 | 70 | 1.5 | valid | 25.0 | | | | | |"
    assert rows[3] == "| | | | | test | 10.1 | | | | 50.0 | |"
    assert rows[4].startswith("| frame | not run |")
    assert {row.count("|") for row in rows} == {12}


def test_the_tables_of_pretraining_are_written_where_they_belong(tmp_path, monkeypatch):
    for name in ("README", "RESULTS"):
        copy = tmp_path / f"{name}.md"
        copy.write_text(getattr(pretraining_tables, name).read_text())
        monkeypatch.setattr(pretraining_tables, name, copy)
    reading = {"model": {"mean": 1.0, "std": 0.1}, "control": {"mean": 2.5, "std": 0.2}}
    reading |= {"difference": -1.5, "interval": [-2.0, -1.0]}
    readings = dict.fromkeys(pretraining_tables.READINGS.values(), reading)
    leakage = dict.fromkeys(pretraining_tables.PARTS, readings)
    for run, figures in (("joint", run_figures(majority_accuracy=0.031)), ("leakage", leakage)):
        (tmp_path / run).mkdir()
        (tmp_path / run / "metrics.json").write_text(
            json.dumps({"figures": figures, "seconds": 90})
        )
    pretraining_tables.main([str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    assert "| 3.1 |" in text and "| frame | not run |" in text
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("| 1.00 ± 0.10 | 2.50 ± 0.20 | -1.50 [-2.00, -1.00] |") == 8
    with pytest.raises(SystemExit, match="holds no metrics.json"):
        pretraining_tables.main([str(tmp_path / "gone")])
