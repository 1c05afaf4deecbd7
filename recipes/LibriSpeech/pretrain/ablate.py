#!/usr/bin/env python3
"""Compare settings of stage C on development speakers: what they take from frames, what they cost.

    python ablate.py --models O --data_folder LibriSpeech --alignments ALIGNMENTS --output_folder B
        [--seeds 2] [--jobs 2] [--only NAME ...]
    python ablate.py --write B

O holds the runs frame and utterance, which each setting starts from; ALIGNMENTS are of dev-clean
(see align.py). The settings are those of ablations.yaml, each for 4 epochs instead of 6 unless
it says otherwise. Started again, it does what is missing. `--write` adds what B holds to
ablations.json, which keeps the figures of all runs, and from it writes the table of README.md and
draws ablations.png. Test speakers are not read.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML

from lobes.erasure import Erasure
from recipes.common.data.alignments import read_alignments
from recipes.common.data.manifest import replace_text
from recipes.common.evaluation.bootstrap import bootstrap_groups
from recipes.common.evaluation.drawing import draw_tradeoff
from recipes.common.evaluation.metrics import percent_and_range, write_between
from recipes.common.report.measures import make_trials, often_enough, read_eer, read_probes
from recipes.common.report.representations import encode, load_systems
from recipes.common.report.speech import drawn_phones, load_rows
from recipes.common.training.hparams import read_tree as read_yaml
from recipes.common.training.run import check_paths, run_logged, runs_parser
from recipes.results import SEEDS

HERE = Path(__file__).resolve().parent
SETTINGS = HERE / "ablations.yaml"
DEFAULTS = HERE / "hparams" / "joint_tiny.yaml"
KEPT = HERE / "ablations.json"
PATHS = {
    "models": "the folder of the runs frame and utterance",
    "data_folder": "the folder LibriSpeech",
    "alignments": "of dev-clean",
    "output_folder": "where the runs go",
}
CONTROL = "control"
LADDER = (CONTROL, "default")  # settings that are read with more and more directions erased
# Frames changed in closed form: rows of their own below their setting's
UNERASED = "nothing erased"
CENTRED = "each utterance's mean frame taken off"
ERASED = {f"{count} directions erased": count for count in (20, 40, 60, 80, 100)}
EPOCHS = 4
FRAMES = 40  # of each utterance, for probes
TRIALS = 10000
PROBED = {  # as the table calls a measure, and as ablations.json does
    "speaker, pooled z": "speaker_pooled",
    "speaker, deviations": "speaker_deviations",
    "speaker, frames": "speaker_frames",
    "phone, frames": "phone_frames",
}
PLAIN = {"EER of u": "eer", "masked": "masked_accuracy", "retrieval": "retrieval_accuracy"}


def command_line(name, seed, options):
    """Return the command that trains a setting, to be run in this folder.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> options = SimpleNamespace(
    ...     models=Path("O"), data_folder=Path("D"), output_folder=Path("B"))
    >>> " ".join(command_line("control", 1, options)[1:7])
    'train.py hparams/joint_tiny.yaml --number_of_epochs 4 --beta 0.0'
    """
    given = {
        "number_of_epochs": EPOCHS,
        **read_yaml(SETTINGS)[name],
        "seed": seed,
        "data_folder": options.data_folder,
        "output_folder": run_folder(options.output_folder, name, seed),
        "frame_model": options.models / "frame" / "model",
        "utterance_model": options.models / "utterance" / "model",
    }
    words = [str(word) for key, value in given.items() for word in (f"--{key}", value)]
    return [sys.executable, "train.py", "hparams/joint_tiny.yaml", *words]


def run_folder(folder, name, seed):
    """Return where the run of a setting goes.

    Example
    -------
    >>> run_folder(Path("B"), "no warm-up", 1).as_posix()
    'B/no_warm-up/1'
    """
    return folder / name.replace(",", "").replace(" ", "_") / str(seed)


def expected_values(name):
    """Return what a setting's run has for each key of joint_tiny.yaml that is a plain value.

    Example
    -------
    >>> values = expected_values("control")
    >>> values["beta"], values["number_of_epochs"], "data_folder" in values
    (0.0, 4, False)
    """
    values = {"number_of_epochs": EPOCHS, **read_yaml(SETTINGS)[name]}
    parse = YAML(typ="safe").load
    values = {key: parse(x) if isinstance(x, str) else x for key, x in values.items()}
    return _plain_values(DEFAULTS) | values


def _plain_values(path):
    """Return numbers, words and lists of a hyperparameters file, without seed and places."""
    plain = {}
    for key, value in read_yaml(path).items():
        place = key == "seed" or key.endswith(("_folder", "_model", "_weights"))
        if not place and isinstance(value, (bool, int, float, str, list, type(None))):
            if not getattr(getattr(value, "tag", None), "value", None):
                plain[key] = list(value) if isinstance(value, list) else value
    return plain


def other_values(folder, name):
    """Return the keys in which a run differs from its setting as it is now, with both values."""
    found = _plain_values(folder / "hyperparams.yaml")
    return {
        key: (found.get(key, "nothing"), value)
        for key, value in expected_values(name).items()
        if found.get(key, "nothing") != value
    }


def run_one(name, seed, options):
    """Train a setting and read it, unless that was done; return what went wrong, or None."""
    folder = run_folder(options.output_folder, name, seed)
    if (folder / "hyperparams.yaml").is_file() and (others := other_values(folder, name)):
        return f"{folder} is of another setting, {tell(others)}. Move it away"
    if (folder / "dev.json").is_file():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    read = [sys.executable, __file__, "--read", folder, "--data_folder", options.data_folder]
    read += ["--alignments", options.alignments, *(["--ladder"] if name in LADDER else [])]
    commands = [command_line(name, seed, options), read]
    with open(folder / "ablate.log", "a", encoding="utf-8") as log:
        for command in commands:
            if command[1] == "train.py" and (folder / "metrics.json").is_file():
                continue
            status = run_logged(command, HERE, log, options.jobs)
            if status:
                return f"{name}, seed {seed}, ended with {status}: see {log.name}"
    print(folder, flush=True)
    return None


def tell(others):
    """Return the differences that `other_values` finds as text.

    Example
    -------
    >>> tell({"beta": (0.1, 0.03)})
    'with beta 0.1 instead of 0.03'
    """
    parts = [f"{key} {found} instead of {value}" for key, (found, value) in others.items()]
    return "with " + ", ".join(parts)


def read_run(options):
    """Write dev.json of a run: its figures on development speakers, and the speakers' scores."""
    torch.set_num_threads(1)
    rows, encoded = encode_run(options.read, "dev-clean", options.data_folder)
    alignments = read_alignments(options.alignments, rows)
    figures = read_frames(*arrays(encoded), rows, alignments)
    for name, frames in changed_frames(options):
        figures[name] = read_frames(*frames, rows, alignments)
    speakers = {row["ID"]: row["spk_id"] for row in rows}
    embeddings = dict(zip(speakers, encoded.embeddings, strict=True))
    trials = make_trials(rows, False, TRIALS, SEEDS[0])
    figures["eer"] = read_eer(embeddings, trials, speakers, SEEDS[0])[0]["value"]
    trained = json.loads((options.read / "metrics.json").read_text(encoding="utf-8"))
    valid = trained["figures"]["valid"]
    figures |= {name: valid[name] for name in ("masked_accuracy", "retrieval_accuracy")}
    replace_text(options.read / "dev.json", json.dumps(figures) + "\n")


