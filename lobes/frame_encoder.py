"""The frame-level encoder: a front end at 50 Hz, a Transformer and a masked-prediction head.

With the waveform front end it is HuBERT Base (Hsu et al., arXiv 2106.07447), or WavLM Base (Chen
et al., arXiv 2110.13900) with gated relative position bias, parameter for parameter, so that
public weights load (`pretrained.import_weights`). The fbank front end gives the same frames from
log-mel bands at a fraction of the cost.

What comes out for an utterance does not depend on what it is batched with: each row is
normalised over its own valid frames, and padding never reaches a valid frame.
"""

import torch
from torch import nn

from lobes import signal
from lobes.closed_forms.erasure import Erasure, check_directions
from lobes.closed_forms.least_squares import LeastSquares
from lobes.front_ends import FRONT_ENDS
from lobes.losses import cosines
from lobes.transformer import ATTENTIONS, Transformer

HEADS = ("cosine", "linear")
FRAME_NORMS = ("none", "mean", "mean_std")
EPSILON = 1e-5  # added to the variance, as in torch's InstanceNorm1d


class CosineHead(nn.Module):
    """HuBERT's prediction head (arXiv 2106.07447, eq. 3): cosines to learned unit embeddings.

    Arguments
    ---------
    d_model : int
        Size of the input.
    num_targets : int
        Number of units.
    head_dim : int
        Size of the space in which frames and units are compared.
    temperature : float
        The cosines are divided by it.

    Example
    -------
    >>> CosineHead(16, 100, 8, 0.1)(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 100])
    """

    def __init__(self, d_model, num_targets, head_dim, temperature):
        super().__init__()
        self.projection = nn.Linear(d_model, head_dim)
        self.embeddings = nn.Parameter(torch.randn(num_targets, head_dim))
        self.temperature = temperature

    def forward(self, x):
        """Map (..., d_model) to float32 logits (..., num_targets)."""
        return cosines(self.projection(x), self.embeddings) / self.temperature


