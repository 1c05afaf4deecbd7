#!/usr/bin/env python3
"""The table of downstream results: every cell a run of a recipe's own command, then the READMEs.

    python results.py --models O --librispeech LibriSpeech --voxceleb voxceleb1
        --lexicon lexicon.txt --output_folder R [--seeds 3] [--jobs 2]
    python results.py --write R

`O` holds the runs frame, utterance, joint_beta0 and joint. With the first seed each cell sweeps the
learning rates on validation; further seeds, and fine-tuning, train at the rate that was best for
the frozen features. Started again, it does what is missing.
"""

import hashlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

from recipes.common.data.files import replace_text
from recipes.experiments import readmes, runner

PATHS = {
    "models": "the folder of the runs frame, utterance, joint_beta0 and joint",
    "librispeech": "the folder LibriSpeech",
    "voxceleb": "the folder voxceleb1",
    "lexicon": "pronunciations, for PER",
    "output_folder": "where the cells go",
}
ROWS = {
    "log-mel": None,
    "random weights": "joint",
    "frame only": "frame",
    "utterance only": "utterance",
    "joint, beta 0": "joint_beta0",
    "joint": "joint",
}
HELD = {"frame": ["frames"], "utterance": ["utterance"]}  # what the runs of one encoder have


class Column(NamedTuple):
    """A column of the table.

    Attributes
    ----------
    recipe : str
        The recipe's folder.
    command : str
        The script, the hyperparameters file and options.
    figure : str
        Of the test, in metrics.json.
    """

    recipe: str
    command: str
    figure: str


TUNED = ", fine-tuned"
ASR, HEAD = "LibriSpeech/ASR", "VoxCeleb/SpeakerRec"
IDENTIFICATION = Column("VoxCeleb/SpeakerID", "train.py hparams/linear_tiny.yaml", "accuracy")
COSINE = Column(HEAD, "verify.py hparams/verify_tiny.yaml", "eer")
EMBEDDING = "train.py hparams/embedding_tiny.yaml --upstream frozen"
COLUMNS = {
    ("PER", "frames"): Column("LibriSpeech/PR", "train.py hparams/lexicon_tiny.yaml", "per"),
    ("WER", "frames"): Column(ASR, "train.py hparams/bpe_tiny.yaml", "wer"),
    ("WER" + TUNED, "frames"): Column(
        ASR, "train.py hparams/bpe_tiny.yaml --upstream finetune", "wer"
    ),
    ("SID accuracy", "frames"): IDENTIFICATION,
    ("SID accuracy", "utterance"): IDENTIFICATION,
    ("EER, cosine", "frames"): COSINE,
    ("EER, cosine", "utterance"): COSINE,
    ("EER, head", "frames"): Column(HEAD, "train.py hparams/xvector_tiny.yaml", "eer"),
    ("EER, head", "utterance"): Column(HEAD, EMBEDDING, "eer"),
}
# The columns that each README shows; ".." is that of the whole repository.
README_COLUMNS = {
    "..": list(COLUMNS),
    ASR: [key for key in COLUMNS if key[0].startswith("WER")],
    "LibriSpeech/PR": [key for key in COLUMNS if key[0] == "PER"],
    "VoxCeleb/SpeakerID": [key for key in COLUMNS if key[0].startswith("SID")],
    HEAD: [key for key in COLUMNS if key[0].startswith("EER")],
}


class Cell(NamedTuple):
    """One run: a row, a column's name and representation, a seed, and the layers that are summed.

    `last_layers` is 0, for all of them, throughout the table.
    """

    row: str
    name: str
    representation: str
    seed: int
    last_layers: int = 0

    @property
    def folder(self):
        """Where the run goes, below the output folder."""
        words = "-".join([self.row, self.name, self.representation])
        words += f"-last_{self.last_layers}" if self.last_layers else ""
        return Path(words.replace(",", "").replace(" ", "_")) / str(self.seed)


def cells(seeds):
    """Return the cells of the table: those of the first seed first.

    Arguments
    ---------
    seeds : list of int

    Returns
    -------
    list of Cell
        Where a cosine does not depend on the seed, of the first seed alone.
    """
    made = []
    for seed in seeds:
        for name, representation in COLUMNS:
            for row, run in ROWS.items():
                if representation not in HELD.get(run, ["frames", "utterance"]):
                    continue
                if name.endswith(TUNED) and row == "log-mel":
                    continue  # nothing to tune
                if name == "EER, cosine" and seed != seeds[0] and row != "random weights":
                    continue
                made.append(Cell(row, name, representation, seed))
    return made


def command_line(cell, options, rates):
    """Return the command of a cell, to be run in its recipe's folder.

    Arguments
    ---------
    cell : Cell
    options : argparse.Namespace
        The paths.
    rates : list of float or None
        Learning rates to train at; None for those of the hyperparameters file.

    Returns
    -------
    list of str
    """
    column = COLUMNS[cell.name, cell.representation]
    speakers = column.recipe.startswith("VoxCeleb")
    run = ROWS[cell.row]
    given = {
        "data_folder": options.voxceleb if speakers else options.librispeech,
        "output_folder": options.output_folder / cell.folder,
        "representation": cell.representation,
        "seed": cell.seed,
    }
    if cell.name == "EER, cosine":
        judged = run or "joint"
        given["model"] = options.models / judged / "model"
        given["reference_manifest"] = options.models / judged / "manifest" / "train-clean-100.csv"
        given["reference_folder"] = options.librispeech
    else:
        folder = f"{options.models / (run or '')}/model"
        random = "random:" * (cell.row == "random weights")
        given["features"] = "fbank" if run is None else f"{random}{folder}"
        given["cache_folder"] = options.output_folder / "states"
    if cell.last_layers:
        given["last_layers"] = cell.last_layers
    if cell.name == "PER":
        given["lexicon"] = options.lexicon
    if rates is not None:
        given["lrs"] = json.dumps(rates).replace(" ", "")
    return runner.make_command(column.command.split(), given)