def changed_frames(options):
    """Yield how a run's frames are changed in closed form, and `arrays` of them.

    Where directions were erased, the frames without that come first; with `--ladder`, more and
    more are erased from these.
    """
    [system] = load_systems([options.read / "model"], controls=False, seed=SEEDS[0])
    _, plain = encode_run(options.read, "dev-clean", options.data_folder, erased=False)
    if system.frames.states.encoder.erasure is not None:
        yield UNERASED, arrays(plain)
    if options.ladder:
        yield CENTRED, centred(*arrays(plain))
        split = "train-clean-100"
        _, training = encode_run(options.read, split, options.data_folder, erased=False)
        for name, count in ERASED.items():
            erase = eraser(training.whole, training.embeddings, count)
            yield name, tuple(map(erase, arrays(plain)))


def encode_run(run, split, data_folder, erased=True):
    """Return the utterances of a split and what a run's model gives for them.

    Arguments
    ---------
    run : Path
        Folder of the run, with its manifest and model; receives the states.
    split : str
    data_folder : Path
    erased : bool
        False for frames from which nothing is erased, whatever the model does.

    Returns
    -------
    rows : list of dict
        The utterances.
    encoded : Encoded
        Of these, in their order.
    """
    given = {"data_folder": data_folder, "min_seconds": 0.5, "session": None}
    rows = load_rows([run / "manifest" / f"{split}.csv"], given)
    [system] = load_systems([run / "model"], controls=False, seed=SEEDS[0])
    if not erased:
        system.frames.states.encoder.erasure = None
    return rows, encode(system, rows, FRAMES, run / "states", whole=True)


