#!/usr/bin/env python3
"""Who speaks when: the error of a model's Diarizer, beside its controls.

    python who_speaks.py --model O/utterance/model --valid V --test T --output_folder O/who_speaks

V and T are folders of recordings, NAME.wav with NAME.rttm: AMI's, or what conversations.py makes.
The threshold is the best on V, for each row its own. Rows: the model; its architecture with random
weights; mean and deviation of log-mel bands; the model's clusters dealt out at random; one speaker
for all. A collar of 0.25 s does not count, and overlap does.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lobes.states import FbankStates, PooledStates
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.audio import read_speech
from pretrained.tasks.diarizer import Diarizer, cluster, make_turns, speech_windows
from recipes.common.training.record import write_metrics
from recipes.experiments.inference.diarization import (
    DiarizationErrors,
    diarization_errors,
    read_rttm,
)

THRESHOLDS = np.arange(0.05, 1.3, 0.05).round(2).tolist()
SEED = 2407


class BandStatistics(nn.Module):
    """Mean and deviation over time of log-mel bands and their differences, as an embedding."""

    def __init__(self):
        super().__init__()
        self.states = PooledStates(FbankStates())

    def forward(self, wavs, wav_lens=None):
        """Map (batch, samples) to (batch, 480)."""
        return self.states(wavs, wav_lens)[0][:, 0, 0]


def read_recordings(folder):
    """Return the recordings of a folder: samples, and the reference's turns."""
    paths = sorted(Path(folder).glob("*.wav"))
    if not paths:
        raise ValueError(f"{folder} holds no recording: expected NAME.wav with NAME.rttm.")
    return [(read_speech(path).numpy(), read_rttm(path.with_suffix(".rttm"))) for path in paths]


def embed_all(encoder, recordings):
    """Return windows, their embeddings and the reference's turns of each recording."""
    diarizer, rows = Diarizer(encoder), []
    for samples, reference in recordings:
        windows = speech_windows(samples)
        rows.append((windows, diarizer.embed(samples, windows), reference))
    return rows


def total_errors(rows, label):
    """Return the errors over all recordings, `label` being a function of embeddings and turns."""
    found = [
        diarization_errors(reference, make_turns(windows, label(directions, reference)))
        for windows, directions, reference in rows
    ]
    return DiarizationErrors(*np.sum(found, axis=0).tolist())


def given_number(directions, reference):
    """Return as many clusters as the reference has speakers."""
    return cluster(directions, 0.0, len({speaker for *_, speaker in reference}))


def measure(encoder, valid, test):
    """Return the errors of an encoder: by the threshold that is best on `valid`, by the number.

    Returns
    -------
    dict
    """
    known, new = embed_all(encoder, valid), embed_all(encoder, test)

    def by(threshold):
        return lambda directions, _: cluster(directions, threshold)

    best = min(THRESHOLDS, key=lambda threshold: total_errors(known, by(threshold)).rate)
    rng = np.random.default_rng(SEED)
    shuffled = total_errors(new, lambda *row: rng.permutation(given_number(*row)))
    return {
        "threshold": best,
        "valid": as_figures(total_errors(known, by(best))),
        "test": as_figures(total_errors(new, by(best))),
        "number_given": as_figures(total_errors(new, given_number)),
        "shuffled": as_figures(shuffled),
        "one_speaker": as_figures(total_errors(new, lambda rows, _: np.ones(len(rows), int))),
    }


def as_figures(errors):
    """Return the rate and its parts, as shares of the speech."""
    parts = {name: value / errors.total for name, value in errors._asdict().items()}
    return {"rate": errors.rate, **parts, "total": errors.total}


def main(arguments=None):
    """Measure a model and its controls, print a table and write metrics.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FOLDER")
    parser.add_argument("--valid", required=True, metavar="V")
    parser.add_argument("--test", required=True, metavar="T")
    parser.add_argument("--output_folder", required=True, type=Path)
    options = parser.parse_args(arguments)
    began = time.time()
    encoder = Diarizer.from_pretrained(options.model).encoder
    torch.manual_seed(SEED)
    encoders = {
        "model": encoder,
        "random weights": UtteranceEncoder(**encoder.config),
        "log-mel statistics": BandStatistics(),
    }
    parts = read_recordings(options.valid), read_recordings(options.test)
    figures = {name: measure(each, *parts) for name, each in encoders.items()}
    path = options.output_folder / "metrics.json"
    write_metrics(path, figures, seed=SEED, manifests=[], start_time=began)
    columns = ("test", "number_given", "shuffled", "one_speaker")
    print("DER, %", *columns, sep="\t")
    for name, row in figures.items():
        print(name, *(f"{100 * row[column]['rate']:.1f}" for column in columns), sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
