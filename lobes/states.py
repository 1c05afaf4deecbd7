"""What a head is trained on: the states of an utterance, frame by frame and layer by layer.

Each module here maps waveforms to states of shape (batch, frames, layers, dim) and the number of
valid frames of each row, whatever they are made of: all hidden states of a frame encoder, the one
embedding of an utterance encoder, or log-mel bands, the baseline. So one head fits them all.
"""

import torch
from torch import nn

from lobes.signal import NUM_MELS, length_mask, masked_mean_std, valid_samples
from lobes.utterance_encoder import LogMel

ORDERS = 3  # log-mel bands and their first and second differences
SLOPE = (-0.2, -0.1, 0.0, 0.1, 0.2)  # the regression over five frames
SKIP = 2  # of frames of 10 ms, for the frame encoder's 50 Hz


class FrameStates(nn.Module):
    """All hidden states of a frame encoder: the input of its first layer and each layer's output.

    The last are the frames that the encoder gives out, normalised where it has a `frame_norm`.

    Arguments
    ---------
    encoder : FrameEncoder

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
    >>> states, lens = FrameStates(encoder)(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> states.shape, lens.tolist()
    (torch.Size([2, 49, 3, 32]), [49, 24])
    """

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.num_layers = encoder.config["num_layers"] + 1
        self.dim = encoder.config["d_model"]

    def forward(self, wavs, wav_lens=None):
        """Return states and lengths.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), 16 kHz, in [-1, 1].
        wav_lens : torch.Tensor, optional
            Shape (batch,), relative lengths in (0, 1]; None if all are full.

        Returns
        -------
        tuple of torch.Tensor
            States (batch, frames, num_layers, dim), zero where padded; valid frames of each row,
            (batch,), int64.
        """
        _, hidden = self.encoder(wavs, wav_lens, output_hidden_states=True)
        return torch.stack(hidden, dim=2), self.encoder.frame_lens(wavs, wav_lens)


class UtteranceStates(nn.Module):
    """The embedding of an utterance encoder, as one frame of one layer.

    Its length is made that of a vector of unit elements: cosines stay what they are, and a head's
    learning rate does not depend on the scale that contrastive training happened to leave.

    Arguments
    ---------
    encoder : UtteranceEncoder

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=24)
    >>> states, lens = UtteranceStates(encoder)(torch.randn(2, 16000))
    >>> states.shape, lens.tolist(), round(states[0].square().mean().item(), 3)
    (torch.Size([2, 1, 1, 24]), [1, 1], 1.0)
    """

    num_layers = 1

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.dim = encoder.config["embedding_dim"]

    def forward(self, wavs, wav_lens=None):
        """Return states (batch, 1, 1, dim) and lengths; see `FrameStates.forward`."""
        return self.from_embeddings(self.encoder(wavs, wav_lens))

    def from_embeddings(self, embeddings):
        """Return states (batch, 1, 1, dim) and lengths of embeddings (batch, dim)."""
        scaled = nn.functional.normalize(embeddings.float(), dim=1) * self.dim**0.5
        lens = torch.ones(scaled.shape[0], dtype=torch.long, device=scaled.device)
        return scaled[:, None, None], lens


class FbankStates(nn.Module):
    """80 log-mel bands with first and second differences, as one layer at 50 Hz: the baseline.

    The bands of 10 ms frames lose the utterance's level, one mean over all bands and frames, and
    keep the long-term spectrum, of voice and channel. Differences are the slopes over five frames.
    Each of the three is divided by its own root mean square over the utterance, and every second
    frame is taken.

    Example
    -------
    >>> states, lens = FbankStates()(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> states.shape, lens.tolist()
    (torch.Size([2, 51, 1, 240]), [51, 26])
    """

    num_layers = 1
    dim = ORDERS * NUM_MELS

    def __init__(self):
        super().__init__()
        self.features = LogMel(hop=160, centre_bands=False)

    def forward(self, wavs, wav_lens=None):
        """Return states (batch, frames, 1, 240) and lengths; see `FrameStates.forward`."""
        bands, lengths = self.features(wavs, valid_samples(wavs, wav_lens))
        return self.from_bands(bands, lengths.lens)

    def from_bands(self, bands, lens):
        """Return states and lengths of what `LogMel` gives.

        Arguments
        ---------
        bands : torch.Tensor
            Shape (batch, 80, time), zero where padded.
        lens : torch.Tensor
            Shape (batch,), int64, valid frames of each row.

        Returns
        -------
        tuple of torch.Tensor
            States (batch, ceil(time / 2), 1, 240), zero where padded; lengths (batch,), int64.
        """
        valid = length_mask(lens, bands.shape[2])[:, None]
        slope = torch.tensor(SLOPE, device=bands.device).expand(NUM_MELS, 1, -1)
        orders = [bands]
        while len(orders) < ORDERS:
            x = nn.functional.conv1d(orders[-1], slope, padding=len(SLOPE) // 2, groups=NUM_MELS)
            orders.append(x.where(valid, 0.0))
        count = (NUM_MELS * lens).clamp(min=1)
        for place, x in enumerate(orders):
            deviation = (x.square().sum((1, 2)) / count).clamp(min=1e-5).sqrt()
            orders[place] = (x / deviation[:, None, None])[..., ::SKIP]
        lens = (lens + SKIP - 1) // SKIP  # ONNX rounds a division towards zero
        return torch.cat(orders, dim=1).transpose(1, 2).unsqueeze(2), lens


class PooledStates(nn.Module):
    """Mean and standard deviation over time of other states, as one frame.

    Arguments
    ---------
    states : nn.Module
        One of the above.

    Example
    -------
    >>> states, lens = PooledStates(FbankStates())(torch.randn(2, 16000))
    >>> states.shape, lens.tolist()
    (torch.Size([2, 1, 1, 480]), [1, 1])
    """

    def __init__(self, states):
        super().__init__()
        self.states = states
        self.num_layers = states.num_layers
        self.dim = 2 * states.dim

    def forward(self, wavs, wav_lens=None):
        """Return states (batch, 1, layers, 2 * dim) and lengths; see `FrameStates.forward`."""
        states, lens = self.states(wavs, wav_lens)
        return self.pool(states, length_mask(lens, states.shape[1])), torch.ones_like(lens)

    def pool(self, states, valid=None):
        """Pool (batch, frames, layers, dim) over the frames of `valid`, (batch, frames), or all."""
        statistics = masked_mean_std(states.flatten(2).transpose(1, 2), valid)
        parts = [part.unflatten(1, states.shape[2:]) for part in statistics]
        return torch.cat(parts, dim=2).unsqueeze(1)
