#!/usr/bin/env python3
"""What the repository is made of: files and lines by wing, and the files that a batch passes.

    python -m tests.structure                    # of the working tree
    python -m tests.structure --revision main~9  # of a commit, without the files of a batch

Lines of code, of docstrings and of comments are told apart; blank lines and symbolic links do not
count. A batch passes a file where a function of it runs between the reading of the manifest's rows
and the loss, at the tiny size.
"""

import argparse
import ast
import io
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import soundfile
from speechbrain import Stage

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("code", "docstrings", "comments")
STAGES = ("frame", "utterance", "joint")
NOT_LINES = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--revision", help="a commit, in the place of the working tree")
    revision = parser.parse_args().revision
    print(wings_table(read_sources(revision)))
    if revision is None:
        for stage, files in zip(STAGES, map(files_of_a_batch, STAGES), strict=True):
            print(f"\nA batch of the {stage} stage passes {len(files)} files:")
            print("\n".join(f"    {name}" for name in files))


def read_sources(revision=None):
    """Return the text of each Python and YAML file by its path."""
    if revision is None:
        words = ["ls-files", "--cached", "--others", "--exclude-standard"]
        paths = [p for p in git(*words).splitlines() if (ROOT / p).is_file()]
        paths = [path for path in paths if not (ROOT / path).is_symlink()]
        read = {p: (ROOT / p).read_text(encoding="utf-8") for p in paths if is_source(p)}
    else:
        lines = git("ls-tree", "-r", revision).splitlines()
        paths = [line.split("\t")[1] for line in lines if not line.startswith("120000")]
        read = {path: git("show", f"{revision}:{path}") for path in paths if is_source(path)}
    return dict(sorted(read.items()))


def is_source(path):
    """Return whether a path is of code or of hyperparameters."""
    return path.endswith((".py", ".yaml", ".j2")) and not path.startswith(".")


def git(*words):
    """Return what a git command prints."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def wing_of(path):
    """Return the room that a file is in."""
    parts = Path(path).parts
    if parts[0] == "recipes" and len(parts) > 2:
        return "/".join(parts[:3] if parts[1] == "common" and len(parts) > 3 else parts[:2])
    return parts[0] if len(parts) > 1 else "."


def count_lines(path, text):
    """Return how many lines of a file are code, docstrings and comments.

    Example
    -------
    >>> count_lines("a.py", '\"\"\"Text.\"\"\"\\n\\n# why\\nx = 1  # what\\n')
    {'code': 1, 'docstrings': 1, 'comments': 1}
    """
    if not path.endswith(".py"):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        comments = sum(line.startswith("#") for line in lines)
        return {"code": len(lines) - comments, "docstrings": 0, "comments": comments}
    code, comments = set(), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        lines = range(token.start[0], token.end[0] + 1)
        if token.type == tokenize.COMMENT:
            comments.update(lines)
        elif token.type not in NOT_LINES:
            code.update(lines)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    code -= docstrings
    blank = {n for n, line in enumerate(text.splitlines(), 1) if not line.strip()}
    sizes = (code - blank, docstrings - blank, comments - code)
    return dict(zip(KINDS, map(len, sizes), strict=True))


def wings_table(sources):
    """Return the table of files and lines by wing."""
    wings, largest = defaultdict(Counter), Counter()
    for path, text in sources.items():
        own = Counter(files=1, **count_lines(path, text))
        wings[wing_of(path)] += own
        wings["all" if path.startswith("tests") else "all but tests"] += own
        if path.endswith(".py") and not path.startswith("tests"):
            largest[path] = len(text.splitlines())
    totals = ("all but tests", "all")
    wings["all"] += wings["all but tests"]
    lines = ["| wing | files | code | docstrings | comments |", "|---|--:|--:|--:|--:|"]
    for wing in [*sorted(wing for wing in wings if wing not in totals), *totals]:
        counts = " | ".join(str(wings[wing][kind]) for kind in ("files", *KINDS))
        lines.append(f"| {wing} | {counts} |")
    path, size = largest.most_common(1)[0]
    return "\n".join([*lines, "", f"Largest file outside tests: {path}, {size} lines"])


def files_of_a_batch(stage):
    """Return the files that a training batch of a stage passes, from the manifest to the loss."""
    from recipes.common.data.crops import SpeechBatch

    with tempfile.TemporaryDirectory() as folder:
        brain, dataset = ready(stage, Path(folder))
        rows = next(iter(brain.train_sampler))
        passed = set()

        def note(frame, event, argument):
            name = frame.f_code.co_filename
            if event == "call" and name.startswith(str(ROOT)) and ".venv" not in name:
                passed.add(str(Path(name).relative_to(ROOT)))

        sys.setprofile(note)
        try:
            batch = SpeechBatch([dataset[row] for row in rows])
            outputs = brain.compute_forward(batch, Stage.TRAIN)
            brain.compute_objectives(outputs, batch, Stage.TRAIN)
        finally:
            sys.setprofile(None)
    return sorted(passed - {str(Path(__file__).relative_to(ROOT))})


def ready(stage, folder):
    """Return a stage's Brain in the middle of an epoch, and its training data: made-up noise."""
    from pretrained.exported import save_model
    from recipes.common.training.hparams import load_hparams
    from recipes.common.training.run import prepare, split_datasets
    from recipes.LibriSpeech.pretrain.frame import corpus_units
    from recipes.LibriSpeech.pretrain.train import stage_brain

    write_corpus(folder / "speech")
    given = {"data_folder": str(folder / "speech"), "output_folder": str(folder / stage)}
    given |= {} if stage == "utterance" else {"num_targets": 8}
    hparams_folder = ROOT / "recipes" / "LibriSpeech" / "pretrain" / "hparams"
    hparams = load_hparams(hparams_folder / f"{stage}_tiny.yaml", given)
    prepare(hparams)
    datasets = split_datasets(hparams)
    if stage == "joint":
        encoders = {name: hparams["modules"][f"{name}_encoder"] for name in STAGES[:2]}
        for name, encoder in encoders.items():
            save_model(folder / name / "model", {f"{name}_encoder": encoder})
        corpus_units(folder / "frame" / "units", hparams, datasets)
    stage_brain(stage).initialise(hparams)
    brain = stage_brain(stage)(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts={"device": "cpu"},
        checkpointer=hparams["checkpointer"](),
        loaders=stage_brain(stage).make_loaders(hparams, datasets, "cpu"),
    )
    hparams["epoch_counter"].current = 2
    brain.on_fit_start()
    brain.modules.train()
    brain.on_stage_start(Stage.TRAIN, 2)
    brain.step = 1
    return brain, datasets["train"]


def write_corpus(folder):
    """Write a LibriSpeech tree of noise: two speakers a split, four utterances each."""
    rng = np.random.default_rng(0)
    for reader, split in enumerate(("train-clean-100", "dev-clean", "test-clean") * 2, 1):
        chapter = folder / split / str(reader) / "1"
        chapter.mkdir(parents=True)
        names = [f"{reader}-1-{number:04d}" for number in range(4)]
        for name in names:
            soundfile.write(chapter / f"{name}.flac", rng.uniform(-0.5, 0.5, 40000), 16000)
        text = "".join(f"{name} NOISE\n" for name in names)
        (chapter / f"{reader}-1.trans.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
