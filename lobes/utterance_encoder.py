"""The utterance-level encoder: log-mel bands, a convolutional backbone and attentive pooling.

The backbone is ECAPA-TDNN (Desplanques et al., arXiv 2005.07143), into which SpeechBrain's weights
load (`import_weights`), or a small TDNN (Snyder et al., x-vectors, ICASSP 2018) for two CPU cores.

What comes out for an utterance does not depend on what it is batched with: convolutions see each
row end where it ends, and statistics, those of training included, are over valid frames.
"""

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import spectral_magnitude
from torch import nn
from torch.nn import functional as F

from lobes.pooling import (
    AttentiveStatisticsPooling,
    MaskedBatchNorm1d,
    length_mask,
    masked_mean,
    num_valid_samples,
)

NUM_MELS = 80
WINDOW = 400  # samples of one frame, at 16 kHz
HOPS = {"ecapa": 160, "tdnn": 320}  # samples from one frame to the next


class LogMel(nn.Module):
    """SpeechBrain's log-mel bands in decibels, minus a mean over each row's own frames.

    The bands are `speechbrain.lobes.features.Fbank`'s, with which public speaker models were
    trained. Its floor, 80 dB below the row's loudest value, is taken over valid frames only.

    Arguments
    ---------
    hop : int
        Samples from one frame to the next.
    centre_bands : bool
        Whether each band's own mean is taken off, as those models have it. It takes the long-term
        spectrum away, of the voice as of the channel. Otherwise only the level is, one mean over
        all bands.

    Example
    -------
    >>> features, lens = LogMel()(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    >>> features.shape, lens.tolist()
    (torch.Size([2, 80, 101]), [101, 51])
    """

    def __init__(self, hop=160, centre_bands=True):
        super().__init__()
        self.hop = hop
        self.centre_bands = centre_bands
        self.fbank = Fbank(n_mels=NUM_MELS, hop_length=hop / 16)

    def forward(self, wavs, num_samples):
        """Return the features of each row and its number of frames.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), 16 kHz.
        num_samples : torch.Tensor
            Shape (batch,), int64, valid samples of each row.

        Returns
        -------
        tuple of torch.Tensor
            Features (batch, 80, frames), float32, zero where padded; lengths (batch,), int64,
            1 + num_samples // hop.
        """
        lens = 1 + num_samples // self.hop
        with torch.autocast(wavs.device.type, enabled=False):
            # Beyond its end a row sees silence, as an utterance alone does.
            inside = length_mask(num_samples, wavs.shape[1])
            power = spectral_magnitude(self.fbank.compute_STFT(wavs.float().where(inside, 0.0)))
            valid = length_mask(lens, power.shape[1])
            bands = self.fbank.compute_fbanks(power.where(valid[..., None], 0.0)).transpose(1, 2)
            bands = self.centre(bands, valid)
        return bands.where(valid[:, None], 0.0), lens

    def centre(self, bands, valid=None):
        """Take the mean off bands (batch, 80, time); `valid`, (batch, time), tells frames apart."""
        mean = masked_mean(bands, valid)
        if not self.centre_bands:
            mean = mean.mean(dim=1, keepdim=True)
        return bands - mean[..., None]


def reflect_pad(x, pad, lens=None):
    """Pad both ends of each row by reflection, the end being the row's own.

    A row shorter than the padding is reflected again at its other end, as often as it takes; a
    single frame is repeated.

    Arguments
    ---------
    x : torch.Tensor
        Shape (batch, channels, time).
    pad : int
        Frames to add at each end.
    lens : torch.Tensor, optional
        Shape (batch,), int64, valid frames of each row, at least 1; None if all are full.

    Returns
    -------
    torch.Tensor
        Shape (batch, channels, time + 2 * pad). Row i holds its `lens[i] + 2 * pad` frames first;
        what follows is arbitrary but finite.

    Example
    -------
    >>> reflect_pad(torch.tensor([[[1.0, 2.0, 3.0, 0.0]]]), 2, torch.tensor([3])).tolist()
    [[[3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 0.0]]]
    """
    time = x.shape[2]
    if pad == 0:
        return x
    if lens is None:
        if pad < time:
            return F.pad(x, (pad, pad), mode="reflect")
        lens = torch.full((len(x),), time, device=x.device)
    steps = torch.arange(pad, device=x.device)
    ends = torch.cat([(steps - pad).expand(len(x), pad), lens[:, None] + steps], dim=1)
    period = (2 * (lens - 1)).clamp(min=1)[:, None]
    source = ends.abs() % period
    source = torch.where(source < lens[:, None], source, period - source)
    reflected = x.gather(2, source[:, None].expand(-1, x.shape[1], -1))
    target = (ends + pad)[:, None].expand_as(reflected)
    return F.pad(x, (pad, pad)).scatter(2, target, reflected)


