#!/usr/bin/env python3
"""The three stages at the tiny size, from nothing to a table: about ten minutes on two cores.

    python recipes/Synthetic/demo.py                             # or: make demo
    python recipes/Synthetic/demo.py --data_folder LibriSpeech   # real speech: hours

Without `--data_folder`, on the synthetic corpus. What is done is not done again.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from pretrained.exported import load_model
from recipes.common.data.manifest import ROOT, read_manifest
from recipes.common.data.seeding import derive_rng
from recipes.common.evaluation.verification import verify, with_baselines
from recipes.common.training.record import write_metrics
from recipes.Synthetic.corpus import make_corpus

SEED = 2407
REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = REPOSITORY / "recipes"
SPLITS = {
    "Synthetic": {"train": "train", "dev": "valid", "test": "test"},
    "LibriSpeech": {"train": "train-clean-100", "dev": "dev-clean", "test": "test-clean"},
}
RUNS = {  # folder: the stage that runs there, and its options
    "frame": ("frame", []),
    "utterance": ("utterance", []),
    "joint": ("joint", []),
    "joint_beta0": ("joint", ["--beta", "0.0"]),
}
COMPARED = {"model": "joint", "control": "joint_beta0"}
EVALUATION = {  # options of evaluate.py: splits, small critics, one seed, one draw of crops
    "Synthetic": [
        *("--train_splits", "[train]", "--valid_splits", "[valid]", "--test_splits", "[test]"),
        *("--frames_per_utterance", "16", "--hidden_dim", "64"),
        *("--critic_seeds", "[1]", "--crop_draws", "1"),
    ],
    "LibriSpeech": [],
}
TRIALS_PER_SPEAKER = 100
UNSEEN = "unseen speakers, test"


def main(arguments=None):
    """Make or take the corpus, train, measure, print the table."""
    began = time.time()
    options = parse(arguments)
    results, corpus = options.results.resolve(), options.corpus
    data = (options.data_folder or results / "corpus").resolve()
    claim(results, data)
    if corpus == "Synthetic":
        say("corpus")
        make_corpus(data)
    common = ["--data_folder", data, "--manifest_folder", results / "manifest"]
    train = RECIPES / corpus / "pretrain" / "train.py"
    for name, (stage, settings) in RUNS.items():
        run(train, f"{stage}_tiny.yaml", results / name, [*common, *settings])
    models = {key: results / name / "model" for key, name in COMPARED.items()}
    pair = [word for key, folder in models.items() for word in (f"--{key}", folder)]
    evaluate, more = RECIPES / "experiments" / "evaluate.py", EVALUATION[corpus]
    run(evaluate, "evaluate.yaml", results / "leakage", [*common, *pair, *more])
    check_speakers(results, data, SPLITS[corpus])
    encode_one(results, data, SPLITS[corpus]["test"])

    figures = gather(results)
    write_metrics(
        results / "metrics.json",
        figures,
        seed=SEED,
        manifests=[results / "manifest" / f"{name}.csv" for name in SPLITS[corpus].values()],
        start_time=began,
    )
    table = make_table(figures, corpus)
    (results / "table.md").write_text(table, encoding="utf-8")
    print(f"\n{table}\nThese lines: {results / 'table.md'}; took {time.time() - began:.0f} s.")


def parse(arguments):
    """Return the options, with the name of the recipe that they mean as `corpus`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_folder", type=Path, help="a LibriSpeech tree")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "results" / "demo")
    options = parser.parse_args(arguments)
    options.corpus = "LibriSpeech" if options.data_folder else "Synthetic"
    return options


def claim(results, data):
    """Refuse a folder of results that were made from other data."""
    marker = results / "data_folder"
    if marker.is_file() and marker.read_text(encoding="utf-8") != str(data):
        sys.exit(f"{results} holds results on {marker.read_text()}: give another --results.")
    results.mkdir(parents=True, exist_ok=True)
    marker.write_text(str(data), encoding="utf-8")


