#!/usr/bin/env python3
"""The study: every figure of this project's pages that tells of results, from audio to tables.

    python study.py --corpora CORPORA --output_folder S [--seeds 3] [--jobs 2] [--skip_bad True]
        [--only STEP ...]
    python study.py --write S

CORPORA holds LibriSpeech (train-clean-100, dev-clean, test-clean), lexicon.txt, voxceleb1,
speech_commands, fluent, emodb and noise, each laid out as its own recipe or study says, and
pretraining, a folder of audio with no speaker of the dev and test splits. The first
command says what it is going to do and how long that takes on two cores, then runs one step after
another, each a program of this folder or a recipe, which goes on where it stopped: nothing that is
there already is made again, unless what made it has changed. With two jobs, neighbouring steps
that are one process each run side by side, and what they print goes to files in S/logs. The second
command writes the tables and pictures of all pages from S.
"""

import shlex
import subprocess
import sys
import time
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from recipes.experiments import runner
from recipes.experiments.judging.recognition import add_skip_bad

HERE = Path(__file__).resolve().parent
PATHS = {"corpora": "the corpora", "output_folder": "where all runs go"}
NEEDED = ("LibriSpeech", "lexicon.txt", "pretraining", "voxceleb1", "speech_commands", "fluent")
NEEDED += ("emodb", "noise")
FIRST = runner.SEEDS[0]


class Step(NamedTuple):
    """A part of the study.

    Attributes
    ----------
    name : str
    command : str
        A program, relative to this folder, and its options. In braces: `corpora`, `study` (the
        output folder), `seeds`, `jobs`, `skip_bad`, `models` (the runs of the first seed).
    minutes : tuple of float
        What it takes on two cores: with one seed, and more with each further one.
    write : str
        What writes its tables, if another program does.
    one_process : bool
        Whether it leaves a core free, so that the next such step can run beside it.
    """

    name: str
    command: str
    minutes: tuple
    write: str = ""
    one_process: bool = False


SPEECH = "--data_folder {corpora}/LibriSpeech"
LEXICON = "--lexicon {corpora}/lexicon.txt"
SKIP = "--skip_bad {skip_bad}"
ALIGNED = "--alignments {study}/alignments"
RUNS = "--seeds {seeds} --jobs {jobs}"
ABLATIONS = (  # of all settings of ablations.yaml, what norm and critic do
    "control default 'no critic' 'no norm' 'both encoders'"
)
METHODS = f"{SPEECH} {LEXICON} {ALIGNED} --output_folder {{study}}/methods {RUNS}"
STEPS = (
    Step(
        "alignments",
        f"../LibriSpeech/align.py {SPEECH} {LEXICON} --output_folder {{study}}/alignments "
        "--splits dev-clean test-clean --jobs {jobs}",
        (6, 0),
    ),
    Step(
        "verdict",
        f"judge.py {SPEECH} {LEXICON} --output_folder {{study}}/verdict {RUNS} {SKIP}",
        (80, 75),
        "judge.py --write {study}/verdict",
    ),
    Step(
        "more speech",  # 11 epochs of its 6 hours are nearly as many steps as 20 of the tree's 3.4
        "../AudioFolder/pretrain/train.py ../AudioFolder/pretrain/hparams/frame_tiny.yaml "
        "--data_folder {corpora}/pretraining --number_of_epochs 11 --skip_bad {skip_bad} "
        "--output_folder {models}/frame_more",
        (25, 0),
        one_process=True,
    ),
    Step(
        "shuffled units",
        "../LibriSpeech/pretrain/train.py ../LibriSpeech/pretrain/hparams/frame_tiny.yaml "
        f"{SPEECH} --shuffle_units True --number_of_epochs 8 "
        "--output_folder {models}/frame_shuffled",
        (12, 0),
        one_process=True,
    ),
    Step(
        "leakage",
        f"evaluate.py hparams/evaluate.yaml {SPEECH} --output_folder {{models}}/leakage "
        "--model {models}/joint/model --control {models}/joint_plain/model",
        (13, 0),
        "pretraining_tables.py {models}",
        one_process=True,
    ),
    Step(
        "tasks",
        "results.py --models {models} --librispeech {corpora}/LibriSpeech "
        "--voxceleb {corpora}/voxceleb1 --speech_commands {corpora}/speech_commands "
        "--fluent {corpora}/fluent --emodb {corpora}/emodb "
        f"{LEXICON} --output_folder {{study}}/tasks {RUNS} {SKIP}",
        (85, 50),
        "results.py --write {study}/tasks",
    ),
    Step(
        "ablations",
        f"ablate.py --models {{models}} {SPEECH} {ALIGNED} --output_folder {{study}}/ablations "
        f"--seeds 1 --jobs {{jobs}} --only {ABLATIONS}",
        (15, 0),
        "ablate.py --write {study}/ablations",
    ),
    Step(
        "utterance methods",
        f"compare_methods.py utterance --minutes 3 {METHODS}",
        (17, 14),
        "compare_methods.py utterance --write {study}/methods",
    ),
    Step(
        "channels",
        "channels.py --methods {study}/methods --voxceleb {corpora}/voxceleb1 "
        "--noise_folder {corpora}/noise --output_folder {study}/channels --test_trials veri_test2",
        (6, 2),
        "channels.py --write {study}/channels",
    ),
    Step(
        "frame methods",
        f"compare_methods.py frame --minutes 10 {METHODS} {SKIP}",
        (22, 16),
        "compare_methods.py frame --write {study}/methods",
    ),
)