class TDNNBlock(nn.Module):
    """Dilated convolution that keeps the length, ReLU and batch normalisation.

    Arguments
    ---------
    in_channels : int
    out_channels : int
    kernel_size : int
        Odd.
    dilation : int
    reflect : bool
        Whether rows are padded by reflection; with zeros otherwise.

    Example
    -------
    >>> TDNNBlock(80, 32, kernel_size=3, dilation=2)(torch.randn(4, 80, 50)).shape
    torch.Size([4, 32, 50])
    """

    def __init__(self, in_channels, out_channels, kernel_size=1, dilation=1, reflect=True):
        super().__init__()
        self.pad = dilation * (kernel_size - 1) // 2
        self.reflect = reflect
        self.conv = nn.Conv1d(
            in_channels,
            out_channels,
            kernel_size,
            dilation=dilation,
            padding=0 if reflect else self.pad,
        )
        self.norm = MaskedBatchNorm1d(out_channels)

    def forward(self, x, padding=None):
        """Map (batch, in_channels, time), zero where padded, to (batch, out_channels, time).

        Arguments
        ---------
        x : torch.Tensor
            Shape (batch, in_channels, time), zero where padded.
        padding : tuple of torch.Tensor, optional
            Lengths (batch,) and validity (batch, time); None where nothing is padded.

        Returns
        -------
        torch.Tensor
            Shape (batch, out_channels, time), zero where padded.
        """
        lens, valid = padding or (None, None)
        if self.reflect:
            x = reflect_pad(x, self.pad, lens)
        return self.norm(self.conv(x).relu_(), valid)


class Res2NetBlock(nn.Module):
    """Convolutions over groups of channels, each group seeing the result of the one before.

    Arguments
    ---------
    channels : int
        A multiple of `scale`.
    scale : int
        Number of groups.
    kernel_size : int
    dilation : int

    Example
    -------
    >>> Res2NetBlock(64, scale=4, kernel_size=3, dilation=2)(torch.randn(2, 64, 50)).shape
    torch.Size([2, 64, 50])
    """

    def __init__(self, channels, scale, kernel_size, dilation):
        super().__init__()
        self.scale = scale
        width = channels // scale
        self.blocks = nn.ModuleList(
            TDNNBlock(width, width, kernel_size, dilation) for _ in range(scale - 1)
        )

    def forward(self, x, padding=None):
        """Map (batch, channels, time) to the same shape; see `TDNNBlock.forward`."""
        first, *groups = x.chunk(self.scale, dim=1)
        results = [first]
        for i, (group, block) in enumerate(zip(groups, self.blocks, strict=True)):
            results.append(block(group if i == 0 else group + results[-1], padding))
        return torch.cat(results, dim=1)


class SEBlock(nn.Module):
    """Squeeze-and-excitation: each channel is scaled by a function of the row's mean frame."""

    def __init__(self, channels, se_channels):
        super().__init__()
        self.conv1 = nn.Conv1d(channels, se_channels, kernel_size=1)
        self.conv2 = nn.Conv1d(se_channels, channels, kernel_size=1)

    def forward(self, x, padding=None):
        """Map (batch, channels, time) to the same shape; see `TDNNBlock.forward`."""
        valid = None if padding is None else padding[1]
        squeezed = masked_mean(x, valid)[..., None]
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(squeezed))))


class SERes2NetBlock(nn.Module):
    """ECAPA-TDNN's building block: two 1x1 TDNN blocks around a Res2Net one, SE, a shortcut."""

    def __init__(self, channels, scale, se_channels, kernel_size, dilation):
        super().__init__()
        self.tdnn1 = TDNNBlock(channels, channels)
        self.res2net_block = Res2NetBlock(channels, scale, kernel_size, dilation)
        self.tdnn2 = TDNNBlock(channels, channels)
        self.se_block = SEBlock(channels, se_channels)

    def forward(self, x, padding=None):
        """Map (batch, channels, time) to the same shape; see `TDNNBlock.forward`."""
        out = x
        for layer in (self.tdnn1, self.res2net_block, self.tdnn2, self.se_block):
            out = layer(out, padding)
        return x + out


