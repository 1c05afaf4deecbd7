#!/usr/bin/env python3
"""What the delay of a stream costs: streamed frames against those of the whole recording.

    python stream_cost.py --model O/pr/model --data_folder LibriSpeech --lexicon lexicon.txt
        --output_folder O/stream

Recordings are the chapters of a split, joined, up to 30 s. For each look-ahead: the distance of
frames in the first 2 s and later; that of the embedding at the end, where the model has one; with a
model of LibriSpeech/PR, the phone error rate. Its head sees all frames of a recording.
"""

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

from lobes.signal import FRAME_RATE, SAMPLE_RATE
from lobes.states import FrameStates
from pretrained import Learn2Diss, Transcriber
from pretrained.audio import read_speech
from pretrained.deployment.streaming import cut_steps, to_frames
from pretrained.exported import load_folder
from pretrained.facts import TRANSCRIBER, kind_of
from pretrained.windows import WINDOW
from recipes.common.annotations.text import read_lexicon, transcribe_phones
from recipes.common.evaluation.metrics import error_counts
from recipes.common.training.record import write_metrics
from recipes.LibriSpeech.librispeech_prepare import list_utterances

LOOK_AHEADS = (0.16, 0.32, 0.64, 1.0, 2.0)  # seconds
STEP, CONTEXT = 0.32, 8.0
BEGINNING = 2 * FRAME_RATE  # frames, whose windows are short
SHORTEST = 3 * SAMPLE_RATE  # samples, of which there are frames later too


def join_chapters(data_folder, split, most):
    """Return recordings of up to 30 s: the samples of each, (samples,), and its words.

    Arguments
    ---------
    data_folder, split : str
        Of LibriSpeech.
    most : int
        How many recordings, of the first chapters.

    Returns
    -------
    list of tuple
    """
    chapters = defaultdict(list)
    rows, problems = list_utterances(data_folder, split)
    if problems:
        raise ValueError("\n".join(problems))
    for row in sorted(rows, key=lambda row: row["wav"]):
        chapters[Path(row["wav"]).parent].append(row)
    recordings = []
    for rows in list(chapters.values())[:most]:
        parts, words = [], []
        for row in rows:
            samples = read_speech(row["wav"])
            if sum(map(len, parts)) + len(samples) <= WINDOW:
                parts.append(samples)
                words.append(row["wrd"])
        if sum(map(len, parts)) > SHORTEST:
            recordings.append((torch.cat(parts), " ".join(words)))
    return recordings


@torch.no_grad()
def streamed_states(states, samples, look_ahead):
    """Return what a stream makes of a recording, (1, frames, layers, dim).

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64).eval()
    >>> streamed_states(FrameStates(encoder), torch.randn(32000), look_ahead=0.16).shape
    torch.Size([1, 99, 3, 32])
    """
    look_ahead, step, context = (to_frames("", s) for s in (look_ahead, STEP, CONTEXT))
    parts = [
        states(window)[0][:, lead : None if last else lead + step]
        for window, lead, last in cut_steps([samples], look_ahead, step, context)
    ]
    return torch.cat(parts, dim=1)


def distances(found, whole):
    """Return the distance of frames, (1, frames, dim) each, in the first 2 s and later.

    Returns
    -------
    dict
        `cosine`, one minus the mean cosine; `relative`, the norm of the difference by that of the
        whole's frames without their mean.
    """
    centred = whole - whole.mean(dim=1, keepdim=True)
    figures = {}
    for name, part in (("first_2_s", slice(BEGINNING)), ("later", slice(BEGINNING, None))):
        cosines = torch.cosine_similarity(found[:, part], whole[:, part], dim=2)
        difference = (found - whole)[:, part].norm() / centred[:, part].norm()
        figures[name] = {"cosine": 1 - cosines.mean().item(), "relative": difference.item()}
    return figures


def mean_of(figures):
    """Return the mean of each figure of like dicts."""
    if isinstance(figures[0], dict):
        return {key: mean_of([each[key] for each in figures]) for key in figures[0]}
    return sum(figures) / len(figures)


