#!/usr/bin/env python3
"""Whether a speaker is known through other channels: verification of the same voices through each.

    python channels.py --methods M --voxceleb voxceleb1 --noise_folder NOISE --output_folder C
    python channels.py --models NAME=O/utterance/model NAME=... --voxceleb ...
    python channels.py --write C

The utterances of VoxCeleb1's trial lists are passed through each channel. A trial is *within* a
channel where both of its utterances came through it, and *across* where the enrolled one is as it
was. The threshold of each model is that of the equal error rate of the development trials, as they
are. Of several models of one name, such as of several seeds, means are taken. Rows beside them:
random weights, and mean and deviation of log-mel bands. Started again, it embeds what is missing.
"""

import argparse
import hashlib
import io
import re
import sys
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly

from pretrained.audio import read_speech
from pretrained.exported import digests_of
from pretrained.plain_files import write_whole
from recipes.common.data import transmission
from recipes.common.data.augment import UtteranceAugment
from recipes.common.data.files import digest_code, list_files
from recipes.common.data.seeding import derive_seed
from recipes.common.downstream.features import load_encoder
from recipes.common.evaluation.baselines import fbank_states, fresh
from recipes.common.evaluation.bootstrap import bootstrap_trials
from recipes.common.evaluation.metrics import eer_threshold, mean_eer
from recipes.common.evaluation.scoring import score_trials
from recipes.common.evaluation.verification import MeanState
from recipes.common.training.record import write_metrics
from recipes.experiments import readmes
from recipes.experiments.provenance import digest_source
from recipes.experiments.runner import read_figures, read_kept
from recipes.VoxCeleb.voxceleb_prepare import read_trials, trials_path, utterance_id

SEED = 2407
SNR = 10.0  # dB
PLAIN = "16 kHz"
PARTS = ("noise", "reverb", "channel", "band_limit", "telephone", "codec", "drop_freq")
PARTS += ("drop_chunk", "gain")
UNSEEN = ("GSM 6.10", "MP3, 8 kHz", "noise, 10 dB")  # by any default of `UtteranceAugment`
RESULTS = Path(__file__).with_name("RESULTS.md")
CODE = ("lobes", "pretrained/audio.py", "recipes/common/data/augment.py")
CODE += ("recipes/common/data/transmission.py",)
METHODS = {"before": "SimCLR, one channel", "after": "SimCLR"}  # rows of compare_methods.py
COLUMNS = {
    "EER, within": "eer_within",
    "EER, across": "eer_across",
    "same speaker accepted, within": "accepted_within",
    "same speaker accepted, across": "accepted_across",
    "others accepted, within": "false_within",
    "others accepted, across": "false_across",
}


def make_channels(noise_folder):
    """Return the channels by name: each takes a waveform, (samples,), and a seed of its own.

    Arguments
    ---------
    noise_folder : str or Path
        Of recordings of noise.

    Returns
    -------
    dict

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "noise.wav", np.random.default_rng(0).normal(size=9000), 16000)
    >>> wav = torch.randn(16001)
    >>> {channel(wav, 1).shape for channel in make_channels(folder).values()}
    {torch.Size([16001])}
    """
    never = {f"{part}_prob": 0.0 for part in PARTS}
    noise = {"noise_folder": noise_folder, "snr_low": SNR, "snr_high": SNR}
    return {
        PLAIN: lambda wav, seed: wav,
        "8 kHz": resample,
        "mu-law": partial(coded, codec=transmission.MU_LAW),
        "A-law": partial(coded, codec=transmission.A_LAW),
        "MP3, 20 kbit/s": partial(coded, codec=transmission.MP3_20K),
        "Opus, 9 kbit/s": partial(coded, codec=transmission.OPUS_9K),
        "GSM 6.10": partial(coded, codec=transmission.GSM),
        "MP3, 8 kHz": partial(coded, codec=transmission.MP3_NARROW),
        "noise, 10 dB": UtteranceAugment(**{**never, "noise_prob": 1.0}, **noise),
        "room": UtteranceAugment(**{**never, "reverb_prob": 1.0}),
    }