def arrays(encoded):
    """Return of the last layer what `read_frames` takes: means, drawn frames and all."""
    return encoded.means, encoded.frames[:, :, -1], encoded.whole


def centred(means, frames, whole):
    """Take each utterance's mean frame off the arrays of `read_frames`."""
    rest = [x.astype(np.float32) - mean for x, mean in zip(whole, means, strict=True)]
    return None, frames - means[:, None], rest


def eraser(whole, embeddings, count):
    """Return a function that erases from frames the directions that tell most of embeddings.

    Arguments
    ---------
    whole : list of numpy.ndarray
        The frames of each training utterance, (frames, dim).
    embeddings : numpy.ndarray
        Of these utterances, (utterances, E).
    count : int
        How many directions, see `lobes.erasure`.

    Returns
    -------
    callable
        Takes an array of frames, (..., dim), or a list of these.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> embeddings = rng.normal(size=(200, 1))
    >>> whole = [rng.normal(size=(50, 3)) + [x, 0, 0] for x in embeddings[:, 0]]
    >>> means = eraser(whole, embeddings, 1)(np.stack(whole)).mean(1)
    >>> bool(abs(np.corrcoef(means[:, 0], embeddings[:, 0])[0, 1]) < 0.01)
    True
    """
    whole = [torch.from_numpy(x.astype(np.float64)) for x in whole]
    frames, means = torch.cat(whole), torch.stack([x.mean(0) for x in whole])
    moments = frames.mean(0), torch.cov(frames.T, correction=0)
    erasure = Erasure(frames.shape[1], count)
    erasure.fit(*moments, means, torch.from_numpy(embeddings))

    def erase(x):
        if isinstance(x, list):
            return [erase(part) for part in x]
        return erasure(torch.from_numpy(x)).numpy()

    return erase


def read_frames(means, frames, whole, rows, alignments):
    """Return what the last layer tells of speakers and phones.

    Arguments
    ---------
    means : numpy.ndarray or None
        Of each utterance's frames, (utterances, dim); None where they are not to be read.
    frames : numpy.ndarray
        Drawn ones, (utterances, FRAMES, dim).
    whole : list of numpy.ndarray
        All frames, (frames, dim), of each utterance.
    rows : list of dict
        The utterances.
    alignments : dict
        Of these.

    Returns
    -------
    dict
        By measure: `value`, and the `scores` of the speakers, which paired tests compare.
    """
    speakers = np.array([row["spk_id"] for row in rows]).astype(str)
    utterances = np.array([row["ID"] for row in rows])
    phones = drawn_phones(rows, alignments, FRAMES).ravel()
    frames, owners = frames.reshape(len(phones), -1), speakers.repeat(FRAMES)
    known = np.flatnonzero(phones != np.array(None))
    known = known[often_enough(phones[known], owners[known])]
    deviations = np.stack([x.astype(np.float32).std(0) for x in whole])
    inputs = {
        "speaker_pooled": (means, speakers, utterances, speakers),
        "speaker_deviations": (deviations, speakers, utterances, speakers),
        "speaker_frames": (frames, owners, utterances.repeat(FRAMES), owners),
        "phone_frames": (frames[known], phones[known].astype(str), owners[known], owners[known]),
    }
    inputs = {name: given for name, given in inputs.items() if given[0] is not None}
    readings = {name: read_probes(*x, ["linear"], seeds=[1])[0] for name, x in inputs.items()}
    return {
        name: {
            "value": reading["value"],
            "scores": reading["evidence"]["group_scores"][0].round(6).tolist(),
        }
        for name, reading in readings.items()
    }


def collect(folder):
    """Add the figures of the runs of a folder to ablations.json; return all of them.

    A setting that was changed since it was run, by itself or by the defaults, is forgotten.
    """
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    found = {}
    for name, options in read_yaml(SETTINGS).items():
        known, values = kept.get(name, {}), expected_values(name)
        runs = known["runs"] if known.get("values") == values else {}
        for seed in SEEDS:
            run = run_folder(folder, name, seed)
            if not (run / "dev.json").is_file():
                continue
            if others := other_values(run, name):
                print(f"{run} is left out: {tell(others)}")
                continue
            runs[str(seed)] = json.loads((run / "dev.json").read_text(encoding="utf-8"))
        if runs:
            found[name] = {"options": options, "values": values, "runs": runs}
    replace_text(KEPT, json.dumps(found, indent=1) + "\n")
    return found