def run(script, hparams, folder, options):
    """Run a script in its own folder, unless its metrics.json is there; its progress shows."""
    if (folder / "metrics.json").is_file():
        return
    say(folder.name)
    folder.mkdir(exist_ok=True)  # or FOLDER/../frame, where the joint stage starts, is nowhere
    command = [script.name, f"hparams/{hparams}", "--output_folder", folder, *options]
    start([sys.executable, *command], script.parent)


def start(command, folder):
    """Run a command in a folder without what it prints to stdout; stop where it fails."""
    command = [str(word) for word in command]
    code = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode
    if code:
        sys.exit(f"{' '.join(command)} ended with code {code}.")


def say(part):
    """Announce a part of the demo."""
    print(f"\n=== {part} ({time.strftime('%H:%M:%S')})", file=sys.stderr, flush=True)


def check_speakers(results, data, splits):
    """Write the error rates of the joint stage's embeddings and of their baselines."""
    path = results / "verification" / "metrics.json"
    if path.is_file():
        return
    say("verification")
    began = time.time()
    manifests = {part: results / "manifest" / f"{name}.csv" for part, name in splits.items()}
    lists = {
        part: (manifests[part], make_trials(read_manifest(manifests[part]), SEED))
        for part in ("dev", "test")
    }
    encoder = load_model(results / "joint" / "model")["utterance_encoder"]
    systems = with_baselines(encoder, "utterance", SEED)
    figures, _ = verify(systems, lists, data, SEED, reference=(manifests["train"], data))
    write_metrics(path, figures, seed=SEED, manifests=manifests.values(), start_time=began)


def make_trials(rows, seed):
    """Draw trials of a manifest: a speaker across sessions, and as many of two speakers.

    Arguments
    ---------
    rows : list of dict
        A manifest's rows, with IDs SPEAKER-SESSION-NUMBER.
    seed : int
        Seed of the draw.

    Returns
    -------
    list of tuple
        (1 for the same speaker, enrolment ID, test ID), none twice.

    Example
    -------
    >>> rows = [{"ID": f"{s}-{i}-0", "spk_id": s} for s in "ab" for i in "12"]
    >>> sorted(label for label, _, _ in make_trials(rows, seed=0))
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    trials = []
    for speaker in sorted({row["spk_id"] for row in rows}):
        own = sorted(row["ID"] for row in rows if row["spk_id"] == speaker)
        others = sorted(row["ID"] for row in rows if row["spk_id"] != speaker)
        rng = derive_rng(seed, "trials", speaker)
        same = [(a, b) for a in own for b in own if session(a) != session(b)]
        different = [(a, b) for a in own for b in others]
        count = min(TRIALS_PER_SPEAKER, len(same), len(different))
        for label, pairs in ((1, same), (0, different)):
            trials += [(label, *pairs[i]) for i in rng.permutation(len(pairs))[:count]]
    return trials


def session(utterance):
    """Return an utterance's speaker and session, or reader and chapter."""
    return utterance.rpartition("-")[0]


def encode_one(results, data, split):
    """Encode an utterance by the exported model, as a user would."""
    say("encode")
    row = read_manifest(results / "manifest" / f"{split}.csv")[0]
    file = data / row["wav"].removeprefix(ROOT)
    model, out = results / "joint" / "model", results / "encoded"
    command = ["-m", "pretrained", "encode", file, "--model", model, "--out", out]
    start([sys.executable, *command], REPOSITORY)