class FeatureProjection(nn.Module):
    """Layer norm and linear projection of the front end's features."""

    def __init__(self, channels, d_model, dropout):
        super().__init__()
        self.layer_norm = nn.LayerNorm(channels)
        self.projection = nn.Linear(channels, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """Map (batch, frames, channels) to (batch, frames, d_model)."""
        return self.dropout(self.projection(self.layer_norm(x)))


class FrameNorm(nn.Module):
    """What an utterance's frames have in common taken off: their mean, and their deviation.

    With "mean_std" it is instance normalisation without an affine map, which takes the speaker out
    of the content encoder of AdaIN-VC (Chou, Yeh and Lee, arXiv 1904.05742). It needs
    no fit and no speakers, and nothing of it is learned. Statistics are of each row's own valid
    frames, in float32, so what comes out does not depend on the batch.

    A statistic of a few frames is mostly what is said in them: an utterance of one frame becomes
    0. Where audio is encoded in windows, as streams and long files are, a window is an utterance.

    Arguments
    ---------
    kind : str
        "mean" or "mean_std".

    Raises
    ------
    ValueError
        Where the kind is another.

    Example
    -------
    >>> x, valid = torch.randn(2, 50, 8), torch.arange(50) < torch.tensor([[50], [20]])
    >>> y = FrameNorm("mean")(x, valid)
    >>> bool(y[1, :20].mean(0).abs().max() < 1e-6)
    True
    """

    def __init__(self, kind):
        super().__init__()
        if kind not in FRAME_NORMS[1:]:
            raise ValueError(f"frame_norm must be one of {', '.join(FRAME_NORMS)}, not {kind!r}")
        self.kind = kind

    def extra_repr(self):
        """Return the kind, by which representations of models that differ in it differ."""
        return self.kind

    def forward(self, x, valid=None):
        """Map frames (batch, frames, d_model) to the same shape, in float32.

        Arguments
        ---------
        x : torch.Tensor
            Shape (batch, frames, d_model); finite where padded.
        valid : torch.Tensor, optional
            Shape (batch, frames), bool, False at padded frames; None without padding.

        Returns
        -------
        torch.Tensor
            Padded frames are arbitrary but finite.
        """
        with torch.autocast(x.device.type, enabled=False):
            by_channel = x.transpose(1, 2)
            if self.kind == "mean":
                return x.float() - signal.masked_mean(by_channel, valid)[:, None]
            mean, deviation = signal.masked_mean_std(by_channel, valid)
            return (x.float() - mean[:, None]) * torch.rsqrt(deviation.square() + EPSILON)[:, None]


class FrameEncoder(nn.Module):
    """Front end, mask embedding, Transformer and prediction head, at 50 frames per second.

    The defaults are HuBERT Base. Attention dropout is off by default, for only without it do
    all devices have a fast attention kernel.

    Arguments
    ---------
    frontend : str
        "waveform" (HuBERT's convolutions) or "fbank" (80 log-mel bands, convolutions of stride 2).
    conv_channels : int
        Channels of the front end's convolutions.
    d_model : int
        Size of a frame.
    num_layers : int
        Transformer layers.
    nhead : int
        Attention heads.
    d_ffn : int
        Inner size of the feed-forward part.
    attention : str
        "hubert", or "wavlm" for gated relative position bias.
    pos_conv_kernel : int
        Frames that the positional convolution sees.
    pos_conv_groups : int
        Groups of the positional convolution.
    num_targets : int
        Units that the head predicts.
    head : str
        "cosine" (`CosineHead`) or "linear".
    head_dim : int
        Size of the cosine head's space.
    temperature : float
        Temperature of the cosine head.
    dropout : float
        Dropout after the projection, the positional convolution and each residual branch.
    attention_dropout : float
        Dropout of attention weights.
    activation_dropout : float
        Dropout inside the feed-forward part.
    layer_drop : float
        Probability that a layer is passed by, in training.
    feature_grad_mult : float
        Factor on the gradient that reaches the front end.
    erased_directions : int
        How many directions are taken off the last layer's output to make frames, see `erase`. The
        prediction head reads that output as it is.
    frame_norm : str
        What is taken off the last layer's output before the prediction head reads it: "none",
        "mean", each utterance's, or "mean_std", and it is divided by the deviation. See
        `FrameNorm`.
    least_squares : dict, optional
        Arguments of an `UtteranceEncoder` of its own, of whose embedding what it tells of frames
        is taken off them at last, see `regress`. The prediction head does not see that either.

    Example
    -------
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
    >>> wavs = torch.randn(2, 16000)
    >>> encoder(wavs, torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 49, 32])
    >>> frames, hidden, logits = encoder(wavs, output_hidden_states=True, return_logits=True)
    >>> len(hidden), logits.shape
    (3, torch.Size([2, 49, 100]))
    """

    def __init__(
        self,
        frontend="waveform",
        conv_channels=512,
        d_model=768,
        num_layers=12,
        nhead=12,
        d_ffn=3072,
        attention="hubert",
        pos_conv_kernel=128,
        pos_conv_groups=16,
        num_targets=100,
        head="cosine",
        head_dim=256,
        temperature=0.1,
        dropout=0.1,
        attention_dropout=0.0,
        activation_dropout=0.0,
        layer_drop=0.0,
        feature_grad_mult=1.0,
        erased_directions=0,
        frame_norm="none",
        least_squares=None,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        _check_choices(config)
        self.config = config
        self.feature_grad_mult = feature_grad_mult
        self.front_end = FRONT_ENDS[frontend](conv_channels)
        self.feature_projection = FeatureProjection(conv_channels, d_model, dropout)
        self.mask_embedding = nn.Parameter(torch.rand(d_model))
        self.transformer = Transformer(config)
        if head == "cosine":
            self.head = CosineHead(d_model, num_targets, head_dim, temperature)
        else:
            self.head = nn.Linear(d_model, num_targets)
        self.frame_norm = None if frame_norm == "none" else FrameNorm(frame_norm)
        self.erasure = Erasure(d_model, erased_directions) if erased_directions else None
        self.least_squares = LeastSquares(d_model, least_squares) if least_squares else None

    def erase(self, directions, mean, covariance, means, embeddings):
        """Take off frames, from now on, the directions that tell most of utterance embeddings.

        What the prediction head gives stays the same.

        Arguments
        ---------
        directions : int
            How many, at most d_model.
        mean, covariance, means, embeddings : torch.Tensor
            Of frames and of utterances, as `Erasure.fit` takes them.

        Raises
        ------
        ValueError
            Where frames have lost directions before, or there are not as many.

        Example
        -------
        >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=1, nhead=4, d_ffn=64).eval()
        >>> z, u = encoder(torch.randn(50, 3200)).detach(), torch.randn(50, 8)
        >>> encoder.erase(4, z.mean((0, 1)), torch.cov(z.flatten(0, 1).T), z.mean(1), u)
        >>> encoder.config["erased_directions"]
        4
        """
        self.add_erasure(directions)
        self.erasure.fit(mean, covariance, means, embeddings)

    def add_erasure(self, directions):
        """Make the encoder one from whose frames so many directions are erased: none until `erase`.

        Arguments and errors are those of `erase`. The state dict of an encoder that has been erased
        then fits.
        """
        d_model = self.config["d_model"]
        if self.erasure is not None:
            raise ValueError("directions have been erased from these frames: erase once")
        check_directions(directions, d_model)
        self.erasure = Erasure(d_model, directions).to(self.mask_embedding.device)
        self.config["erased_directions"] = directions

    def regress(self, encoder, means, lens, embeddings, components):
        """Take off frames, from now on, what their utterance's embedding predicts of them.

        Arguments
        ---------
        encoder : UtteranceEncoder
            That gives the embeddings; a copy of it is kept.
        means, lens, embeddings, components
            Of utterances, as `LeastSquares.fit` takes them.

        Example
        -------
        >>> from lobes.utterance_encoder import UtteranceEncoder
        >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=1, nhead=4, d_ffn=64).eval()
        >>> other = UtteranceEncoder("tdnn", channels=8, embedding_dim=4).eval()
        >>> wavs = torch.randn(10, 3200)
        >>> with torch.no_grad():
        ...     z, u = encoder(wavs), other(wavs)
        >>> encoder.regress(other, z.mean(1), torch.full((10,), 9), u, components=4)
        >>> bool(encoder(wavs).mean((0, 1)).abs().max() < 1e-5)
        True
        """
        told = LeastSquares(self.config["d_model"], encoder.config)
        told.encoder.load_state_dict(encoder.state_dict())
        told.fit(means, lens, embeddings, components)
        self.least_squares = told.to(self.mask_embedding.device)
        self.config["least_squares"] = dict(encoder.config)

    def compile(self, **options):
        """Compile, in place, the parts between which lengths and layer drop decide what runs.

        Names in state dicts stay as they are. Layers share what is compiled.

        Arguments
        ---------
        **options
            As `torch.compile` takes them.
        """
        for part in (self.front_end, self.feature_projection, *self.transformer.layers, self.head):
            part.compile(**options)

    def forward(
        self,
        wavs,
        wav_lens=None,
        mask=None,
        output_hidden_states=False,
        return_logits=False,
        logits_at=None,
    ):
        """Encode a batch. Padded frames of everything returned are zero.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), 16 kHz, in [-1, 1].
        wav_lens : torch.Tensor, optional
            Shape (batch,), relative lengths in (0, 1]; None if all are full. See
            `lobes.signal.valid_samples`.
        mask : torch.Tensor, optional
            Shape (batch, frames), bool, True at frames replaced by the mask embedding.
        output_hidden_states : bool
            Whether to return the hidden states too.
        return_logits : bool
            Whether to return the logits of the prediction head too.
        logits_at : torch.Tensor, optional
            Shape (n,), int64, the frames whose logits these are, by their number in
            batch * frames; None for all.

        Returns
        -------
        torch.Tensor or tuple
            Frames (batch, frames, d_model); then, if asked for, the list of num_layers + 1 hidden
            states of that shape, the first being the input of the first layer and the last the
            frames; then, if asked for, the logits (batch, frames, num_targets), or
            (n, num_targets).

        Raises
        ------
        ValueError
            Where a shape does not fit, or no row has the 400 samples that make one frame; with
            `least_squares`, where any row lacks them.
        """
        samples = signal.valid_samples(wavs, wav_lens)
        valid = self._valid_frames(samples)
        features = self.front_end(wavs, samples.lens if samples.padded else None)
        if features.requires_grad and self.feature_grad_mult != 1.0:
            features.register_hook(lambda grad: grad * self.feature_grad_mult)
        x = self.feature_projection(features)
        if mask is not None:
            if mask.shape != x.shape[:2]:
                raise ValueError(
                    f"mask must be (batch, frames) = {tuple(x.shape[:2])}, not {tuple(mask.shape)}"
                )
            x = torch.where(mask[..., None], self.mask_embedding.to(x.dtype), x)
        hidden = self.transformer(_zero_padding(x, valid), valid)
        last = hidden[-1] if self.frame_norm is None else self.frame_norm(hidden[-1], valid)
        frames = last if self.erasure is None else self.erasure(last)
        if self.least_squares is not None:
            frames = self.least_squares(frames, wavs, wav_lens)
        frames = _zero_padding(frames, valid)
        result = [frames]
        if output_hidden_states:
            result.append([_zero_padding(x, valid) for x in hidden[:-1]] + [frames])
        if return_logits:
            if logits_at is None:
                result.append(_zero_padding(self.head(last), valid))
            else:
                result.append(self.head(last.flatten(0, 1).index_select(0, logits_at)))
        return frames if len(result) == 1 else tuple(result)

    def frame_lens(self, wavs, wav_lens=None):
        """Return the number of valid frames of each row.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples).
        wav_lens : torch.Tensor, optional
            Shape (batch,), relative lengths in (0, 1]; None if all are full.

        Returns
        -------
        torch.Tensor
            Shape (batch,), int64.
        """
        return signal.frame_lengths(signal.valid_samples(wavs, wav_lens)).lens

    def _valid_frames(self, samples):
        """Return (batch, frames) bool, False where padded, or None where nothing is."""
        frames = signal.frame_lengths(samples)
        if not frames.counts.any():
            raise ValueError(
                "no row is long enough for one frame: the rows have "
                f"{samples.counts.tolist()} valid samples, and a frame takes "
                f"{signal.RECEPTIVE_FIELD}; leave such utterances out"
            )
        return frames.valid


def _check_choices(config):
    choices = {"frontend": FRONT_ENDS, "attention": ATTENTIONS, "head": HEADS}
    for key, known in choices.items():
        if config[key] not in known:
            raise ValueError(f"{key} must be one of {', '.join(known)}, not {config[key]!r}")
    if config["d_model"] % config["nhead"]:
        raise ValueError(
            f"d_model ({config['d_model']}) must be a multiple of nhead ({config['nhead']})"
        )
    check_directions(config["erased_directions"], config["d_model"])


def _zero_padding(x, valid):
    return x if valid is None else torch.where(valid[..., None], x, 0.0)