def make_table(found):
    """Return the figures of settings as Markdown, in percent.

    Arguments
    ---------
    found : dict
        As ablations.json has them.

    Returns
    -------
    str
        A measure is the mean over seeds. Of a probe, the difference from the control's runs of the
        same seeds follows, with its 95 % interval over speakers and seeds; of what has no
        interval, the range.

    Example
    -------
    >>> figure = {"value": 0.5, "scores": [0.4, 0.6]}
    >>> run = dict.fromkeys(PROBED.values(), figure) | dict.fromkeys(PLAIN.values(), 0.25)
    >>> table = make_table({"control": {"options": {"beta": 0.0}, "runs": {"1": run}}})
    >>> print(table.splitlines()[-1])
    | control | `--beta 0.0` | 1 | 50.0 | 50.0 | 50.0 | 50.0 | 25.0 | 25.0 | 25.0 |
    """
    heads = ["setting", "options", "seeds", *PROBED, *PLAIN]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "--:|" * (len(heads) - 2)]
    control = found.get(CONTROL, {"runs": {}})["runs"]
    for name, setting in with_changed(found).items():
        runs = setting["runs"]
        words = " ".join(f"--{key} {value}" for key, value in setting["options"].items())
        cells = [name, f"`{words}`" if words else "", str(len(runs))]
        cells += [_probed(runs, control, key, name == CONTROL) for key in PROBED.values()]
        cells += [percent_and_range([run[key] for run in runs.values()]) for key in PLAIN.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_changed(found):
    """Return the settings, each followed by its changed frames as further ones."""
    settings, unread = {}, dict.fromkeys(PROBED.values())
    for name, setting in found.items():
        settings[name] = setting
        for change in (UNERASED, CENTRED, *ERASED):
            runs = {
                k: {**v, **unread, **v[change]} for k, v in setting["runs"].items() if change in v
            }
            if runs:
                settings[f"{name}: {change}"] = {**setting, "runs": runs}
    return settings


def draw(found, path):
    """Draw what is told of speakers against what is told of phones; see `make_table`.

    The settings of `LADDER` are curves, from nothing erased to most; the others go from nothing
    erased to what they erase themselves.
    """
    places = {
        name: tuple(
            100 * np.mean([run[key]["value"] for run in setting["runs"].values()])
            for key in ("speaker_pooled", "phone_frames")
        )
        for name, setting in with_changed(found).items()
        if not name.endswith(CENTRED)
    }
    curves, points = {}, {}
    for name in found:
        plain = f"{name}: {UNERASED}"
        if name in LADDER:
            steps = {"0": plain if plain in places else name}
            steps |= {str(count): f"{name}: {change}" for change, count in ERASED.items()}
            curves[name] = {text: places[step] for text, step in steps.items() if step in places}
        else:
            points[name] = [places[step] for step in (plain, name) if step in places]
    labels = "speaker from pooled z (accuracy, %)", "phone from frames (accuracy, %)"
    draw_tradeoff(curves, points, labels, path)


def _probed(runs, control, key, is_control):
    if any(run[key] is None for run in runs.values()):
        return "-"
    text = f"{100 * np.mean([run[key]['value'] for run in runs.values()]):.1f}"
    shared = [seed for seed in runs if seed in control]
    if is_control or not shared:
        return text
    own, other = ([part[seed][key]["scores"] for seed in shared] for part in (runs, control))
    differences = np.array(own) - np.array(other)
    ends = bootstrap_groups(differences, SEEDS[0])
    difference, low, high = (100 * value for value in (differences.mean(), *ends))
    return f"{text} ({difference:+.1f} [{low:+.1f}, {high:+.1f}])"


def make_parser():
    """Return the parser of the command line."""
    parser = runs_parser(__doc__, PATHS, seeds=2, most_seeds=len(SEEDS))
    parser.add_argument("--only", nargs="+", choices=read_yaml(SETTINGS), help="settings")
    parser.add_argument("--read", type=Path, metavar="RUN", help="only read this run")
    parser.add_argument("--ladder", action="store_true", help="read it with more erased, too")
    return parser


def main():
    """Train and read the settings, or write the table."""
    parser = make_parser()
    options = parser.parse_args()
    if options.write is not None:
        found = collect(options.write)
        write_between(HERE / "README.md", "ablations", make_table(found))
        draw(found, HERE / "ablations.png")
        return
    if options.read is not None:
        read_run(options)
        return
    check_paths(parser, options, PATHS)
    names = options.only or list(read_yaml(SETTINGS))
    planned = [(name, seed) for seed in SEEDS[: options.seeds] for name in names]
    with ThreadPoolExecutor(options.jobs) as pool:
        problems = list(filter(None, pool.map(lambda run: run_one(*run, options), planned)))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
