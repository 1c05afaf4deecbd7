"""What tests of exported models share: small modules, tones that a head hears, bad audio."""

import numpy as np
import soundfile
import torch

from lobes.frame_encoder import FrameEncoder
from lobes.heads import CTCHead
from lobes.states import FbankStates
from lobes.tdnn import MaskedBatchNorm1d
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.exported import save_model
from pretrained.tokenizers import SymbolTokenizer

RATE = 16000


SIZES = {"conv_channels": 32, "d_model": 32, "num_layers": 2, "nhead": 4, "d_ffn": 64}
SIZES |= {"pos_conv_kernel": 16, "pos_conv_groups": 4}


LETTERS = SymbolTokenizer(["A", "B"])


LETTERS_FACTS = {"features": "fbank", "tokenizer": LETTERS.to_config()}


RUN = {  # what a model card tells of it
    "corpus": "LibriSpeech",
    "splits": [
        {"split": "train-clean-100", "hours": 100.589, "utterances": 28539, "speakers": 251},
        {"split": "dev-clean", "hours": 5.388, "utterances": 2703, "speakers": None},
    ],
    "file": "recipes/LibriSpeech/pretrain/hparams/joint_tiny.yaml",
    "settings": {"lr": 0.0005, "train_splits": ["train-clean-100"], "frame_weights": "(a path)"},
}


PLAIN = {"scoring": "plain", "threshold": 0.5, "threshold_set_on": "trials of dev-clean"}


TONES = {"A": 500, "B": 1500, " ": None}  # Hz


BAD_AUDIO = {
    "empty": "too short: 0.0000 s, and one frame takes 0.025 s",
    "short": "too short: 0.0200 s, and one frame takes 0.025 s",
    "zeros": "silent: every sample is zero",
    "nan": "NaN or infinity, first at 0.500 s",
    "text": "cannot be decoded as audio: Format not recognised",
    "rate": "sampling rate is 900 Hz, expected 1000 to 768000 Hz",
    "missing": "is not a file",
}


def seeded(kind, *args, seed=0, **kwargs):
    """Build a module, noise added to every parameter: none is trivially zero or one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = kind(*args, **kwargs)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return module.eval()


def frame_encoder(frontend="fbank", seed=0, **changes):
    return seeded(FrameEncoder, frontend, seed=seed, **(SIZES | changes))


def utterance_encoder(backbone="tdnn", seed=0):
    sizes = {"channels": 16, "embedding_dim": 12, "attention_channels": 8, "se_channels": 8}
    encoder = seeded(UtteranceEncoder, backbone, res2net_scale=4, seed=seed, **sizes)
    generator = torch.Generator().manual_seed(seed)
    for norm in encoder.modules():
        if isinstance(norm, MaskedBatchNorm1d):
            norm.running_mean.normal_(0.0, 0.2, generator=generator)
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
    return encoder


def modules_of(features, **heads):
    encoders = {"frame_encoder": frame_encoder, "utterance_encoder": utterance_encoder}
    return {name: make() for name, make in encoders.items() if name == features} | heads


def written(path, samples, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return path


def saved(folder, modules, facts):
    save_model(folder, modules, facts)
    return folder


def tones(text, rate=RATE):
    """Return 0.2 s of a tone for each letter, of faint noise for a space."""
    time = np.arange(int(0.2 * rate)) / rate
    clean = [np.sin(2 * np.pi * (TONES[c] or 0) * time) for c in text]
    noise = np.random.default_rng(0).normal(0, 1e-3, len(text) * len(time))
    return 0.3 * np.concatenate(clean) + noise


def tone_head():
    """Return a head that sums the two loudest bands of each tone, where they stand out."""
    head = CTCHead(num_symbols=3, hidden_dim=2).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        for row, letter in enumerate("AB"):
            states, _ = FbankStates()(torch.from_numpy(tones(letter)).float()[None])
            head.projection.weight[row, states[0, 5, 0, :80].topk(2).indices] = 0.5
            head.output.weight[1 + row, row] = 1.0
        head.output.bias[0] = 1.5  # deviations above the mean: quieter is blank
    return head


def wavs_of(samples=16000):
    return 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(2))
