#!/usr/bin/env python3
"""The verdict on stage C, on test speakers: the default against its control and its rivals.

    python judge.py --data_folder LibriSpeech --lexicon LEXICON --output_folder J [--seeds 3]
        [--jobs 2] [--only_seed 2408]
    python judge.py --write J

With each seed it trains stages A, B and C; stage C without its critic; the control, which is stage
C with neither critic nor norm; and Spin. It makes the control's rivals in closed form. Phones are
recognised from the last layer of each (LibriSpeech/PR), which is what the speaker is read from; of
stage C and its controls, from all layers too. Attackers are trained on the frames of each
(attack.py); the strongest is chosen on dev-clean. What the aims say is then read on test-clean, by
which no setting is chosen, and judged by intervals over speakers and seeds: see `aims.judge`. An
earlier verdict on the same speakers led to the frames' norm and to the critic of today. Started
again, it does what is missing. What was read of a seed is kept in J/readings. `--only_seed` runs
one of the seeds alone, so that each can have its own machine. `--write` copies J/readings to the
folder `verdict` beside this file, in the place of older readings of the same seeds, and writes the
verdict on all seeds there into RESULTS.md.
"""

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

from recipes.common.closed_forms.rival_models import CLOSED_FORMS, RIVALS
from recipes.common.evaluation.drawing import draw_tradeoff
from recipes.experiments import readmes, runner
from recipes.experiments.judging import aims, seed_readings
from recipes.experiments.judging.aims import CONTROL, JOINT, NO_CRITIC
from recipes.experiments.judging.recognition import (
    SPLITS,
    add_skip_bad,
    check_lexicon,
    read_phone_errors,
    recognise,
    speakers_of,
)
from recipes.experiments.provenance import Run, as_features, make_run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
PUBLISHED = HERE / "verdict"  # readings of the seeds of which RESULTS.md tells
AXES = "speaker, strongest attacker (accuracy, %)", "phone errors, last layer (%)"
PATHS = {
    "data_folder": "the folder LibriSpeech",
    "lexicon": "pronunciations",
    "output_folder": "where the runs go",
}
STEPS = (  # runs that can go side by side, with their options
    {"frame": {}, "utterance": {}},
    {JOINT: {}, NO_CRITIC: {"beta": 0.0}, CONTROL: {"beta": 0.0, "frame_norm": "none"}, "spin": {}},
)
BOTH = {"frame_model": "frame", "utterance_model": "utterance"}
STARTS = {  # models to start from
    **dict.fromkeys((JOINT, NO_CRITIC, CONTROL), BOTH),
    "spin": {"frame_model": "frame"},
}
PHONES = {"last_phones": 1, "phones": 0}  # what is recognised from how many last layers; 0: all
LOG_MEL, RANDOM = "log_mel", "random_weights"  # read with the first of the seeds alone


class Row(NamedTuple):
    """A row of the table.

    Attributes
    ----------
    title : str
        As the table calls it.
    features : str
        What heads and attackers take, where "{}" is the folder of a seed's runs.
    of_u : bool
        Whether its embeddings are read, and phones from all layers.
    rival : bool
        Whether the joint model has to beat it.
    """

    title: str
    features: str
    of_u: bool = False
    rival: bool = False


ROWS = {
    LOG_MEL: Row("log-mel bands", "fbank", of_u=True),
    RANDOM: Row("random weights", f"random:{{}}/{CONTROL}/model", of_u=True),
    "frame": Row("stage A", "{}/frame/model"),
    CONTROL: Row("control: no critic, no norm", f"{{}}/{CONTROL}/model", of_u=True),
    NO_CRITIC: Row("joint, no critic", f"{{}}/{NO_CRITIC}/model", rival=True),
    JOINT: Row("joint", f"{{}}/{JOINT}/model", of_u=True),
    "spin": Row("stage A, then Spin", "{}/spin/model", rival=True),
    **{
        name: Row(f"control: {RIVALS[name]}", f"{{}}/rivals/{name}/model", rival=True)
        for name in CLOSED_FORMS
    },
}


TITLES = {name: row.title for name, row in ROWS.items()}


class Plan(NamedTuple):
    """A row with a seed, and the options of the command line."""

    name: str
    seed: int
    options: object

    @property
    def runs(self):
        """The folder of the seed's runs."""
        return self.options.output_folder / str(self.seed)

    @property
    def features(self):
        """What heads and attackers take."""
        return ROWS[self.name].features.format(self.runs)

    @property
    def phone_parts(self):
        """From which layers phones are recognised, by keys of PHONES."""
        return list(PHONES) if ROWS[self.name].of_u else ["last_phones"]

    def phones(self, part):
        """Return the folder in which phones are recognised, from the last layer or from all."""
        return self.runs / part / self.name

    def attacks(self, representation):
        """Return the folder of the attacks on frames or on utterance embeddings."""
        return self.runs / "attacks" / representation / self.name


def seeds_of(options):
    """Return the seeds that the command line asks for.

    Example
    -------
    >>> from argparse import Namespace
    >>> seeds_of(Namespace(only_seed=None, seeds=2)), seeds_of(Namespace(only_seed=2408, seeds=2))
    ((2407, 2408), (2408,))
    """
    return (options.only_seed,) if options.only_seed else runner.SEEDS[: options.seeds]


def plans(options):
    """Return the rows with each seed; those of no training with the first alone."""
    seeds = seeds_of(options)
    return [
        Plan(name, seed, options)
        for seed in seeds
        for name in ROWS
        if seed == seeds[0] or name not in (LOG_MEL, RANDOM)
    ]


