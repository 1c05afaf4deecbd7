"""Targets that are made while training: a teacher by moving average, with a codebook a layer.

The teacher is a moving average of the encoder that is trained. The outputs of its last layers are
clustered online, each layer with a codebook of its own, and the encoder learns to tell the codes of
the frames that it does not see.

References
----------
Liu et al., DinoSR: Self-Distillation and Online Clustering, arXiv 2305.10005 (equations 2 to 5).
Poli et al., SpidR: Learning Fast and Stable Linguistic Units, arXiv 2512.20308 (heads on the layers
themselves, the teacher's schedule).
Zeghidour et al., SoundStream, arXiv 2107.03312 (section III-C, codes that die are replaced).
"""

import math

import torch
from torch import nn

from lobes.distributed import all_reduce_sum
from lobes.methods.base import move_average, teacher_of
from lobes.signal import frame_lengths, masked_mean_std, valid_samples

FROZEN = 1e-7  # A teacher that moves by less a step stands still (arXiv 2512.20308).
DEAD_SHARE = 0.01  # of the frames that each code would have if all had as many


class MovingTeacher(nn.Module):
    """A copy of a frame encoder that follows it as an exponential moving average.

    It is always in evaluation mode, and none of its parameters has a gradient.

    Arguments
    ---------
    encoder : FrameEncoder
        What it starts as a copy of.
    num_layers : int
        How many of its last layers give states.

    Raises
    ------
    ValueError
        Where the encoder has fewer layers.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=3, nhead=4, d_ffn=64)
    >>> teacher = MovingTeacher(encoder, num_layers=2)
    >>> states = teacher(torch.randn(2, 16000))
    >>> len(states), states[0].shape
    (2, torch.Size([2, 49, 32]))
    """

    def __init__(self, encoder, num_layers):
        super().__init__()
        most = encoder.config["num_layers"]
        if not 1 <= num_layers <= most:
            raise ValueError(
                f"{num_layers} layers with a codebook (num_codebooks): the encoder has {most}, "
                f"so expected 1 to {most}"
            )
        self.num_layers = num_layers
        self.encoder = teacher_of(encoder)
        self.train()

    def train(self, mode=True):
        """Stay in evaluation mode: nothing drops out of the teacher."""
        return super().train(False)

    def compile(self, **options):
        """Compile the encoder's parts, see `FrameEncoder.compile`."""
        self.encoder.compile(**options)

    def follow(self, encoder, decay):
        """Move every parameter to `decay` of its own value plus the rest of the encoder's.

        Arguments
        ---------
        encoder : FrameEncoder
            Of the same architecture.
        decay : float
            In [0, 1]: 0 copies the encoder, 1 leaves the teacher as it is.
        """
        if decay < 1:
            move_average(self.encoder, encoder, decay)

    @torch.no_grad()
    def forward(self, wavs, wav_lens=None):
        """Return the outputs of the last layers for whole utterances, without masks.

        Each dimension has mean 0 and deviation 1 over the utterance's own frames.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), 16 kHz, in [-1, 1].
        wav_lens : torch.Tensor, optional
            Shape (batch,), relative lengths in (0, 1]; None if all are full.

        Returns
        -------
        list of torch.Tensor
            Shape (batch, frames, d_model) each, float32; arbitrary but finite where padded.
        """
        _, hidden = self.encoder(wavs, wav_lens, output_hidden_states=True)
        valid = frame_lengths(valid_samples(wavs, wav_lens)).valid
        return [normalise_over_time(x, valid) for x in hidden[-self.num_layers :]]


def teacher_decay(progress, start, timescale):
    """Return how much of itself a teacher keeps in a step (arXiv 2512.20308).

    The distance from 1 falls exponentially, from that of `start`, until the teacher stands still.

    Arguments
    ---------
    progress : float
        Share of the run that is done, in [0, 1].
    start : float
        At the beginning of the run, in [0, 1].
    timescale : float
        Share of the run in which the distance from 1 falls by the factor e.

    Returns
    -------
    float
        In [0, 1].

    Example
    -------
    >>> [round(teacher_decay(share, 0.999, 0.05), 6) for share in (0.0, 0.05, 0.1, 0.5)]
    [0.999, 0.999632, 0.999865, 1.0]
    """
    rate = (1 - start) * math.exp(-progress / timescale)
    return 1 - rate if rate > FROZEN else 1.0