class Reader:
    """Phones of states, by a transcriber's head, and how many are wrong.

    Arguments
    ---------
    transcriber : Transcriber
    lexicon : dict
        As `read_lexicon` returns it.
    """

    def __init__(self, transcriber, lexicon):
        self.transcriber, self.lexicon = transcriber, lexicon

    def error_rate(self, all_states, recordings):
        """Return the phone error rate over recordings whose words the lexicon has."""
        phones, _ = transcribe_phones([words for _, words in recordings], self.lexicon)
        pairs = [(p, self._read(x)) for p, x in zip(phones, all_states, strict=True) if p]
        counts = error_counts(
            *([text.split() for text in side] for side in zip(*pairs, strict=True))
        )
        return counts["errors"] / counts["tokens"]

    @torch.no_grad()
    def _read(self, states):
        head = self.transcriber.head
        logits, _ = head.classify(head.weighted_sum(states), torch.tensor([states.shape[1]]))
        return self.transcriber.text_of(logits[0])


def measure(modules, recordings, reader=None):
    """Return the figures of each look-ahead, and the phone error rate of whole recordings.

    Arguments
    ---------
    modules : dict
        With a `frame_encoder`; with an `utterance_encoder`, its distance too.
    recordings : list of tuple
        As `join_chapters` returns them.
    reader : Reader, optional
        For phone error rates.

    Returns
    -------
    dict
    """
    states = FrameStates(modules["frame_encoder"].eval())
    with torch.no_grad():
        whole = [states(samples[None])[0] for samples, _ in recordings]
    seconds = sum(len(samples) for samples, _ in recordings) / SAMPLE_RATE
    figures = {"recordings": len(recordings), "seconds": seconds, "rows": []}
    if reader is not None:
        figures["whole_per"] = reader.error_rate(whole, recordings)
    for look_ahead in LOOK_AHEADS:
        found = [streamed_states(states, samples, look_ahead) for samples, _ in recordings]
        row = {"look_ahead": look_ahead, "most_delay": look_ahead + STEP}
        pairs = zip(found, whole, strict=True)
        row |= mean_of([distances(a[:, :, -1], b[:, :, -1]) for a, b in pairs])
        if reader is not None:
            row["per"] = reader.error_rate(found, recordings)
        if "utterance_encoder" in modules:
            row["utterance_cosine"] = embedding_distance(modules, recordings, look_ahead)
        figures["rows"].append(row)
    return figures


def embedding_distance(modules, recordings, look_ahead):
    """Return one minus the mean cosine of streams' last embeddings with whole recordings'."""
    model = Learn2Diss({"utterance_encoder": modules["utterance_encoder"]})
    cosines = []
    for samples, _ in recordings:
        *_, last = model.stream([samples], look_ahead, STEP, CONTEXT)
        whole = model.encode(samples).utterance
        cosines.append(torch.cosine_similarity(last.utterance, whole).item())
    return 1 - sum(cosines) / len(cosines)


def main(arguments=None):
    """Measure a model, print a line for each look-ahead and write metrics.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FOLDER", help="with a frame encoder")
    parser.add_argument("--data_folder", required=True, metavar="LibriSpeech")
    parser.add_argument("--split", default="test-clean")
    parser.add_argument("--recordings", type=int, default=100, help="at most")
    parser.add_argument("--lexicon", help="for the phone error rate of a model of LibriSpeech/PR")
    parser.add_argument("--output_folder", required=True, type=Path)
    options = parser.parse_args(arguments)
    began = time.time()
    modules, facts = load_folder(options.model)
    if "frame_encoder" not in modules:
        parser.error(f"{options.model} holds no frame encoder")
    reader = None
    if options.lexicon is not None:
        if kind_of(facts) != TRANSCRIBER:
            parser.error(f"{options.model} is no model of LibriSpeech/PR, which --lexicon is for")
        reader = Reader(Transcriber(modules, facts), read_lexicon(options.lexicon))
    recordings = join_chapters(options.data_folder, options.split, options.recordings)
    figures = measure(modules, recordings, reader)
    path = options.output_folder / "metrics.json"
    write_metrics(path, figures, seed=0, manifests=[], start_time=began)
    for row in figures["rows"]:
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