def main(arguments=None):
    """Run the steps, or write the pages."""
    parser = runner.runs_parser(__doc__, PATHS, seeds=3)
    names = [step.name for step in STEPS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="steps")
    add_skip_bad(parser)
    options = parser.parse_args(arguments)
    if options.write is not None:
        write_pages(options.write)
        return
    runner.check_paths(parser, options, PATHS)
    lacking = [name for name in NEEDED if not (options.corpora / name).exists()]
    if lacking:
        parser.error(f"--corpora {options.corpora} holds no {', no '.join(lacking)} (see --help)")
    if "tasks" in options.only:
        runner.check_language_models(parser)
    steps = [step for step in STEPS if step.name in options.only]
    print(describe(steps, options.seeds), flush=True)
    for group in side_by_side(steps):
        run_group(group, options)


def side_by_side(steps):
    """Return the steps in lists of those that can run side by side.

    Example
    -------
    >>> a, b, c = [Step(name, "", (), one_process=name != "a") for name in "abc"]
    >>> [[step.name for step in group] for group in side_by_side([a, b, c])]
    [['a'], ['b', 'c']]
    """
    groups = groupby(steps, key=lambda step: step.one_process or step.name)
    return [list(group) for _, group in groups]


def minutes_of(step, seeds):
    """Return what a step takes with so many seeds."""
    return step.minutes[0] + (seeds - 1) * step.minutes[1]


def describe(steps, seeds):
    """Return what is going to be run, and how long it takes with two jobs, in lines.

    Example
    -------
    >>> print(describe([Step("a", "a.py", (30, 15)), Step("b", "b.py", (60, 0))], seeds=3))
    2 steps with 3 seed(s), some 2.0 hours on two cores where nothing is there yet:
      a: 60 minutes
      b: 60 minutes
    """
    total = 0
    for group in side_by_side(steps):
        minutes = [minutes_of(step, seeds) for step in group]
        total += max(*minutes, sum(minutes) / 2) if len(group) > 1 else sum(minutes)
    lines = [
        f"{len(steps)} steps with {seeds} seed(s), some {total / 60:.1f} hours on two cores "
        "where nothing is there yet:"
    ]
    lines += [f"  {step.name}: {minutes_of(step, seeds):.0f} minutes" for step in steps]
    return "\n".join(lines)


def words_of(command, study, options=None):
    """Return the words of a step's command, with its places filled in.

    Example
    -------
    >>> words_of("judge.py --write {study}/verdict", Path("my study"))[1:]
    ['judge.py', '--write', 'my study/verdict']
    """
    places = {"study": study.as_posix(), "models": (study / "verdict" / str(FIRST)).as_posix()}
    if options is not None:
        own = ("corpora", "seeds", "jobs", "skip_bad")
        places |= {name: getattr(options, name) for name in own}
    return [sys.executable, *(word.format(**places) for word in shlex.split(command))]


def run_group(steps, options):
    """Run steps side by side, as many at a time as there are jobs; leave where one fails."""
    logged = len(steps) > 1 and options.jobs > 1
    run = partial(run_step, options=options, logged=logged)
    if problems := runner.run_side_by_side(run, steps, options.jobs):
        sys.exit(
            f"{'; '.join(problems)}. What is done is kept: mend what is said there, and start the "
            "study again."
        )


def run_step(step, options, logged):
    """Run a step, with its output on the screen or in a log; return what went wrong, or None."""
    began = time.monotonic()
    words = words_of(step.command, options.output_folder, options)
    if logged:
        log = options.output_folder / "logs" / f"{step.name}.txt"
        print(f"== {step.name}, beside others: see {log}", flush=True)
        problem = runner.run_logged(words, HERE, log, options.jobs)
    else:
        print(f"== {step.name}", flush=True)
        done = subprocess.run(words, cwd=HERE)
        problem = f"ended with {done.returncode}: see above" if done.returncode else None
    if problem is None:
        print(f"== {step.name}: {(time.monotonic() - began) / 60:.0f} minutes", flush=True)
        return None
    return f"{step.name} {problem}"


def write_pages(study):
    """Write the tables and pictures of all pages."""
    for step in STEPS:
        if step.write:
            done = subprocess.run(words_of(step.write, study.resolve()), cwd=HERE)
            if done.returncode:
                sys.exit(f"The pages of {step.name} could not be written.")


if __name__ == "__main__":
    main()