def normalise_over_time(x, valid=None):
    """Give each dimension mean 0 and deviation 1 over each row's valid frames.

    Arguments
    ---------
    x : torch.Tensor
        Shape (batch, frames, dim); finite where padded.
    valid : torch.Tensor, optional
        Shape (batch, frames), bool, False at padded frames; None for all.

    Returns
    -------
    torch.Tensor
        Of the same shape, float32. What does not vary is 0.

    Example
    -------
    >>> valid = torch.tensor([[True, True, False]])
    >>> x = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> normalise_over_time(x, valid).flatten().round().tolist()  # some CPUs are 1e-7 off
    [-1.0, 1.0, 7.0]
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        mean, deviation = masked_mean_std(x.transpose(1, 2), valid)
        return (x - mean[:, None]) / deviation[:, None]


class Codebooks(nn.Module):
    """Codebooks that follow the states of frames, each those of one layer (arXiv 2305.10005).

    A code is the moving average of the states that it is the nearest to. Codes that hardly any
    frame takes are replaced by states of frames. So it is in the first batch with all codes that no
    frame was near to: what they were before is of no concern.

    Arguments
    ---------
    num_codebooks : int
        Layers.
    num_codes : int
        Codes of each.
    d_model : int
        Size of a state.
    decay : float
        Share of the past in the moving averages, in [0, 1).

    Attributes
    ----------
    codes : torch.Tensor
        Shape (num_codebooks, num_codes, d_model).
    counts : torch.Tensor
        Shape (num_codebooks, num_codes), moving averages of the frames of each code in a batch.

    Raises
    ------
    ValueError
        Where the decay is not in [0, 1).

    Example
    -------
    >>> codebooks = Codebooks(num_codebooks=2, num_codes=8, d_model=16)
    >>> states = torch.randn(2, 100, 16)
    >>> codes = codebooks(states)
    >>> codebooks.update(states, codes)
    >>> codes.shape
    torch.Size([2, 100])
    """

    def __init__(self, num_codebooks, num_codes, d_model, decay=0.9):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"codebook_decay is {decay}: expected a number from 0, below 1")
        self.decay = decay
        self.register_buffer("codes", torch.randn(num_codebooks, num_codes, d_model))
        self.register_buffer("counts", torch.zeros(num_codebooks, num_codes))

    def forward(self, states):
        """Return the nearest code of each state, by the Euclidean distance.

        Arguments
        ---------
        states : torch.Tensor
            Shape (num_codebooks, n, d_model).

        Returns
        -------
        torch.Tensor
            Shape (num_codebooks, n), int64 in [0, num_codes).
        """
        with torch.autocast(states.device.type, enabled=False):
            # ||state||^2 is the same for every code.
            lengths = self.codes.square().sum(-1)[:, None]
            products = states.float() @ self.codes.transpose(1, 2)
            return (lengths - 2 * products).argmin(-1)

    @torch.no_grad()
    def update(self, states, codes):
        """Move the codes towards the states of their frames, of all ranks (eq. 3 to 5).

        Arguments
        ---------
        states : torch.Tensor
            Shape (num_codebooks, n, d_model), float32; n may differ from rank to rank.
        codes : torch.Tensor
            Shape (num_codebooks, n), as `forward` returns them.
        """
        # A product, for it adds up in the same order every time.
        numbers = torch.arange(self.codes.shape[1], device=codes.device)
        members = (codes[..., None] == numbers).to(states.dtype)
        ones = states.new_ones(*states.shape[:2], 1)
        sums = all_reduce_sum(members.transpose(1, 2) @ torch.cat([ones, states], dim=2))
        counts, sums = sums[..., 0], sums[..., 1:]
        before = self.decay * self.counts
        after = before + (1 - self.decay) * counts
        moved = before[..., None] * self.codes + (1 - self.decay) * sums
        moved = moved / after[..., None].clamp(min=torch.finfo(after.dtype).tiny)
        self.codes.copy_(torch.where(counts[..., None] > 0, moved, self.codes))
        self.counts.copy_(after)

    @torch.no_grad()
    def revive(self, states, frames):
        """Replace the codes of hardly any frame.

        Arguments
        ---------
        states : torch.Tensor
            Shape (num_codebooks, num_codes, d_model), what a code that is dead becomes: states of
            frames drawn at random, the same on all ranks.
        frames : int
            How many the batch has on all ranks.

        Returns
        -------
        torch.Tensor
            Scalar, how many codes were dead: below 1 % of the frames of an even share.
        """
        share = frames / self.codes.shape[1]
        dead = self.counts < DEAD_SHARE * share
        self.codes.copy_(torch.where(dead[..., None], states, self.codes))
        self.counts.copy_(self.counts.masked_fill(dead, share))
        return dead.sum()


class LayerHeads(nn.Module):
    """A linear head for each codebook.

    Arguments
    ---------
    num_codebooks : int
        Heads.
    num_codes : int
        Codes that each predicts.
    d_model : int
        Size of a state.

    Example
    -------
    >>> LayerHeads(num_codebooks=2, num_codes=8, d_model=16)(torch.randn(2, 100, 16)).shape
    torch.Size([2, 100, 8])
    """

    def __init__(self, num_codebooks, num_codes, d_model):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(d_model, num_codes) for _ in range(num_codebooks))

    def forward(self, states):
        """Map states (num_codebooks, n, d_model) to logits (num_codebooks, n, num_codes)."""
        return torch.stack([head(x) for head, x in zip(self.heads, states, strict=True)])