def sweeping_cell(cell):
    """Return the cell whose sweep a cell's learning rate comes from; None where nothing learns."""
    if cell.name == "EER, cosine":
        return None
    return cell._replace(name=cell.name.removesuffix(TUNED), seed=runner.SEEDS[0])


def model_digest(cell, options):
    """Return a digest of what a cell's features depend on: "" for log-mel bands."""
    run = ROWS[cell.row]
    if run is None:
        return ""
    file = "config.json" if cell.row == "random weights" else "model.safetensors"
    content = (options.models / run / "model" / file).read_bytes()
    return hashlib.sha256(content).hexdigest()


def run_cell(cell, options):
    """Run a cell unless its metrics.json is there; return what went wrong, or None."""
    folder = options.output_folder / cell.folder
    digest, made_of = model_digest(cell, options), folder / "model.sha256"
    if (folder / "metrics.json").is_file():
        if made_of.is_file() and made_of.read_text(encoding="utf-8") == digest:
            return None
        model = options.models / (ROWS[cell.row] or "")
        return f"{folder}: {made_of.name} is not of what {model} holds now: remove the folder."
    swept = sweeping_cell(cell)
    rates = None
    if swept not in (None, cell):
        first = options.output_folder / swept.folder
        figures = runner.read_figures(first)
        if figures is None:
            first = first / "metrics.json"
            return f"{cell.folder}: {first} is missing, whose learning rate it takes."
        rates = [figures["lr"]]
    folder.mkdir(parents=True, exist_ok=True)
    made_of.write_text(digest, encoding="utf-8")
    recipe = runner.RECIPES / COLUMNS[cell.name, cell.representation].recipe
    words = command_line(cell, options, rates)
    if problem := runner.run_logged(words, recipe, folder / "log.txt", options.jobs):
        return f"{cell.folder} {problem}"
    print(cell.folder, flush=True)
    return None


def run_all(options):
    """Run all cells, those that sweep before those that take their rate; return what went wrong."""
    planned = cells(runner.SEEDS[: options.seeds])
    first = [cell for cell in planned if sweeping_cell(cell) in (None, cell)]
    rest = [cell for cell in planned if cell not in first]
    run = partial(run_cell, options=options)
    parts = [runner.run_side_by_side(run, part, options.jobs) for part in (first, rest)]
    return sum(parts, [])


def read_results(folder):
    """Return the figure of each cell that there is, by row and column: a list, a seed each."""
    found = {}
    for cell in cells(runner.SEEDS):
        figures = runner.read_figures(folder / cell.folder)
        if figures is None:
            continue
        figures = figures["test"]
        column = COLUMNS[cell.name, cell.representation]
        if cell.name == "EER, cosine":
            systems = {"log-mel": "fbank", "random weights": "random"}
            figures = figures["systems"][systems.get(cell.row, cell.representation)]
        key = cell.row, (cell.name, cell.representation)
        found.setdefault(key, []).append(figures[column.figure])
    return found


def make_table(found, columns):
    """Return results as a Markdown table, in percent.

    Arguments
    ---------
    found : dict
        As `read_results` returns it.
    columns : list of tuple
        Keys of `COLUMNS`.

    Returns
    -------
    str
        A cell is the mean over seeds, with the range in brackets where there are several; "-" where
        the task cannot take the features, "not run" where it was not.

    Example
    -------
    >>> found = {("joint", ("PER", "frames")): [0.5, 0.6]}
    >>> print(make_table(found, [("PER", "frames")]).splitlines()[-1])
    | joint | 55.0 [50.0, 60.0] |
    """
    possible = {(cell.row, (cell.name, cell.representation)) for cell in cells(runner.SEEDS[:1])}

    def text(row, column):
        if (row, column) in found:
            return readmes.percent_and_range(found[row, column])
        return "not run" if (row, column) in possible else "-"

    heads = ["features", *(f"{name}, {kind}" for name, kind in columns)]
    rows = [[row, *(text(row, column) for column in columns)] for row in ROWS]
    return readmes.markdown_table(heads, "l" + "r" * len(columns), rows)


def write_readmes(folder):
    """Write the tables of results into the READMEs, and results.json beside the runs."""
    found = read_results(folder)
    if not found:
        raise ValueError(f"{folder} holds no results: run the cells first.")
    listed = [
        {"row": row, "column": name, "representation": kind, "values": values}
        for (row, (name, kind)), values in found.items()
    ]
    replace_text(folder / "results.json", json.dumps(listed, indent=2) + "\n")
    for place, columns in README_COLUMNS.items():
        readme = runner.RECIPES / place / "README.md"
        readmes.write_between(readme, "results", make_table(found, columns))


def main():
    """Run the cells, or write the READMEs."""
    parser = runner.runs_parser(__doc__, PATHS, seeds=3)
    options = parser.parse_args()
    if options.write is not None:
        write_readmes(options.write)
        return
    runner.check_paths(parser, options, PATHS)
    missing = [run for run in filter(None, ROWS.values()) if not (options.models / run).is_dir()]
    if missing:
        parser.error(f"--models {options.models} holds no {missing[0]}: pretrain it first")
    problems = run_all(options)
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