class Backbone(nn.Module):
    """What the backbones share: pooling and embedding on top of `frames(x, padding)`.

    Arguments
    ---------
    pooled_channels : int
        Channels of the frames.
    attention_channels : int
        Width of the pooling's attention.
    embedding_dim : int
    """

    def __init__(self, pooled_channels, attention_channels, embedding_dim):
        super().__init__()
        self.asp = AttentiveStatisticsPooling(pooled_channels, attention_channels)
        self.asp_bn = MaskedBatchNorm1d(2 * pooled_channels)
        self.fc = nn.Conv1d(2 * pooled_channels, embedding_dim, kernel_size=1)

    def embed(self, x, padding=None):
        """Map frames (batch, pooled_channels, time) to embeddings (batch, embedding_dim)."""
        pooled = self.asp(x, None if padding is None else padding[1])
        with torch.autocast(x.device.type, enabled=False):
            return self.fc(self.asp_bn(pooled)[..., None]).squeeze(2)


class ECAPATDNN(Backbone):
    """ECAPA-TDNN (arXiv 2005.07143, figure 2), with SpeechBrain's reflection padding.

    On unpadded input it equals `speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN`.

    Arguments
    ---------
    channels : int
        Channels of the blocks (paper: 512 or 1024); the pooled frames have three times as many.
    embedding_dim : int
    attention_channels : int
    se_channels : int
        Width of the squeeze.
    res2net_scale : int
        Groups of channels in a Res2Net block.

    Example
    -------
    >>> backbone = ECAPATDNN(32, 24, attention_channels=8, se_channels=8, res2net_scale=4)
    >>> backbone.embed(backbone.frames(torch.randn(2, 80, 50))).shape
    torch.Size([2, 24])
    """

    def __init__(self, channels, embedding_dim, attention_channels, se_channels, res2net_scale):
        super().__init__(3 * channels, attention_channels, embedding_dim)
        if channels % res2net_scale:
            raise ValueError(
                f"channels ({channels}) must be a multiple of res2net_scale ({res2net_scale})"
            )
        self.blocks = nn.ModuleList([TDNNBlock(NUM_MELS, channels, kernel_size=5)])
        for dilation in (2, 3, 4):
            self.blocks.append(SERes2NetBlock(channels, res2net_scale, se_channels, 3, dilation))
        self.mfa = TDNNBlock(3 * channels, 3 * channels)

    def frames(self, x, padding=None):
        """Map features (batch, 80, time) to (batch, 3 * channels, time)."""
        outputs = []
        for block in self.blocks:
            x = block(x, padding)
            outputs.append(x)
        return self.mfa(torch.cat(outputs[1:], dim=1), padding)


class TDNN(Backbone):
    """A small TDNN: three dilated convolutions, a wider 1x1 one, attentive pooling.

    The normalised bands are pooled beside the last convolution's output: their means and
    deviations, which tell speakers apart untrained, need not be learnt.

    Arguments
    ---------
    channels : int
        Channels of the convolutions; the pooled frames have three times as many, and 80 bands.
    embedding_dim : int
    attention_channels : int

    Example
    -------
    >>> backbone = TDNN(32, 24, attention_channels=8)
    >>> backbone.embed(backbone.frames(torch.randn(2, 80, 50))).shape
    torch.Size([2, 24])
    """

    def __init__(self, channels, embedding_dim, attention_channels):
        super().__init__(3 * channels + NUM_MELS, attention_channels, embedding_dim)
        self.norm = MaskedBatchNorm1d(NUM_MELS)
        self.blocks = nn.ModuleList(
            [
                TDNNBlock(NUM_MELS, channels, kernel_size=5, dilation=1, reflect=False),
                TDNNBlock(channels, channels, kernel_size=3, dilation=2, reflect=False),
                TDNNBlock(channels, channels, kernel_size=3, dilation=3, reflect=False),
                TDNNBlock(channels, 3 * channels),
            ]
        )

    def frames(self, x, padding=None):
        """Map features (batch, 80, time) to (batch, 3 * channels + 80, time)."""
        x = bands = self.norm(x, None if padding is None else padding[1])
        for block in self.blocks:
            x = block(x, padding)
        return torch.cat([x, bands], dim=1)


