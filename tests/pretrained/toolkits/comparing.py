#!/usr/bin/env python3
"""How far other toolkits' hidden states are from ours, of an export that each of them loads.

    python -m tests.pretrained.toolkits.comparing                # writes the table of the README
    python -m tests.pretrained.toolkits.comparing --size tiny    # prints it

Three made-up voices of unequal length, weights at random. Each is encoded alone by our encoder; the
toolkit gets it alone, and then all as a padded batch, whose padded frames do not count. Writes
results/toolkits/metrics.json and the table in pretrained/toolkits/README.md.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torchaudio
import transformers
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.fetching import FetchConfig, LocalStrategy
from torch.nn.utils.rnn import pad_sequence

from lobes.frame_encoder import FrameEncoder
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.exported import save_model
from pretrained.interfaces import Learn2DissInterface
from pretrained.toolkits.layouts import to_huggingface, to_speechbrain, to_torchaudio
from recipes.common.training.record import write_metrics
from recipes.experiments.readmes import markdown_table, write_between
from tests.pretrained.exports import frame_encoder, seeded, utterance_encoder
from tests.voices import voice

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "pretrained" / "toolkits" / "README.md"
OFFLINE = {"fetch_config": FetchConfig(allow_network=False), "local_strategy": LocalStrategy.COPY}
SECONDS = (2.0, 1.3, 0.6)
ERASED = 8  # directions


@dataclass
class Row:
    """A way to load an export.

    Arguments
    ---------
    toolkit : str
        Its distribution, whose version is told.
    how : str
        The toolkit's class or function.
    load : callable
        Takes the encoders and a new folder; returns a function that maps a list of waveforms to a
        list of hidden states, (batch, frames, size) each.
    ours : callable
        Picks from our hidden states those that the toolkit gives.
    attention : str
        Of the frame encoder.
    pads : bool
        Whether the toolkit takes lengths or a mask, and so padded batches.
    """

    toolkit: str
    how: str
    load: Callable
    ours: Callable = list
    attention: str = "hubert"
    pads: bool = True


def load_transformers(encoders, folder):
    """Load the export by the auto classes, the extractor making batch and mask."""
    to_huggingface(encoders, folder, changes_apart=True)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()

    def encode(wavs):
        arrays = [wav.numpy() for wav in wavs]
        given = extractor(arrays, sampling_rate=16000, padding=True, return_tensors="pt")
        return model(**given, output_hidden_states=True).hidden_states

    return encode


def load_torchaudio(encoders, folder):
    """Load the export as its config.json says, which gives each layer's output."""
    to_torchaudio(encoders, folder, changes_apart=True)
    config = json.loads((folder / "config.json").read_text())
    model = getattr(torchaudio.models, config["function"])(**config["arguments"]).eval()
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))

    def encode(wavs):
        lens = torch.tensor([len(wav) for wav in wavs]) if len(wavs) > 1 else None
        return model.extract_features(pad_sequence(wavs, batch_first=True), lens)[0]

    return encode


def load_interface(encoders, folder):
    """Load the export by SpeechBrain's from_hparams."""
    to_speechbrain(encoders, None, folder / "model")
    model = Learn2DissInterface.from_hparams(
        source=str(folder / "model"), savedir=str(folder / "collected"), **OFFLINE
    )
    return lambda wavs: model.encode_batch(*padded(wavs), output_hidden_states=True).hidden_states


def load_yaml(export, kind):
    """Return what loads an export into the module of a kind, by a YAML snippet of the README."""

    def load(encoders, folder):
        export(encoders, folder / "model")
        built = load_hyperpyyaml(snippet(kind), {"ssl_hub": str(folder / "model")})
        [module] = [value.eval() for value in built.values() if isinstance(value, torch.nn.Module)]

        def encode(wavs):
            states = module(*padded(wavs))
            return states if states.ndim == 4 else [states]

        return encode

    return load


def snippet(kind):
    """Return the YAML of the README that builds a module of a kind."""
    blocks = PAGE.read_text(encoding="utf-8").split("```yaml\n")[1:]
    [found] = [text for block in blocks if kind in (text := block.partition("```")[0])]
    return found


def to_transformers(encoders, folder):
    """Export to transformers, frames before erasing."""
    to_huggingface(encoders, folder, changes_apart=True)


def to_own(encoders, folder):
    """Export as recipes do."""
    save_model(folder, encoders)


def load_s3prl_hf(encoders, folder):
    """Load the export to transformers by s3prl's own upstream for such."""
    from s3prl.upstream.hf_hubert.expert import UpstreamExpert

    to_transformers(encoders, folder)
    upstream = UpstreamExpert(str(folder)).eval()
    return lambda wavs: upstream(wavs)["hidden_states"]


def load_upstream(name):
    """Return what loads an export by torch.hub, as an upstream of s3prl."""

    def load(encoders, folder):
        to_own(encoders, folder / "model")
        upstream = torch.hub.load(str(ROOT), name, source="local", ckpt=folder / "model").eval()
        return lambda wavs: upstream(wavs)["hidden_states"]

    return load


def mean_of_layers(states):
    """Return what a weighted sum gives before it has learned."""
    return [torch.stack(states).mean(0)]