def gather(results):
    """Return the figures of the table from the parts' metrics.json."""

    def read(name):
        return json.loads((results / name / "metrics.json").read_text(encoding="utf-8"))["figures"]

    speakers, leakage = read("verification")["test"], read("leakage")[UNSEEN]
    kinds = ("masked_accuracy", "copy_accuracy", "majority_accuracy")
    stages = [name for name in RUNS if name != "utterance"]
    return {
        "units": {name: {kind: read(name)["test"][kind] for kind in kinds} for name in stages},
        "speakers": {
            **{key: speakers[key] for key in ("trials", "speakers", "ratio")},
            "eer": {name: system["eer"] for name, system in speakers["systems"].items()},
        },
        "leakage": {key: leakage[key] for key in ("likelihood_gain", "info_nce")},
    }


def make_table(figures, corpus):
    """Return the table in Markdown, and what it shows and does not show.

    Arguments
    ---------
    figures : dict
        As `gather` returns them.
    corpus : str
        "Synthetic" or "LibriSpeech".

    Returns
    -------
    str
    """
    units, speakers = figures["units"], figures["speakers"]
    lines = [
        "| on unseen speakers (test split) | here | compared with | | ratio or difference |",
        "|---|---|---|---|---|",
    ]
    for stage in ("frame", "joint"):
        own = units[stage]["masked_accuracy"]
        for name, key in (("copying the nearest visible unit", "copy"), ("majority", "majority")):
            chance = units[stage][f"{key}_accuracy"]
            lines.append(
                f"| masked accuracy, {stage} stage | {own:.1%} | {name} | {chance:.1%} "
                f"| {own / chance:.2f} times |"
            )
    for name, key in (("log-mel statistics", "fbank"), ("random weights", "random")):
        eer, ratio = speakers["eer"], speakers["ratio"][key]
        lines.append(
            f"| EER of u | {eer['utterance']:.1%} | {name} | {eer[key]:.1%} "
            f"| {shown(ratio['value'], ratio['interval'])} |"
        )
    for name, key in (("log q(u given z)", "likelihood_gain"), ("InfoNCE", "info_nce")):
        left = figures["leakage"][key]
        lines.append(
            f"| left between z and u, nats, {name} | {left['model']['mean']:.3f} | beta 0 "
            f"| {left['control']['mean']:.3f} | {shown(left['difference'], left['interval'])} |"
        )
    return "\n".join([*lines, "", *remarks(figures, corpus)]) + "\n"


def shown(value, interval):
    """Return a figure with its 95 % interval, where there are any."""
    if value is None:
        return "not defined"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def remarks(figures, corpus):
    """Return what the figures show, what was aimed at, and what neither can tell."""
    joint, speakers = figures["units"]["joint"], figures["speakers"]
    control, gain = figures["units"]["joint_beta0"], figures["leakage"]["likelihood_gain"]
    copied = joint["masked_accuracy"] >= 1.5 * joint["copy_accuracy"]
    halved = all(
        speakers["eer"]["utterance"] <= speakers["eer"][k] / 2 for k in ("fbank", "random")
    )
    low, high = gain["interval"]
    found = "less" if high < 0 else "more" if low > 0 else "neither clearly less nor clearly more"
    kept = joint["masked_accuracy"] / control["masked_accuracy"]
    voices = {
        "Synthetic": "Voices of one synthesiser: nothing here says how real speech fares.",
        "LibriSpeech": "Read speech, at the tiny size: nothing here says how the full size fares.",
    }
    return [
        f"- Masked accuracy at least 1.5 times copying: {'yes' if copied else 'NO'}.",
        f"- EER of u at most half of either baseline's: {'yes' if halved else 'NO'} "
        f"({speakers['trials']} trials of {speakers['speakers']} speakers, same-speaker pairs "
        "across sessions; each system scored as was best on the valid split).",
        f"- Fresh critics find {found} of u in z with beta than without (the difference of "
        f"log q(u given z), in brackets its 95 % interval); masked accuracy is {kept:.2f} times "
        "that without.",
        f"- {voices[corpus]}",
        "- One seed: another one gives other figures. Intervals are over speakers, not seeds.",
        "- CLUB's own value is no measure of what is left, and is not judged here.",
    ]


if __name__ == "__main__":
    main()
