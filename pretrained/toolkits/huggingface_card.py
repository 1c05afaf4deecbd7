"""The README.md of a folder in the layout of transformers: a model card with the Hub's metadata."""

from pathlib import Path

from pretrained.plain_files import write_whole
from pretrained.sharing.card_texts import NOT_FOR, PRIVACY

TEMPLATE = """---
library_name: transformers
pipeline_tag: feature-extraction
license: unknown
tags:
- speech
- self-supervised
- {attention}
- learn2diss
---

# Frame encoder of 16 kHz speech

Trained without labels by a recipe of Learn2Diss for SpeechBrain (arXiv 2407.02543), and written in
the layout of transformers: {num_layers} layers of {d_model} dimensions, 50 frames a second. The
licence of the weights, which those who trained them choose, stands in the first lines of this file.

## Load

    import soundfile, torch
    from transformers import AutoFeatureExtractor, AutoModel

    extractor = AutoFeatureExtractor.from_pretrained("<this folder>")
    model = AutoModel.from_pretrained("<this folder>").eval()
    wav, rate = soundfile.read("speech.wav", dtype="float32")  # (samples,), 16000
    inputs = extractor(wav, sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
{frames}
`preprocessor_config.json` has waveforms taken as they are: do not normalise them.

## Batches

Encode files one by one, or batches of one length. transformers normalises the first convolution's
output over a row's padding too, attention mask or not, so that a shorter row of a padded batch gets
other frames than alone; Learn2Diss itself gives a row the same frames in every batch.

## What it is not for

{not_for}

## Voices and privacy

{privacy}

The card of the folder that this one was written from tells more: data, training, figures, limits.
"""
PLAIN = """    frames = output.last_hidden_state
"""
APART = """
Learn2Diss changes frames after the last layer, for which transformers' model has no place: **its
last layer is not what Learn2Diss gives**. These lines make it so, to rounding:

    frames = output.last_hidden_state
"""
NORMS = {
    "none": "",
    "mean": """    frames = frames - frames.mean(1, keepdim=True)  # of files of one length
""",
    "mean_std": """    frames = frames - frames.mean(1, keepdim=True)  # of files of one length
    frames = frames / (frames.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
""",
}
ERASED = """    from safetensors.torch import load_file

    erasure = load_file("<this folder>/erasure.safetensors")  # of {erased_directions} directions
    frames = torch.nn.functional.linear(frames, **erasure)
"""


def write_huggingface_card(folder, encoder):
    """Write the model card of a frame encoder in the layout of transformers.

    Arguments
    ---------
    folder : str or Path
        As `pretrained.toolkits.layouts.to_huggingface` writes it.
    encoder : FrameEncoder

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> encoder = FrameEncoder(conv_channels=32, d_model=32, num_layers=1, nhead=4, d_ffn=64)
    >>> folder = getfixture("tmp_path")
    >>> write_huggingface_card(folder, encoder)
    >>> (folder / "README.md").read_text().splitlines()[1]
    'library_name: transformers'
    """
    changes = NORMS[encoder.config["frame_norm"]]
    if encoder.erasure is not None:
        changes += ERASED.format(**encoder.config)
    frames = APART + changes if changes else PLAIN
    text = TEMPLATE.format(**encoder.config, frames=frames, not_for=NOT_FOR, privacy=PRIVACY)
    write_whole(Path(folder) / "README.md", text.encode())
