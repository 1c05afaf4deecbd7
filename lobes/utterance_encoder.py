"""The utterance-level encoder: log-mel bands, a convolutional backbone and attentive pooling.

The backbone is ECAPA-TDNN (Desplanques et al., arXiv 2005.07143), into which SpeechBrain's weights
load (`pretrained.import_weights`), or a small TDNN (Snyder et al., x-vectors, ICASSP 2018) for two
CPU cores.

What comes out for an utterance does not depend on what it is batched with: convolutions see each
row end where it ends, and statistics, those of training included, are over valid frames.
"""

import torch
from torch import nn

from lobes import signal
from lobes.ecapa import ECAPATDNN
from lobes.tdnn import TDNN, MaskedBatchNorm1d

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
    >>> wavs = torch.randn(2, 16000)
    >>> features, lengths = LogMel()(wavs, signal.valid_samples(wavs, torch.tensor([1.0, 0.5])))
    >>> features.shape, lengths.counts
    (torch.Size([2, 80, 101]), array([101,  51]))
    """

    def __init__(self, hop=160, centre_bands=True):
        from speechbrain.lobes.features import Fbank  # a second, which frames alone do without

        super().__init__()
        self.hop = hop
        self.centre_bands = centre_bands
        self.fbank = Fbank(n_mels=signal.NUM_MELS, hop_length=hop / 16)

    def forward(self, wavs, samples):
        """Return the features of each row and its number of frames.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), 16 kHz.
        samples : signal.Lengths
            Valid samples of each row, see `lobes.signal.valid_samples`.

        Returns
        -------
        features : torch.Tensor
            Shape (batch, 80, frames), float32, zero where padded.
        lengths : signal.Lengths
            Valid frames of each row, 1 + samples // hop.
        """
        frames = signal.Lengths(
            1 + samples.counts // self.hop, 1 + samples.width // self.hop, wavs.device
        )
        with torch.autocast(wavs.device.type, enabled=False):
            if samples.padded:
                valid = signal.length_mask(frames.lens, frames.width)
                return self.padded_bands(wavs.float(), samples.valid, valid), frames
            return self._centred(self.decibels(self.power(wavs.float())).transpose(1, 2)), frames

    def padded_bands(self, wavs, samples, frames):
        """Return the features of a padded batch from what is valid of it.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), float32.
        samples, frames : torch.Tensor
            Shape (batch, samples) and (batch, frames), bool, False where padded.

        Returns
        -------
        torch.Tensor
            Shape (batch, 80, frames), float32, zero where padded.
        """
        # Beyond its end a row sees silence, as an utterance alone does.
        power = self.power(wavs.where(samples, 0.0))
        bands = self.decibels(power.where(frames[..., None], 0.0)).transpose(1, 2)
        return self._centred(bands, frames).where(frames[:, None], 0.0)

    def power(self, wavs):
        """Return the power spectrum of waveforms (batch, samples): (batch, frames, bins)."""
        from speechbrain.processing.features import spectral_magnitude

        self._follow(wavs.device)
        return spectral_magnitude(self.fbank.compute_STFT(wavs))

    def _follow(self, device):
        """Have SpeechBrain's constants where the audio is; it would send them there in each step.

        Each time the host would wait for the device, as it does with what a copy takes from
        ordinary memory.
        """
        fourier, filters = self.fbank.compute_STFT, self.fbank.compute_fbanks
        if filters.f_central.device != device:
            filters.device_inp = device
            for name in ("f_central", "band", "all_freqs_mat"):
                setattr(filters, name, getattr(filters, name).to(device))
            fourier.window = fourier.window.to(device)

    def decibels(self, power):
        """Return the log-mel bands of power spectra, (batch, frames, 80), not centred yet."""
        return self.fbank.compute_fbanks(power)

    def join(self, parts):
        """Return the features of a recording from the `decibels` of its parts, one after another.

        Arguments
        ---------
        parts : list of torch.Tensor
            Shape (1, frames, 80) each.

        Returns
        -------
        torch.Tensor
            Shape (1, 80, frames of all parts), float32.

        Example
        -------
        >>> features, wavs = LogMel(), torch.randn(1, 16000)
        >>> parts = [features.decibels(part) for part in features.power(wavs).split(30, dim=1)]
        >>> whole, _ = features(wavs, signal.valid_samples(wavs))
        >>> torch.allclose(features.join(parts), whole, atol=1e-4)
        True
        """
        bands = torch.cat(parts, dim=1).transpose(1, 2)
        return self._centred(self.floored(bands, bands.max()))

    def floored(self, bands, loudest):
        """Return bands of at least 80 dB below the loudest value of the recording.

        Those of a part have their floor where the recording has it, or below.
        """
        return bands.clamp(min=loudest - self.fbank.compute_fbanks.top_db)

    def _centred(self, bands, valid=None):
        """Take the mean off bands (batch, 80, time); `valid`, (batch, time), tells frames apart."""
        return self.without_mean(bands, signal.masked_mean(bands, valid))

    def without_mean(self, bands, mean):
        """Return bands (batch, 80, time) without their mean over time, (batch, 80), or its level.

        With `centre_bands` each band loses its own mean, otherwise all lose the mean of these.
        """
        if not self.centre_bands:
            mean = mean.mean(dim=1, keepdim=True)
        return bands - mean[..., None]


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
        Size P of the projection that only training sees; 0 for the embedding itself.
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
        if not isinstance(projection_dim, int) or projection_dim < 0:
            raise ValueError(f"projection_dim is {projection_dim!r}: expected 0, or a whole number")
        if backbone == "ecapa":
            self.backbone = ECAPATDNN(
                channels, embedding_dim, attention_channels, se_channels, res2net_scale
            )
        elif backbone == "tdnn":
            self.backbone = TDNN(channels, embedding_dim, attention_channels)
        else:
            raise ValueError(f"backbone must be 'ecapa' or 'tdnn', not {backbone!r}")
        self.features = LogMel(HOPS[backbone], centre_bands)
        self.projected_dim = projection_dim or embedding_dim
        if projection_dim:
            self.projection = ProjectionHead(embedding_dim, projection_dim)
        else:
            self.projection = nn.Identity()

    def compile(self, **options):
        """Compile, in place, what follows the features; see `FrameEncoder.compile`."""
        for part in (*self.backbone.children(), self.projection):
            for block in part if isinstance(part, nn.ModuleList) else [part]:
                block.compile(**options)

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
        samples = signal.valid_samples(wavs, wav_lens)
        signal.check_long_enough(samples)
        features, lens = self.features(wavs, samples)
        padding = (lens.lens, lens.valid) if lens.padded else None
        embedding = self.backbone.embed(self.backbone.frames(features, padding), padding)
        return (embedding, self.projection(embedding)) if project else embedding

    @torch.no_grad()
    def whiten(self, mean, covariance, power=0.5):
        """Map embeddings linearly so that a few directions no longer dominate their cosines.

        Training settles the projections, not how embeddings are scaled before the head. PCA
        whitening (Jegou and Chum, ECCV 2012) makes all directions alike, those of mere noise
        too; a part of it lies between. What the projection returns stays the same; without one, the
        embedding itself is what a loss sees, and it changes.

        Arguments
        ---------
        mean : torch.Tensor
            Of embeddings, shape (E,), on the CPU.
        covariance : torch.Tensor
            Of embeddings, shape (E, E), float64, on the CPU.
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
        mean, fc = mean.double(), self.backbone.fc
        # In float64, and so on the CPU: not every device has it.
        weight, bias = fc.weight.cpu().double(), fc.bias.cpu().double()
        if self.config["projection_dim"]:
            hidden = self.projection.hidden
            inner = hidden.weight.cpu().double()
            hidden.bias += (inner @ mean).float().to(hidden.bias.device)
            hidden.weight.copy_((inner @ to_plain).float())
        fc.bias.copy_((to_white @ (bias - mean)).float())
        fc.weight.copy_((to_white @ weight[..., 0])[..., None].float())

    @torch.no_grad()
    def project_out(self, directions):
        """Take directions off the embeddings (nuisance attribute projection).

        Solomonoff, Campbell and Boardman, "Advances in channel compensation for SVM speaker
        recognition", ICASSP 2005. What the head returns changes with them.

        Arguments
        ---------
        directions : torch.Tensor
            Shape (k, E), orthonormal, float64, on the CPU.

        Example
        -------
        >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=4).eval()
        >>> encoder.project_out(torch.eye(4, dtype=torch.double)[:2])
        >>> encoder(torch.randn(1, 16000))[0, :2].abs().max().item() < 1e-6
        True
        """
        fc = self.backbone.fc
        weight, bias = (x.cpu().double() for x in (fc.weight[..., 0], fc.bias))
        fc.weight.copy_((weight - directions.T @ (directions @ weight)).float()[..., None])
        fc.bias.copy_((bias - directions.T @ (directions @ bias)).float())
