"""Exported models as upstreams of s3prl, whose downstream tasks are those of SUPERB.

An upstream maps a list of unpadded waveforms to `hidden_states`, (batch, frames, size) each, which
s3prl sums with learned weights. It takes round(samples / 320) or ceil(samples / 320) frames of
each row where an encoder makes one or two fewer: a row's last frame is repeated, so that what s3prl
sees of an utterance does not depend on its batch. s3prl itself is not needed here.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from lobes.signal import HOP, check_long_enough, length_mask, valid_samples
from pretrained.learn2diss import Learn2Diss
from pretrained.toolkits.weighted_frames import frame_encoder_of


class UpstreamExpert(nn.Module):
    """All hidden states of a frame encoder: the input of its first layer and each layer's output.

    Arguments
    ---------
    ckpt : str or Path
        What `Learn2Diss.from_pretrained` takes, with a frame encoder.
    **kwargs
        What s3prl gives every upstream (`model_config`, `refresh`); not used.

    Raises
    ------
    ValueError
        Where the folder holds no such encoder.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> from pretrained.exported import save_model
    >>> folder = getfixture("tmp_path") / "model"
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
    >>> save_model(folder, {"frame_encoder": encoder})
    >>> upstream = UpstreamExpert(folder)
    >>> states = upstream([torch.randn(16000), torch.randn(8000)])["hidden_states"]
    >>> len(states), states[0].shape, upstream.get_downsample_rates("hidden_states")
    (3, torch.Size([2, 50, 32]), 320)
    """

    def __init__(self, ckpt, **kwargs):
        super().__init__()
        self.encoder = self.load(ckpt)

    def load(self, ckpt):
        """Return the encoder."""
        return frame_encoder_of(ckpt)

    def get_downsample_rates(self, key=None):
        """Return the samples from one frame to the next, of whichever feature."""
        return HOP

    def forward(self, wavs):
        """Encode waveforms.

        Arguments
        ---------
        wavs : list of torch.Tensor
            Shape (samples,) each, 16 kHz, in [-1, 1].

        Returns
        -------
        dict
            `hidden_states`, a list of (batch, ceil(samples / 320), size) tensors, zero beyond the
            ceil(samples / 320) frames of a row itself; `last_hidden_state`, the last of them.

        Raises
        ------
        ValueError
            Where there is no waveform, one has another shape, or one is shorter than the 400
            samples of one frame.
        """
        shapes = [tuple(wav.shape) for wav in wavs]
        if not shapes or any(len(shape) != 1 for shape in shapes):
            found = ", ".join(map(str, shapes)) or "none"
            raise ValueError(f"expected a list of waveforms of shape (samples,), found {found}")
        counts = torch.tensor([len(wav) for wav in wavs])
        batch = pad_sequence(list(wavs), batch_first=True)
        wav_lens = counts.double() / batch.shape[1]
        check_long_enough(valid_samples(batch, wav_lens))
        lens = (-(-counts // HOP)).to(batch.device)
        states = [_extended(*pair, lens) for pair in self.encode(batch, wav_lens)]
        return {"hidden_states": states, "last_hidden_state": states[-1]}

    def encode(self, wavs, wav_lens):
        """Return a pair for each hidden state: (batch, frames, size) and its rows' lengths."""
        _, states = self.encoder(wavs, wav_lens, output_hidden_states=True)
        lens = self.encoder.frame_lens(wavs, wav_lens)
        return [(x, lens) for x in states]


class LastUpstreamExpert(UpstreamExpert):
    """The frames of the last layer alone: what the joint stage hides, the layers before it hold.

    Arguments and methods are those of `UpstreamExpert`.
    """

    def encode(self, wavs, wav_lens):
        """Return the frames and their lengths, as the only hidden state."""
        return super().encode(wavs, wav_lens)[-1:]


class UtteranceUpstreamExpert(UpstreamExpert):
    """The embedding of an utterance encoder, repeated over the frames of the utterance.

    s3prl cuts features to the number of frames that belongs to the samples, and its x-vector head
    of speaker verification takes at least 15: one frame an utterance would not do. A mean over
    frames, as in speaker identification, gives the embedding back. Other arguments and methods are
    those of `UpstreamExpert`.
    """

    def load(self, ckpt):
        """Return the encoder."""
        encoder = Learn2Diss.from_pretrained(ckpt).utterance_encoder
        if encoder is None:
            raise ValueError(f"{ckpt} holds no utterance encoder, only a frame encoder.")
        return encoder

    def encode(self, wavs, wav_lens):
        """Return the embeddings as one frame of the only hidden state, and lengths of one."""
        embeddings = self.encoder(wavs, wav_lens)[:, None]
        return [(embeddings, embeddings.new_ones(len(embeddings), dtype=torch.long))]


UPSTREAMS = {
    "learn2diss_frames": UpstreamExpert,
    "learn2diss_last": LastUpstreamExpert,
    "learn2diss_utterance": UtteranceUpstreamExpert,
}


def _extended(x, lens, wanted):
    """Return rows of other lengths: the last valid frame repeated up to it, zero beyond.

    Arguments
    ---------
    x : torch.Tensor
        Shape (batch, frames, size).
    lens, wanted : torch.Tensor
        Shape (batch,), int64, valid frames of each row, at least one, and those of the result.
    """
    places = torch.arange(int(wanted.max()), device=x.device).minimum(lens[:, None] - 1)
    x = x.take_along_dim(places[..., None], dim=1)
    return x.where(length_mask(wanted, x.shape[1])[..., None], 0.0)