class ProjectionHead(nn.Module):
    """The perceptron that only training uses (arXiv 2002.05709, section 2.1)."""

    def __init__(self, embedding_dim, projection_dim):
        super().__init__()
        self.hidden = nn.Linear(embedding_dim, embedding_dim)
        self.norm = MaskedBatchNorm1d(embedding_dim)
        self.output = nn.Linear(embedding_dim, projection_dim)

    def forward(self, x):
        """Map (batch, embedding_dim) to (batch, projection_dim)."""
        return self.output(torch.relu(self.norm(self.hidden(x))))


class UtteranceEncoder(nn.Module):
    """Waveforms to one embedding per utterance, of speaker and channel.

    Arguments
    ---------
    backbone : str
        "ecapa" or "tdnn".
    channels : int
        Channels of the backbone; the pooled frames have three times as many, and with "tdnn" the
        80 bands beside them.
    embedding_dim : int
        Size E of the embedding.
    attention_channels : int
        Width of the pooling's attention.
    se_channels : int
        Width of the squeeze-and-excitation (ecapa only).
    res2net_scale : int
        Groups of channels in a Res2Net block (ecapa only); divides `channels`.
    projection_dim : int
        Size P of the projection for contrastive training.
    centre_bands : bool
        Whether each log-mel band's mean over the utterance is taken off; see `LogMel`.

    Example
    -------
    >>> encoder = UtteranceEncoder("tdnn", channels=32, embedding_dim=24, projection_dim=16)
    >>> embedding, projection = encoder(torch.randn(2, 16000), project=True)
    >>> embedding.shape, projection.shape
    (torch.Size([2, 24]), torch.Size([2, 16]))
    >>> encoder.eval()(torch.randn(2, 16000), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 24])
    """

    def __init__(
        self,
        backbone="ecapa",
        channels=1024,
        embedding_dim=192,
        attention_channels=128,
        se_channels=128,
        res2net_scale=8,
        projection_dim=128,
        centre_bands=True,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config = config
        if backbone == "ecapa":
            self.backbone = ECAPATDNN(
                channels, embedding_dim, attention_channels, se_channels, res2net_scale
            )
        elif backbone == "tdnn":
            self.backbone = TDNN(channels, embedding_dim, attention_channels)
        else:
            raise ValueError(f"backbone must be 'ecapa' or 'tdnn', not {backbone!r}")
        self.features = LogMel(HOPS[backbone], centre_bands)
        self.projection = ProjectionHead(embedding_dim, projection_dim)

    def forward(self, wavs, wav_lens=None, project=False):
        """Embed a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), 16 kHz, in [-1, 1].
        wav_lens : torch.Tensor, optional
            Shape (batch,), relative lengths in (0, 1]; None if all are full.
        project : bool
            Whether to return the projection too.

        Returns
        -------
        torch.Tensor or tuple
            Embeddings (batch, E); with `project`, the pair of these and projections (batch, P).

        Raises
        ------
        ValueError
            Where a shape does not fit or a row has fewer than the 400 samples of one frame.
        """
        embedding = self.embed(*self.frame_features(wavs, wav_lens))
        return (embedding, self.projection(embedding)) if project else embedding

    def frame_features(self, wavs, wav_lens=None):
        """Return what is pooled at each frame: 3 * channels of ecapa, 80 more of tdnn.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), 16 kHz.
        wav_lens : torch.Tensor, optional
            Shape (batch,), relative lengths in (0, 1]; None if all are full.

        Returns
        -------
        tuple of torch.Tensor
            Frames (batch, pooled channels, time), zero where padded, at 100 Hz (ecapa) or 50 Hz
            (tdnn); lengths (batch,), int64.
        """
        samples = num_valid_samples(wavs, wav_lens)
        _check_long_enough(samples)
        features, lens = self.features(wavs, samples)
        return self.backbone.frames(features, _padding(lens, features.shape[2])), lens

    def embed(self, frames, lens):
        """Pool frames and embed the statistics.

        Arguments
        ---------
        frames : torch.Tensor
            Shape (batch, pooled channels, time), zero where padded.
        lens : torch.Tensor
            Shape (batch,), int64, valid frames of each row.

        Returns
        -------
        torch.Tensor
            Shape (batch, E), float32.
        """
        return self.backbone.embed(frames, _padding(lens, frames.shape[2]))

    @torch.no_grad()
    def whiten(self, mean, covariance, power=0.5):
        """Map embeddings linearly so that a few directions no longer dominate their cosines.

        Training settles the projections, not how embeddings are scaled before the head. PCA
        whitening (Jegou and Chum, ECCV 2012) makes all directions alike, those of mere noise
        too; a part of it lies between. What the head returns stays the same.

        Arguments
        ---------
        mean : torch.Tensor
            Of embeddings, shape (E,).
        covariance : torch.Tensor
            Of embeddings, shape (E, E), float64.
        power : float
            In [0, 1]. Eigenvalues c of the covariance become c^(1 - power), in units of their
            mean: 0 only takes the mean off, 1 whitens.

        Example
        -------
        >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=4).eval()
        >>> u = encoder(torch.randn(20, 16000)).double()
        >>> encoder.whiten(u.mean(0), torch.cov(u.T))
        """
        values, vectors = torch.linalg.eigh(covariance)
        values = values / values.mean() + 0.01  # fewer utterances than dimensions leave zeros
        to_white = vectors * values.pow(-power / 2) @ vectors.T
        to_plain = vectors * values.pow(power / 2) @ vectors.T
        fc, hidden = self.backbone.fc, self.projection.hidden
        hidden.bias += (hidden.weight.double() @ mean.double()).float()
        hidden.weight.copy_(hidden.weight.double() @ to_plain)
        fc.bias.copy_(to_white @ (fc.bias.double() - mean.double()))
        fc.weight.copy_((to_white @ fc.weight[..., 0].double())[..., None])


def _padding(lens, time):
    """Return lengths and their mask, or None where all rows are full."""
    return None if bool((lens == time).all()) else (lens, length_mask(lens, time))


def _check_long_enough(samples):
    short = (samples < WINDOW).nonzero().flatten().tolist()
    if short:
        raise ValueError(
            f"Row {short[0]} of wavs has {int(samples[short[0]])} valid samples, fewer than the "
            f"{WINDOW} of one frame (25 ms at 16 kHz): leave such utterances out"
        )


def import_weights(encoder, state_dict):
    """Load SpeechBrain's ECAPA-TDNN weights into an utterance encoder.

    The projection head, which SpeechBrain's model lacks, stays as it is. Nothing is changed
    unless every tensor fits.

    Arguments
    ---------
    encoder : UtteranceEncoder
        With backbone "ecapa", of the same sizes.
    state_dict : dict
        Of `speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN`: names to tensors.

    Raises
    ------
    ValueError
        Where a tensor is missing, left over or of another shape, naming it.

    Example
    -------
    >>> from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    >>> theirs = ECAPA_TDNN(80, lin_neurons=192, channels=[32, 32, 32, 32, 96])
    >>> import_weights(UtteranceEncoder("ecapa", channels=32), theirs.state_dict())
    """
    if encoder.config["backbone"] != "ecapa":
        raise ValueError(
            "SpeechBrain's ECAPA-TDNN weights need an encoder with backbone 'ecapa', "
            f"not {encoder.config['backbone']!r}"
        )
    # Each of SpeechBrain's layers wraps torch's in one more module: conv.conv, norm.norm.
    theirs = {_without_wrapper(name): name for name in state_dict}
    ours = encoder.backbone.state_dict()
    problems = [f"missing {name}" for name in ours if name not in theirs]
    problems += [f"left over {theirs[name]}" for name in theirs if name not in ours]
    for name in ours.keys() & theirs.keys():
        found, expected = tuple(state_dict[theirs[name]].shape), tuple(ours[name].shape)
        if found != expected:
            problems.append(f"{theirs[name]} of shape {found}, expected {expected}")
    if problems:
        raise ValueError("These weights do not fit the encoder: " + "; ".join(sorted(problems)))
    encoder.backbone.load_state_dict({name: state_dict[theirs[name]] for name in ours})


def _without_wrapper(name):
    *path, _, tensor = name.split(".")
    return ".".join([*path, tensor])