def train_run(seed, name, options):
    """Run a stage unless the same run is there; return what went wrong, or None."""
    runs = options.output_folder / str(seed)
    more = next(step[name] for step in STEPS if name in step)
    starts = {key: runs / run / "model" for key, run in STARTS.get(name, {}).items()}
    given = {"seed": seed, "data_folder": options.data_folder, **starts, **more}
    words = ["train.py", f"hparams/{name.partition('_')[0]}_tiny.yaml"]
    return make_run(Run(runs / name, runner.PRETRAIN, words, given), options.jobs)


def make_rivals(seed, options):
    """Make the control's rivals in closed form unless they are there; return what went wrong."""
    runs = options.output_folder / str(seed)
    model = runs / CONTROL / "model"
    given = {"model": model, "data_folder": options.data_folder, "seed": seed}
    words = ["rivals.py", "--only", *CLOSED_FORMS]
    return make_run(Run(runs / "rivals", HERE, words, given), options.jobs)


def recognise_phones(plan):
    """Recognise phones from the frames of a row; return what went wrong, or None."""
    for part in plan.phone_parts:
        given = plan.features, plan.seed, PHONES[part], plan.options
        if problem := recognise(plan.phones(part), *given):
            return problem
    return None


def attack_row(plan):
    """Attack the frames of a row, and its embeddings where it has them; return what failed."""
    kinds = ["frames", "utterance"] if ROWS[plan.name].of_u else ["frames"]
    for kind in kinds:
        given = {
            "features": as_features(plan.features),
            "manifests": plan.runs / JOINT / "manifest",
            "data_folder": plan.options.data_folder,
            "representation": kind,
            "lexicon": plan.options.lexicon,
            "seed": plan.seed,
        }
        run = Run(plan.attacks(kind), HERE, ["attack.py"], given)
        if problem := make_run(run, plan.options.jobs):
            return problem
    return None


def read_row(plan, speaker_of):
    """Return the readings of a row with a seed, as `aims.judge` takes them.

    Arguments
    ---------
    plan : Plan
    speaker_of : dict
        The speaker of each test utterance by its ID.

    Returns
    -------
    dict
        By key of `aims.COLUMNS`, what was read.
    """
    readings = {part: read_phone_errors(plan.phones(part), speaker_of) for part in plan.phone_parts}
    found = runner.read_figures(plan.attacks("frames"))
    for key, measure in {"speaker": "accuracy", "speaker_eer": "eer"}.items():
        name = found["best"][measure]
        attacker = found["attackers"][name]
        more = {"dev": attacker["dev"][measure], "attacker": name}
        readings[key] = attacker["test"][measure] | more
    if ROWS[plan.name].of_u:
        found = runner.read_figures(plan.attacks("utterance"))
        phones = found["content"]["phones"]
        readings["content"] = phones["attackers"][phones["best"]]["test"]
        readings["eer"] = found["eer"]
    return readings


def run_all(options):
    """Do what is missing of all runs; return what was read of each seed, by row."""
    seeds, rows = seeds_of(options), plans(options)
    work = [
        *([partial(train_run, s, name, options) for s in seeds for name in step] for step in STEPS),
        [partial(make_rivals, seed, options) for seed in seeds],
        [partial(recognise_phones, plan) for plan in rows],
        [partial(attack_row, plan) for plan in rows],
    ]
    for planned in work:
        problems = runner.run_side_by_side(lambda do: do(), planned, options.jobs)
        if problems:
            sys.exit("\n".join(problems))
    manifests = options.output_folder / str(seeds[0]) / JOINT / "manifest"
    speaker_of = speakers_of(manifests / f"{SPLITS[2]}.csv")
    return {
        seed: {plan.name: read_row(plan, speaker_of) for plan in rows if plan.seed == seed}
        for seed in seeds
    }


def keep(readings, options):
    """Write what was read of each seed to a file, with what made it."""
    given = {"data_folder": options.data_folder, "lexicon": options.lexicon}
    given["skip_bad"] = options.skip_bad
    for seed, rows in readings.items():
        seed_readings.keep(options.output_folder, seed, rows, given)


def tell(runs):
    """Return the verdict on the readings of seeds, in the form of RESULTS.md."""
    lines = aims.judge(runs, [name for name, row in ROWS.items() if row.rival])
    return aims.make_table(lines, aims.tell_rows(runs, TITLES))


def write(folder):
    """Publish the readings of a folder, and write the verdict of all that are published."""
    runs = list(seed_readings.publish(folder, PUBLISHED).values())
    readmes.write_between(RESULTS, "verdict", tell(runs))
    told = aims.tell_points(runs, TITLES)
    draw_tradeoff({}, told["points"], AXES, HERE / "verdict.png", told["limits"])


def main():
    """Train, read and judge, or write the verdict."""
    parser = runner.runs_parser(__doc__, PATHS, seeds=3)
    parser.add_argument("--only_seed", type=int, choices=runner.SEEDS, help="one seed alone")
    add_skip_bad(parser)
    options = parser.parse_args()
    if options.write is not None:
        write(options.write)
        return
    runner.check_paths(parser, options, PATHS)
    check_lexicon(options.data_folder, options.lexicon, options.skip_bad)
    readings = run_all(options)
    keep(readings, options)
    print(tell(list(readings.values())))


if __name__ == "__main__":
    main()