def resample(wav, seed):
    """Sample a waveform, (samples,), at 8 kHz and at 16 kHz again."""
    narrow = resample_poly(wav.numpy(), 1, 2)
    return torch.from_numpy(resample_poly(narrow, 2, 1)[: len(wav)])


def coded(wav, seed, codec):
    """Send a waveform, (samples,), through a codec."""
    return transmission.transmit(wav[None], codec)[0]


def load_systems(models):
    """Return the encoders by name, several of a name, and after them the controls.

    Arguments
    ---------
    models : list of str
        NAME=FOLDER each, an exported folder with an utterance encoder.

    Returns
    -------
    dict
        Name: list of encoders, in evaluation mode.
    """
    systems = defaultdict(list)
    for given in models:
        name, _, folder = given.partition("=")
        if not name or not folder:
            raise SystemExit(f"--models {given}: expected NAME=FOLDER, such as after=O/model.")
        systems[name].append(load_encoder(folder, "utterance", "--models"))
    first = next(iter(systems.values()))[0]
    bands = MeanState(fbank_states("utterance"))
    return {**systems, "random weights": [fresh(first, SEED)], "log-mel": [bands]}


def models_of(methods):
    """Return the models of METHODS, of each seed, as `load_systems` takes them.

    Raises
    ------
    SystemExit
        Where the folder lacks them.
    """
    rows = read_kept(methods / "utterance" / "figures.json")
    if lacking := [row for row in METHODS.values() if row not in rows]:
        raise SystemExit(f"{methods} has no {lacking[0]}: run compare_methods.py utterance first.")
    return [
        f"{name}={folder}"
        for name, row in METHODS.items()
        for folder in rows[row]["features"].values()
    ]


def load_lists(voxceleb, names):
    """Return of each list the trials, and the paths of their utterances by ID."""
    root = Path(voxceleb) / "wav"
    paths = {utterance_id(p.relative_to(root).as_posix()): p for p in list_files(root)}
    return {
        part: (trials := read_trials(trials_path(voxceleb, name), paths), used(trials, paths))
        for part, name in names.items()
    }


def used(trials, paths):
    """Return those of the paths, by ID, that trials name."""
    return {name: paths[name] for name in sorted({name for _, *pair in trials for name in pair})}


@torch.no_grad()
def embed(encoders, channel, paths):
    """Return what each encoder gives of each file through a channel.

    Arguments
    ---------
    encoders : dict
        Encoders by any key.
    channel : callable
        See `make_channels`.
    paths : dict
        Files by ID.

    Returns
    -------
    dict
        Key: array of shape (files, E), float32.
    """
    rows = defaultdict(list)
    for name, path in paths.items():
        wav = channel(read_speech(path), derive_seed(SEED, name))
        for key, encoder in encoders.items():
            rows[key].append(encoder(wav[None])[0].numpy())
    return {key: np.stack(each) for key, each in rows.items()}


def embed_missing(systems, channels, paths, folder, key):
    """Return the embeddings of all files by channel and system; what is in `folder` is not made.

    Arguments
    ---------
    systems, channels, paths : dict
        See `load_systems`, `make_channels`, `load_lists`.
    folder : Path
        Has and takes a file for each channel, system and run of it.
    key : str
        Of all that embeddings depend on but the weights.

    Returns
    -------
    dict
        Channel: system: list of dicts, (E,) by ID, one of each run.
    """
    runs = {(name, n): each for name, own in systems.items() for n, each in enumerate(own)}
    keys = {run: digest(key, digests_of({"x": each}, None)) for run, each in runs.items()}
    found = {}
    for channel, change in channels.items():
        files = {run: folder / f"{slug(channel)}-{slug(run[0])}-{run[1]}.npz" for run in runs}
        rows = {run: read_cached(file, keys[run]) for run, file in files.items()}
        missing = {run: runs[run] for run, row in rows.items() if row is None}
        for run, made in (embed(missing, change, paths) if missing else {}).items():
            rows[run] = made
            stream = io.BytesIO()
            np.savez(stream, key=keys[run], rows=made)
            write_whole(files[run], stream.getvalue())
        found[channel] = {name: [] for name in systems}
        for (name, _), row in rows.items():
            found[channel][name].append(dict(zip(paths, row, strict=True)))
    return found