ROWS = {
    "transformers": Row("transformers", "`AutoModel` (HuBERT)", load_transformers),
    "transformers, WavLM": Row(
        "transformers", "`AutoModel` (WavLM)", load_transformers, attention="wavlm"
    ),
    "torchaudio": Row(
        "torchaudio", "`wav2vec2_model` (HuBERT)", load_torchaudio, lambda states: states[1:]
    ),
    "torchaudio, WavLM": Row(
        "torchaudio",
        "`wavlm_model`",
        load_torchaudio,
        lambda states: states[1:],
        attention="wavlm",
        pads=False,
    ),
    "SpeechBrain": Row("speechbrain", "`Learn2DissInterface.from_hparams`", load_interface),
    "SpeechBrain, HuBERT": Row(
        "speechbrain", "`integrations` `HuBERT`", load_yaml(to_transformers, "HuBERT")
    ),
    "MP3S, theirs": Row(
        "speechbrain",
        "MP3S, `WeightedSSLModel`",
        load_yaml(to_transformers, "WeightedSSLModel"),
        mean_of_layers,
    ),
    "MP3S, ours": Row(
        "speechbrain",
        "MP3S, `WeightedFrames`",
        load_yaml(to_own, "WeightedFrames"),
        mean_of_layers,
    ),
    "s3prl, hf_hubert": Row("s3prl", "`hf_hubert_custom`", load_s3prl_hf),
    "s3prl, frames": Row("s3prl", "`learn2diss_frames`", load_upstream("learn2diss_frames")),
    "s3prl, last": Row(
        "s3prl",
        "`learn2diss_last`",
        load_upstream("learn2diss_last"),
        lambda states: states[-1:],
    ),
    "s3prl, utterance": Row(
        "s3prl", "`learn2diss_utterance`", load_upstream("learn2diss_utterance"), None
    ),
}
KEEP_ERASED = ("SpeechBrain", "MP3S, ours", "s3prl, frames", "s3prl, last")


def padded(wavs):
    """Return waveforms as a batch and its relative lengths."""
    batch = pad_sequence(wavs, batch_first=True)
    return batch, torch.tensor([len(wav) / batch.shape[1] for wav in wavs])


def make_wavs():
    """Return voices of unequal length, a tensor each."""
    rng = np.random.default_rng(0)
    return [torch.from_numpy(voice(seconds, rng)).float() for seconds in SECONDS]


def make_encoders(size, attention="hubert", erased=0):
    """Return both encoders, with random weights, and with directions erased from frames."""
    if size == "tiny":
        frames, utterance = frame_encoder("waveform", attention=attention), utterance_encoder()
    else:
        frames = seeded(FrameEncoder, attention=attention)
        utterance = UtteranceEncoder().eval()
    if erased:
        erase(frames, erased)
    return {"frame_encoder": frames, "utterance_encoder": utterance}


@torch.no_grad()
def erase(encoder, directions):
    """Erase directions from an encoder's frames: those that tell most of random embeddings."""
    generator = torch.Generator().manual_seed(0)
    z = encoder(0.1 * torch.randn(40, 1600, generator=generator))
    u = torch.randn(40, directions, generator=generator)
    rows = z.flatten(0, 1)
    encoder.erase(directions, rows.mean(0), torch.cov(rows.T), z.mean(1), u)


@torch.no_grad()
def compare(row, encoders, folder):
    """Return how far a toolkit's hidden states are from ours, alone and in a padded batch.

    Each is the largest difference; `share` is that of a padded batch as a whole, its root mean
    square over that of our states, of the row that differs most. A toolkit that takes no padded
    batches has neither.
    """
    encode, wavs = row.load(encoders, folder), make_wavs()
    expected = [ours_of(row, encoders, wav) for wav in wavs]
    alone = [differences(encode([wav]), 0, y) for wav, y in zip(wavs, expected, strict=True)]
    figures = {"alone": max(most for most, _ in alone)}
    if not row.pads:
        return figures
    batch = encode(wavs)
    in_batch = [differences(batch, number, states) for number, states in enumerate(expected)]
    largest, shares = zip(*in_batch, strict=True)
    return {**figures, "padded": max(largest), "share": max(shares)}


def ours_of(row, encoders, wav):
    """Return our hidden states of one waveform, those that a row is about."""
    if row.ours is None:
        return [encoders["utterance_encoder"](wav[None])[:, None]]
    return row.ours(encoders["frame_encoder"](wav[None], output_hidden_states=True)[1])


def differences(states, number, expected):
    """Return the largest difference of a batch's row from our states of its waveform alone.

    And the root mean square of all, as a share of our states'.
    """
    theirs = torch.stack([x[number, : expected[0].shape[1]] for x in states])
    ours = torch.stack([x[0] for x in expected])
    assert theirs.shape == ours.shape and ours.std() > 0.1
    wrong = theirs - ours
    return float(wrong.abs().max()), float(wrong.norm() / ours.norm())


def measure(size):
    """Return the figures of all rows."""
    figures = {}
    for name, row in ROWS.items():
        erased = ERASED if name in KEEP_ERASED else 0
        encoders = make_encoders(size, row.attention, erased)
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = compare(row, encoders, Path(folder))
        figures[name]["version"] = version(row.toolkit)
    return figures


def table(figures):
    """Return the figures as Markdown."""
    rows = []
    for name, found in figures.items():
        row, padded = ROWS[name], ["-", "-"]
        if row.pads:
            padded = [f"{found['padded']:.1g}", f"{100 * found['share']:.1f}"]
        alone = f"{found['alone']:.1g}"
        rows.append([f"{row.toolkit} {found['version']}", row.how, alone, *padded])
    heads = ["version tested", "loaded by", "alone", "padded batch", "padded batch, %"]
    return markdown_table(heads, "llrrr", rows)


def main():
    """Measure, print the table and, at the base size, write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    size, began = parser.parse_args().size, time.time()
    figures = measure(size)
    print(table(figures))
    if size == "base":
        path = ROOT / "results" / "toolkits" / "metrics.json"
        write_metrics(path, figures, seed=0, manifests=[], start_time=began)
        write_between(PAGE, "toolkits", table(figures))


if __name__ == "__main__":
    main()
