"""Moments of frames and embeddings: what is changed in closed form is fitted on these."""

from typing import NamedTuple

import torch
from tqdm import tqdm

from pretrained.audio import read_speech


class Moments(NamedTuple):
    """Sums over frames and utterances. All are float64, on the CPU.

    Attributes
    ----------
    mean : torch.Tensor
        Of all frames, shape (d_model,).
    covariance : torch.Tensor
        Of all frames, shape (d_model, d_model).
    means : torch.Tensor
        Of each utterance's frames, shape (utterances, d_model).
    embeddings : torch.Tensor
        Shape (utterances, E).
    lens : torch.Tensor
        Shape (utterances,), int64, each utterance's frames.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    means: torch.Tensor
    embeddings: torch.Tensor
    lens: torch.Tensor


@torch.no_grad()
def moments_of_rows(frame_encoder, utterance_encoder, rows):
    """Return the `Moments` of utterances of files, one after another, in this process.

    Arguments
    ---------
    frame_encoder : FrameEncoder
    utterance_encoder : UtteranceEncoder
        Both in evaluation mode.
    rows : list of dict
        `wav`, a path.

    Returns
    -------
    Moments
        Means, embeddings and lengths in the order of the rows.
    """
    bar = tqdm(rows, desc="Moments", dynamic_ncols=True, delay=5)
    signals = ((read_speech(row["wav"])[None], None) for row in bar)
    return _moments_of([sums_of(frame_encoder, utterance_encoder, signals)])


def _moments_of(parts):
    """Return the `Moments` of what `sums_of` gives of parts."""
    squares = sum(part["squares"] for part in parts)
    sums, lens, embeddings = (
        torch.cat([part[name] for part in parts]) for name in ("sums", "lens", "embeddings")
    )
    mean = sums.sum(0) / lens.sum()
    covariance = squares / lens.sum() - mean[:, None] * mean
    return Moments(mean, covariance, sums / lens[:, None], embeddings.double(), lens)


def sums_of(frame_encoder, utterance_encoder, signals):
    """Return the sums that `Moments` are made of, over some batches.

    Arguments
    ---------
    frame_encoder : FrameEncoder
    utterance_encoder : UtteranceEncoder
    signals : iterable of tuple
        Waveforms and relative lengths, as the encoders take them, on the CPU.

    Returns
    -------
    dict
        Of each utterance `sums` and `lens` of its frames and `embeddings`; of all frames `squares`.
        Sums are in float64, and so on the CPU: not every device has it.
    """
    device = next(frame_encoder.parameters()).device
    found, squares = [], 0
    for wavs, wav_lens in signals:
        lens = frame_encoder.frame_lens(wavs, wav_lens)
        wavs = wavs.to(device)
        frames = frame_encoder(wavs, wav_lens).cpu().double()  # 0 where padded
        squares = squares + frames.flatten(0, 1).T @ frames.flatten(0, 1)
        found.append((frames.sum(1), lens, utterance_encoder(wavs, wav_lens).cpu()))
    sums, lens, embeddings = (torch.cat(column) for column in zip(*found, strict=True))
    return {"sums": sums, "lens": lens, "embeddings": embeddings, "squares": squares}
