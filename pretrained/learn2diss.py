"""Exported encoders in use: waveforms or audio files in, frames and embeddings out."""

import itertools
from typing import NamedTuple

import numpy as np
import torch

from lobes.signal import check_long_enough, valid_samples
from pretrained.deployment.streaming import StreamEncoder
from pretrained.exported import load_model
from pretrained.windows import encode_windows, read_windows

FULL_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31}  # of integer samples


class Encoding(NamedTuple):
    """What the encoders make of a batch. What a missing encoder would make is None.

    Attributes
    ----------
    frames : torch.Tensor or None
        Shape (batch, frames, d_model), 50 Hz, zero where padded.
    frame_lens : torch.Tensor or None
        Shape (batch,), int64, valid frames of each row.
    utterance : torch.Tensor or None
        Shape (batch, E).
    hidden_states : list of torch.Tensor or None
        The input of the first layer and the output of every layer, (batch, frames, d_model) each;
        None where they were not asked for.
    """

    frames: torch.Tensor | None
    frame_lens: torch.Tensor | None
    utterance: torch.Tensor | None
    hidden_states: list | None = None


class Learn2Diss:
    """The frame encoder and the utterance encoder of an exported model, for inference.

    Arguments
    ---------
    encoders : dict
        `frame_encoder`, `utterance_encoder` or both; the missing one is None.
    device : str or torch.device
        Where to encode.
    compile : bool
        Whether the encoders are compiled, at the first batch: of use where many follow.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> from pretrained.exported import save_model
    >>> frame_encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
    >>> utterance_encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=24)
    >>> folder = getfixture("tmp_path") / "model"
    >>> encoders = {"frame_encoder": frame_encoder, "utterance_encoder": utterance_encoder}
    >>> save_model(folder, encoders)
    >>> model = Learn2Diss.from_pretrained(folder)
    >>> encoding = model.encode(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> encoding.frames.shape, encoding.frame_lens.tolist(), encoding.utterance.shape
    (torch.Size([2, 49, 32]), [49, 24], torch.Size([2, 24]))
    """

    def __init__(self, encoders, device="cpu", compile=False):
        self.device = torch.device(device)
        self.frame_encoder = encoders.get("frame_encoder")
        self.utterance_encoder = encoders.get("utterance_encoder")
        for encoder in encoders.values():
            encoder.to(self.device).eval()
            if compile:
                encoder.compile()

    @classmethod
    def from_pretrained(cls, model, device="cpu", compile=False, revision=None):
        """Load an exported model; see `pretrained.exported.load_model`, and for what it raises.

        Arguments
        ---------
        model : str or Path
            A folder as a recipe leaves it in `<output_folder>/model`, or the name of such a model
            on the Hub, "organisation/name".
        device : str or torch.device
            Where to encode.
        compile : bool
            Whether the encoders are compiled.
        revision : str, optional
            A branch, a tag or a commit of a model on the Hub.

        Returns
        -------
        Learn2Diss
        """
        return cls(load_model(model, revision), device, compile)

    @torch.no_grad()
    def encode(self, wavs, wav_lens=None, output_hidden_states=False):
        """Encode a batch of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor, array_like or list of these
            At 16 kHz: a batch (batch, samples), one clip (samples,), or a list of clips, each
            (samples,) or (channels, samples), whose lengths may differ; channels are averaged.
            Floating point in [-1, 1] of any precision, or int16 or int32, which are scaled to it.
        wav_lens : torch.Tensor or array_like, optional
            Shape (batch,), relative lengths in (0, 1]; None if all are full. A list of clips has
            lengths of its own.
        output_hidden_states : bool
            Whether to return the frame encoder's hidden states too.

        Returns
        -------
        Encoding
            On the model's device.

        Raises
        ------
        TypeError
            Where `wavs` or `wav_lens` is of another type.
        ValueError
            Where a shape or a length does not fit, or a row holds NaN or infinity or is shorter
            than one frame.
        """
        wavs, wav_lens = make_batch(wavs, wav_lens)
        _check_batch(wavs, wav_lens)
        wavs = wavs.to(self.device)
        frames = frame_lens = hidden = utterance = None
        if self.frame_encoder is not None:
            frames, hidden = self.frame_encoder(wavs, wav_lens, output_hidden_states=True)
            frame_lens = self.frame_encoder.frame_lens(wavs, wav_lens)
        if self.utterance_encoder is not None:
            utterance = self.utterance_encoder(wavs, wav_lens)
        return Encoding(frames, frame_lens, utterance, hidden if output_hidden_states else None)

    @torch.no_grad()
    def encode_file(self, path):
        """Encode an audio file of any rate, number of channels and length.

        Up to 30 s give exactly what `encode` gives. Longer files are encoded in windows of 30 s,
        as `pretrained.windows` tells, on the same grid of frames; an hour takes the memory of its
        frames and of its log-mel bands, some 60 MB, beside that of one window.

        Arguments
        ---------
        path : str, Path or file object
            Of a format that soundfile reads: WAV, FLAC, OGG, MP3, AIFF and others; a file object is
            opened in binary mode.

        Returns
        -------
        Encoding
            A batch of one, on the model's device, without hidden states.

        Raises
        ------
        FileNotFoundError
            Where there is no such file.
        pretrained.audio.AudioError
            A ValueError: where the file cannot be used, as `pretrained.audio.read_blocks` tells.
        """
        whole, windows = read_windows(path, self.device)
        if whole is not None:
            return self.encode(whole)
        frames, utterance = encode_windows(self.frame_encoder, self.utterance_encoder, windows)
        lens = None if frames is None else torch.tensor([frames.shape[1]], device=self.device)
        return Encoding(frames, lens, utterance)

    def stream(self, blocks, look_ahead=0.32, step=0.32, context=8.0):
        """Encode audio as it comes in; `pretrained.deployment.streaming` tells how.

        Each step's frames are what `encode` gives of a window around it. The embedding is that of
        all up to the step's end: `encode`'s for the first `context` seconds, and close to it
        later.

        Arguments
        ---------
        blocks : iterable of torch.Tensor or array_like
            Shape (samples,) each, of any lengths, 16 kHz, of the types that `encode` takes.
        look_ahead : float
            Seconds after a step that its frames see. More come nearer to those of the whole
            recording, and later.
        step : float
            Seconds of frames at a time. Each step encodes a whole window.
        context : float
            Seconds before a step that its frames see, and of which the embedding holds all.

        Returns
        -------
        generator of pretrained.deployment.streaming.StreamStep
            As soon as a step's samples are there; the last, which may be without frames, at the
            end of the blocks. Tensors on the model's device, times on the CPU.

        Raises
        ------
        ValueError
            Where a time is less than a frame, 0.02 s; at a block that is not (samples,) or holds
            NaN or infinity; at the end of a stream shorter than 25 ms.
        TypeError
            At a block of another type.

        Example
        -------
        >>> from lobes.frame_encoder import FrameEncoder
        >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
        >>> model = Learn2Diss({"frame_encoder": encoder})
        >>> blocks = (np.random.default_rng(n).normal(size=1000) for n in range(16))
        >>> [step.frames.shape[1] for step in model.stream(blocks)]
        [16, 16, 17]
        """
        sizes = {"look_ahead": look_ahead, "step": step, "context": context}
        encoder = StreamEncoder(self.frame_encoder, self.utterance_encoder, **sizes)
        return encoder.encode(map(_block, itertools.count(), blocks), self.device)