def read_cached(path, key):
    """Return the rows of a file, or None where it is missing or was made of something else."""
    if not path.is_file():
        return None
    with np.load(path) as content:
        return content["rows"] if content["key"] == key else None


def digest(*parts):
    """Return a digest of what can be printed."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def slug(name):
    """Return a name as a part of a file's name.

    Example
    -------
    >>> slug("MP3, 8 kHz")
    'MP3_8_kHz'
    """
    return re.sub(r"\W+", "_", name)


def score(embeddings, trials, system):
    """Return the scores of trials within each channel and across, by (channel, way).

    Returns
    -------
    dict
        Shape (runs, trials) each.
    """
    scores = {}
    for channel, found in embeddings.items():
        pairs = list(zip(embeddings[PLAIN][system], found[system], strict=True))
        scores[channel, "within"] = np.stack([score_trials(own, trials) for _, own in pairs])
        scores[channel, "across"] = np.stack([across(*pair, trials) for pair in pairs])
    return scores


def across(enrolled, tested, trials):
    """Return the scores of trials of which each side has embeddings of its own, (trials,)."""
    sides = {(0, k): v for k, v in enrolled.items()} | {(1, k): v for k, v in tested.items()}
    return score_trials(sides, [(label, (0, a), (1, b)) for label, a, b in trials])


def measure(scores, thresholds, trials):
    """Return the figures of each channel from the scores of a system.

    Arguments
    ---------
    scores : dict
        See `score`.
    thresholds : array_like
        Shape (runs,).
    trials : list of tuple
        (label, enrolment ID, test ID).

    Returns
    -------
    dict
        Channel: name: `value` and `interval`, its 95 % interval over speakers, None where trials
        are too few. `eer_`, `accepted_` (share of same-speaker trials), `false_` (of others), each
        `within` and `across`; `change_across` and `change_within`: how much more often one speaker
        is accepted than within `PLAIN`.
    """
    labels = np.array([label for label, *_ in trials], bool)
    speakers = [[name.split("-")[0] for name in pair] for _, *pair in trials]
    accepted = {key: (own >= np.c_[thresholds]).mean(0) for key, own in scores.items()}
    figures = {channel: {} for channel, _ in scores}
    for channel, way in scores:
        change = accepted[channel, way] - accepted[PLAIN, "within"]
        statistics = {
            "eer": partial(mean_eer, scores[channel, way], labels),
            "accepted": partial(weighted_mean, accepted[channel, way] * labels, labels),
            "false": partial(weighted_mean, accepted[channel, way] * ~labels, ~labels),
            "change": partial(weighted_mean, change * labels, labels),
        }
        for name, statistic in statistics.items():
            [value] = statistic(np.ones((1, len(trials)))).tolist()
            interval = bootstrap_trials(statistic, labels, speakers, SEED)
            figures[channel][f"{name}_{way}"] = {"value": value, "interval": interval}
    return figures


def weighted_mean(values, counted, weights):
    """Return the mean of those values that count, (draws,), for weights (draws, trials)."""
    return weights @ values / (weights @ counted)


def make_table(figures):
    """Return the figures of a list of trials as Markdown."""
    rows = []
    channels = next(iter(figures.values()))
    for channel in channels:
        for system, own in figures.items():
            cells = [percent(own[channel][name]) for name in COLUMNS.values()]
            change = "-" if channel == PLAIN else percent(own[channel]["change_across"], "+.1f")
            mark = "*" if channel in UNSEEN else ""
            rows.append([channel + mark, system, *cells, change])
    heads = ["channel", "model", *COLUMNS, f"change from {PLAIN} [95 %]"]
    return readmes.markdown_table(heads, "ll" + "r" * (len(COLUMNS) + 1), rows)


def percent(figure, form=".1f"):
    """Return a share in per cent with its interval.

    Example
    -------
    >>> percent({"value": 0.5, "interval": [0.4, 0.6]}), percent({"value": 0.5, "interval": None})
    ('50.0 [40.0, 60.0]', '50.0')
    """
    value, *interval = (
        format(100 * share, form) for share in (figure["value"], *(figure["interval"] or ()))
    )
    return f"{value} [{', '.join(interval)}]" if interval else value


def write_results(folder):
    """Write the tables of the last list that was measured, and its thresholds, into RESULTS.md."""
    figures = read_figures(folder)
    if figures is None:
        raise SystemExit(f"{folder} holds no metrics.json: measure the models first.")
    part = list(figures["parts"])[-1]
    readmes.write_between(RESULTS, "channels", make_table(figures["parts"][part]))


def main(arguments=None):
    """Measure models through each channel, or write what was measured."""
    options = read_options(arguments)
    if options.write is not None:
        write_results(options.write)
        return
    began = time.time()
    systems, channels = load_systems(options.models), make_channels(options.noise_folder)
    names = {"dev": options.dev_trials, "test": options.test_trials}
    names = {part: name for part, name in names.items() if name is not None}
    lists = load_lists(options.voxceleb, names)
    noise = [(str(p), p.stat().st_size) for p in list_files(options.noise_folder)]
    code = digest_source(Path(__file__))
    figures = {"models": options.models, "thresholds": {}, "parts": {}}
    for part, (trials, paths) in lists.items():
        sizes = [(name, path.stat().st_size) for name, path in paths.items()]
        folder = options.output_folder / "embeddings" / part
        folder.mkdir(parents=True, exist_ok=True)
        key = digest(digest_code(*CODE), code, noise, sizes)
        embeddings = embed_missing(systems, channels, paths, folder, key)
        figures["parts"][part] = {}
        for system in systems:
            scores = score(embeddings, trials, system)
            if part == "dev":
                labels = [label for label, *_ in trials]
                own = [eer_threshold(row, labels) for row in scores[PLAIN, "within"]]
                figures["thresholds"][system] = own
            found = measure(scores, figures["thresholds"][system], trials)
            figures["parts"][part][system] = found
        print(part, make_table(figures["parts"][part]), sep="\n\n", end="\n\n")
    path = options.output_folder / "metrics.json"
    write_metrics(path, figures, seed=SEED, manifests=[], start_time=began)


def read_options(arguments):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    needed = {"voxceleb", "noise_folder", "output_folder"}
    parser.add_argument("--write", type=Path, metavar="C", help="write RESULTS.md from it")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--methods", type=Path, metavar="M", help="of compare_methods.py utterance")
    which.add_argument("--models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--voxceleb", type=Path, help="a folder as VoxCeleb1's")
    parser.add_argument("--noise_folder", type=Path, help="recordings of noise")
    parser.add_argument("--output_folder", type=Path)
    parser.add_argument("--dev_trials", default="veri_dev", help="set the thresholds")
    parser.add_argument("--test_trials", help="such as veri_test2; read once, at the end")
    options = parser.parse_args(arguments)
    missing = [name for name in sorted(needed) if getattr(options, name) is None]
    if options.write is None and missing:
        parser.error(f"--{missing[0]} is missing (see --help)")
    if options.methods is not None:
        options.models = models_of(options.methods)
    if options.write is None and not options.models:
        parser.error("expected --methods or --models (see --help)")
    return options


if __name__ == "__main__":
    sys.exit(main())
