#!/usr/bin/env python3
"""What a model loses where its ONNX graphs have weights of 8 bits: sizes, cosines, error rates.

    python int8_loss.py O/joint/model --audio LibriSpeech/test-clean --output_folder I
    python int8_loss.py O/pr/model --audio LibriSpeech/test-clean --output_folder I
        --references O/pr/hypotheses.csv
    python int8_loss.py O/verify/model --audio voxceleb1/wav --output_folder I
        --trials voxceleb1/meta/veri_test2.txt

Both graphs of each output encode the same files, the first 30 s of each. Of encoders the cosines
between what the two give are reported, of a recogniser the error rate of each over the files that
`--references` names (of phones, words or pieces, whatever spaces separate), of a verifier the equal
error rate of each. Prints the figures and writes them to I/metrics.json.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pretrained.audio import read_speech
from pretrained.decoding import greedy_decode
from pretrained.deployment.graph_files import to_onnx
from pretrained.exported import load_folder
from pretrained.tokenizers import tokenizer_from_config
from pretrained.windows import WINDOW
from recipes.common.data.files import list_files, read_text
from recipes.common.evaluation.metrics import eer, error_counts
from recipes.common.evaluation.scoring import score_trials
from recipes.common.training.record import write_metrics
from recipes.VoxCeleb.voxceleb_prepare import read_trials, utterance_id

PRECISIONS = {"float32": False, "int8": True}
AUDIO = (".flac", ".wav")


def main(arguments):
    """Measure what the command line names."""
    options = make_parser().parse_args(arguments)
    began = time.time()
    modules, facts = load_folder(options.model)
    files = [path for path in list_files(options.audio) if path.suffix in AUDIO]
    figures = {"model": str(options.model)}
    with tempfile.TemporaryDirectory() as folder:
        for precision, int8 in PRECISIONS.items():
            to_onnx(modules, facts, Path(folder, precision), int8)
        for path in sorted(Path(folder, "float32").glob("*.onnx")):
            graphs = {name: Path(folder, name, path.name) for name in PRECISIONS}
            figures[path.stem] = {
                "bytes": {name: graph.stat().st_size for name, graph in graphs.items()},
                **measure(path.stem, graphs, files, facts, options),
            }
    write_metrics(
        options.output_folder / "metrics.json", figures, seed=0, manifests=[], start_time=began
    )
    print(json.dumps(figures, indent=2))


def make_parser():
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="an exported folder")
    parser.add_argument("--audio", type=Path, required=True, help="a folder of .flac or .wav")
    parser.add_argument("--output_folder", type=Path, required=True)
    parser.add_argument("--references", type=Path, help="CSV of ID, a file's name, and reference")
    parser.add_argument("--trials", type=Path, help="a list of trials as VoxCeleb1's")
    return parser


def measure(output, graphs, files, facts, options):
    """Return the figures of an output of a model: `frames`, `utterance`, `logits` or `embedding`.

    Arguments
    ---------
    output : str
    graphs : dict
        The path of the graph by its precision.
    files : list of Path
        The audio.
    facts : dict or None
        The folder's.
    options : argparse.Namespace
        With `references`, `trials` and the folder `audio`.
    """
    if output == "logits":
        return recognition(graphs, files, facts, options.references)
    if output == "embedding":
        return verification(graphs, files, options)
    cosines = np.concatenate([cosines_of(*found) for found in encode(graphs, files)])
    return {"cosine": {"mean": float(cosines.mean()), "least": float(cosines.min())}}


def encode(graphs, files):
    """Yield, for each file, what the graph of each precision gives: a list of arrays each."""
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(graph) for graph in graphs.values()]
    for path in files:
        wavs = read_speech(path)[None, :WINDOW].numpy()
        inputs = {"waveforms": wavs, "lengths": np.array([wavs.shape[1]])}
        yield [session.run(None, inputs) for session in sessions]


def cosines_of(exact, rounded):
    """Return the cosine between each two vectors of the first output of two graphs.

    Example
    -------
    >>> cosines_of([np.array([[3.0, 4.0]])], [np.array([[4.0, 3.0]])])
    array([0.96])
    """
    a, b = exact[0], rounded[0]
    return ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).flatten()


def recognition(graphs, files, facts, references):
    """Return the error rate of each precision over the files that the references name."""
    if references is None:
        raise SystemExit("A recogniser is measured on --references, a CSV of ID and reference.")
    rows = csv.DictReader(read_text(references).splitlines())
    texts = {row["ID"]: row["reference"].split() for row in rows}
    files = [path for path in files if path.stem in texts]
    tokenizer = tokenizer_from_config(facts["tokenizer"])
    heard = {name: [] for name in graphs}
    for found in encode(graphs, files):
        for name, (logits, lens) in zip(graphs, found, strict=True):
            [text] = greedy_decode(torch.from_numpy(logits), torch.from_numpy(lens), tokenizer)
            heard[name].append(text.split())
    expected = [texts[path.stem] for path in files]
    rates = {}
    for name, hypotheses in heard.items():
        counts = error_counts(expected, hypotheses)
        rates[name] = counts["errors"] / counts["tokens"]
    return {"files": len(files), "error_rate": rates}


def verification(graphs, files, options):
    """Return the equal error rate of each precision on a list of trials, and the cosines."""
    if options.trials is None:
        raise SystemExit("A verifier is measured on --trials, a list such as veri_test2.txt.")
    names = {utterance_id(path.relative_to(options.audio).as_posix()): path for path in files}
    trials = read_trials(options.trials, names)
    used = sorted({name for _, *pair in trials for name in pair})
    embeddings, cosines = {name: {} for name in graphs}, []
    for utterance, found in zip(used, encode(graphs, [names[n] for n in used]), strict=True):
        for name, [embedding] in zip(graphs, found, strict=True):
            embeddings[name][utterance] = embedding[0]
        cosines.append(cosines_of(*found))
    labels = [label for label, *_ in trials]
    rates = {name: eer(score_trials(found, trials), labels) for name, found in embeddings.items()}
    cosines = np.concatenate(cosines)
    return {
        "trials": len(trials),
        "eer": rates,
        "cosine": {"mean": float(cosines.mean()), "least": float(cosines.min())},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