def _block(number, samples):
    """Return a block of a stream as float32 samples on the CPU."""
    block = _samples(_tensor(samples, "a block")).cpu()
    if block.ndim != 1:
        raise ValueError(
            f"block {number} must be (samples,), one channel, not of shape {tuple(block.shape)}"
        )
    if not bool(block.isfinite().all()):
        raise ValueError(f"block {number} holds NaN or infinity; leave it out")
    return block


def make_batch(wavs, wav_lens=None):
    """Return waveforms as a padded batch, and its relative lengths; see `Learn2Diss.encode`.

    Returns
    -------
    wavs : torch.Tensor
        Shape (batch, samples), float32.
    wav_lens : torch.Tensor or None
        Shape (batch,), float32.

    Example
    -------
    >>> wavs, wav_lens = make_batch([torch.ones(8), np.full((2, 4), 2**14, np.int16)])
    >>> wavs[1].tolist(), wav_lens.tolist()
    ([0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0], [1.0, 0.5])
    """
    if wav_lens is not None:
        wav_lens = torch.as_tensor(_tensor(wav_lens, "wav_lens"), dtype=torch.float32)
    if not (isinstance(wavs, (list, tuple)) and len(wavs) and np.ndim(wavs[0]) > 0):
        wavs = _samples(_tensor(wavs, "wavs"))
        return (wavs[None] if wavs.ndim == 1 else wavs), wav_lens
    if wav_lens is not None:
        raise ValueError("wav_lens must be None for a list of clips, which have their own lengths")
    clips = [_mono(_samples(_tensor(clip, "wavs")), place) for place, clip in enumerate(wavs)]
    lens = torch.tensor([len(clip) for clip in clips])
    return torch.nn.utils.rnn.pad_sequence(clips, True), lens / lens.max()


def _tensor(value, name):
    """Return a tensor or an array as a tensor; a TypeError names what cannot be one."""
    hidden = isinstance(value, np.ma.MaskedArray)  # its mask would be forgotten
    try:
        if isinstance(value, np.ndarray) and not hidden:  # of any byte order and strides
            precise = value.dtype == np.longdouble
            order = np.float64 if precise else value.dtype.newbyteorder("=")
            value = np.require(value, order, ["C", "W"])
        found = torch.as_tensor(value)
        if hidden or found.layout != torch.strided or found.is_meta:
            raise TypeError("no samples that can be read")
        return found
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a tensor, an array or a list of these, not {type(value).__name__}"
        ) from error


def _samples(values):
    """Return samples of any type that is meant as float32 in [-1, 1]."""
    if values.dtype in FULL_SCALE:
        return values.float() / FULL_SCALE[values.dtype]
    if not values.is_floating_point():
        raise TypeError(f"wavs must be floating point, int16 or int32, not {values.dtype}")
    return values.float()


def _mono(clip, place):
    if clip.ndim > 2 or clip.numel() == 0:
        raise ValueError(
            f"clip {place} of wavs must be (samples,) or (channels, samples), not of shape "
            f"{tuple(clip.shape)}"
        )
    return clip.mean(0) if clip.ndim == 2 else clip


def _check_batch(wavs, wav_lens):
    samples = valid_samples(wavs, wav_lens)
    check_long_enough(samples)
    for row, (wav, length) in enumerate(zip(wavs, samples.counts, strict=True)):
        if not bool(wav[:length].isfinite().all()):
            raise ValueError(f"row {row} of wavs holds NaN or infinity; leave it out")
