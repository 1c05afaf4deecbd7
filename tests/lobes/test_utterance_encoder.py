"""The utterance encoder: padded against single, SpeechBrain's model, refusals."""

import copy

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization
from torch.nn import functional as F

from lobes.signal import valid_samples
from lobes.tdnn import reflect_pad
from lobes.utterance_encoder import LogMel, UtteranceEncoder
from pretrained.toolkits.names import import_ecapa_state_dict as import_weights

SMALL = {
    "ecapa": dict(channels=32, embedding_dim=24, attention_channels=16, se_channels=16),
    "tdnn": dict(channels=32, embedding_dim=24, attention_channels=16),
}
SECONDS = (1.0, 3.0, 7.3)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def speech_like(samples):
    """Return noise whose loudness and colour change over time, between -1 and 1."""
    envelope = F.interpolate(torch.rand(1, 1, 2 + samples // 2000), samples, mode="linear")[0, 0]
    noise = torch.randn(samples)
    return 0.2 * envelope**2 * (noise + 0.9 * noise.roll(1))


def padded_batch(seconds=SECONDS, width=None, fill=0.0):
    rows = [speech_like(round(16000 * s)) for s in seconds]
    width = width or max(len(r) for r in rows)
    wavs = torch.full((len(rows), width), fill)
    for row, wav in zip(wavs, rows, strict=True):
        row[: len(wav)] = wav
    return rows, wavs, torch.tensor([len(r) / width for r in rows])


def encoder_with_statistics(backbone):
    """Return an encoder in eval mode whose running statistics come from some batches."""
    encoder = UtteranceEncoder(backbone, projection_dim=16, **SMALL[backbone])
    with torch.no_grad():
        for _ in range(30):
            encoder(0.3 * torch.randn(4, 8000), project=True)
    return encoder.eval()


def randomise_norms(module):
    for name, p in module.named_parameters():
        if "norm" in name or "asp_bn" in name:
            torch.nn.init.normal_(p, mean=1.0 if "weight" in name else 0.0, std=0.3)


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("fill", [0.0, 0.7])
def test_padded_batch_equals_each_row_alone(backbone, fill):
    encoder = encoder_with_statistics(backbone)
    rows, wavs, lens = padded_batch(fill=fill)
    with torch.no_grad():
        batched = encoder(wavs, lens, project=True)
        alone = [encoder(row[None], project=True) for row in rows]
    for out, singles in zip(batched, zip(*alone, strict=True), strict=True):
        expected = torch.cat(singles)
        assert (out - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("backbone", SMALL)
def test_training_does_not_depend_on_the_amount_of_padding(backbone):
    encoder = UtteranceEncoder(backbone, projection_dim=16, **SMALL[backbone])
    other = copy.deepcopy(encoder)
    _, wavs, lens = padded_batch()
    further = F.pad(wavs, (0, 40000), value=0.5)
    expected = encoder(wavs, lens, project=True)
    out = other(further, lens * wavs.shape[1] / further.shape[1], project=True)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(other.state_dict(), encoder.state_dict(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backbone", SMALL)
def test_training_statistics_are_those_of_valid_frames(backbone):
    """The first running statistics equal those of the rows taken one by one."""
    encoder = UtteranceEncoder(backbone, **SMALL[backbone])
    block = encoder.backbone.blocks[0]
    norm = encoder.backbone.norm if backbone == "tdnn" else block.norm
    rows, wavs, lens = padded_batch()
    encoder(wavs, lens)
    frames = []
    for row in rows:
        features, _ = encoder.features(row[None], valid_samples(row[None]))
        if backbone == "ecapa":
            features = torch.relu(block.conv(reflect_pad(features, 2)))
        frames.append(features[0])
    frames = torch.cat(frames, dim=1)
    for running, start, batch in [
        (norm.running_mean, 0.0, frames.mean(1)),
        (norm.running_var, 1.0, frames.var(1)),
    ]:
        torch.testing.assert_close(running, 0.9 * start + 0.1 * batch, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backbone", SMALL)
def test_padded_samples_carry_no_gradient(backbone):
    encoder = UtteranceEncoder(backbone, **SMALL[backbone])
    _, wavs, lens = padded_batch((0.5, 1.0), fill=0.3)
    wavs.requires_grad_()
    (encoder(wavs, lens) * torch.randn(2, 24)).sum().backward()
    assert (wavs.grad[0, 8000:] == 0).all()
    assert wavs.grad[0, :8000].abs().max() > 0


@pytest.mark.parametrize("training", [True, False])
def test_equals_speechbrains_ecapa_with_its_weights(training):
    theirs = ECAPA_TDNN(
        80, lin_neurons=24, channels=[32] * 4 + [96], attention_channels=16, se_channels=16
    )
    randomise_norms(theirs)
    normalise = InputNormalization(norm_type="sentence", std_norm=False)
    with torch.no_grad():
        for _ in range(30):
            theirs(normalise(Fbank(n_mels=80)(0.3 * torch.randn(4, 8000))))
    encoder = UtteranceEncoder("ecapa", **SMALL["ecapa"])
    head = copy.deepcopy(encoder.projection.state_dict())
    import_weights(encoder, theirs.state_dict())
    wavs = torch.stack([speech_like(16000 + 57) for _ in range(3)])
    expected = theirs.train(training)(normalise(Fbank(n_mels=80)(wavs))).squeeze(1)
    out = encoder.train(training)(wavs)
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()
    torch.testing.assert_close(encoder.projection.state_dict(), head)
    statistics = theirs.blocks[1].res2net_block.blocks[3].norm.norm.running_var
    ours = encoder.backbone.blocks[1].res2net_block.blocks[3].norm.running_var
    torch.testing.assert_close(ours, statistics, atol=1e-5, rtol=1e-4)


def test_import_names_what_does_not_fit_and_changes_nothing():
    encoder = UtteranceEncoder("ecapa", **SMALL["ecapa"])
    before = copy.deepcopy(encoder.state_dict())
    theirs = ECAPA_TDNN(
        80, lin_neurons=24, channels=[32] * 4 + [96], attention_channels=16, se_channels=16
    ).state_dict()
    missing = {k: v for k, v in theirs.items() if k != "mfa.norm.norm.running_mean"}
    with pytest.raises(ValueError, match="mfa.norm.norm.running_mean: missing"):
        import_weights(encoder, missing)
    with pytest.raises(ValueError, match="head.conv.weight: no such tensor"):
        import_weights(encoder, {**theirs, "head.conv.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"fc.conv.weight: shape \(5, 192, 1\), expected"):
        import_weights(encoder, {**theirs, "fc.conv.weight": torch.zeros(5, 192, 1)})
    with pytest.raises(ValueError, match="backbone 'ecapa'"):
        import_weights(UtteranceEncoder("tdnn", **SMALL["tdnn"]), theirs)
    torch.testing.assert_close(encoder.state_dict(), before)


@pytest.mark.parametrize("samples", [16000, 16159, 400])
def test_features_of_one_row_are_speechbrains(samples):
    wavs = speech_like(samples)[None]
    expected = InputNormalization(norm_type="sentence", std_norm=False)(Fbank(n_mels=80)(wavs))
    features, lengths = LogMel()(wavs, valid_samples(wavs))
    assert lengths.counts.tolist() == [expected.shape[1]]
    torch.testing.assert_close(features.transpose(1, 2), expected, atol=1e-4, rtol=1e-5)


def test_features_ignore_the_loud_end_that_a_padded_frame_would_see():
    """A click at the very end lies in the middle of the first frame beyond the end."""
    wav = 1e-4 * torch.randn(160 * 20 + 159)
    wav[-1] = 1.0
    alone, _ = LogMel()(wav[None], valid_samples(wav[None]))
    padded = F.pad(wav, (0, 900))[None]
    features, _ = LogMel()(padded, valid_samples(padded, torch.tensor([len(wav) / len(padded[0])])))
    torch.testing.assert_close(features[..., :21], alone, atol=1e-4, rtol=1e-5)
    assert (features[..., 21:] == 0).all()


def test_features_are_float32_under_autocast():
    wavs = speech_like(16000)[None]
    samples = valid_samples(wavs)
    expected, _ = LogMel()(wavs, samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, _ = LogMel()(wavs, samples)
    assert torch.equal(features, expected)


@pytest.mark.parametrize("pad", [1, 2, 4])
def test_reflect_pad_reflects_at_each_rows_own_end(pad):
    x = torch.randn(3, 2, 9)
    lens = torch.tensor([9, 5, 6])
    out = reflect_pad(x, pad, lens)
    for row, n in enumerate(lens.tolist()):
        expected = F.pad(x[row, :, :n], (pad, pad), mode="reflect")
        assert torch.equal(out[row, :, : n + 2 * pad], expected)
    assert torch.equal(reflect_pad(x, pad), F.pad(x, (pad, pad), mode="reflect"))


def test_reflect_pad_folds_short_rows():
    x = torch.tensor([[[1.0, 2.0, 0.0]], [[5.0, 0.0, 0.0]]])
    out = reflect_pad(x, 4, torch.tensor([2, 1]))
    assert out[0, 0, :10].tolist() == [1, 2, 1, 2, 1, 2, 1, 2, 1, 2]
    assert out[1, 0, :9].tolist() == [5] * 9
    assert reflect_pad(x[:1, :, :2], 3).tolist() == [[[2, 1, 2, 1, 2, 1, 2, 1]]]


@pytest.mark.parametrize("backbone", SMALL)
def test_the_shortest_rows_agree_too(backbone):
    encoder = encoder_with_statistics(backbone)
    rows, wavs, lens = padded_batch((0.025, 0.031, 0.2))
    with torch.no_grad():
        expected = torch.cat([encoder(row[None]) for row in rows])
        out = encoder(wavs, lens)
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()


def test_refuses_rows_without_a_frame():
    encoder = UtteranceEncoder("tdnn", **SMALL["tdnn"])
    with pytest.raises(ValueError, match="row 1 of wavs has 399 valid samples"):
        encoder(torch.randn(2, 16000), torch.tensor([1.0, 399 / 16000]))
    with pytest.raises(ValueError, match=r"\(batch, samples\)"):
        encoder(torch.randn(2, 1, 16000))


def test_refuses_unknown_configurations():
    with pytest.raises(ValueError, match="'ecapa' or 'tdnn'"):
        UtteranceEncoder("resnet")
    with pytest.raises(ValueError, match="multiple of res2net_scale"):
        UtteranceEncoder("ecapa", channels=30)


@pytest.mark.parametrize("backbone", SMALL)
def test_config_rebuilds_the_architecture(backbone):
    encoder = UtteranceEncoder(backbone, projection_dim=16, **SMALL[backbone])
    again = UtteranceEncoder(**encoder.config)
    again.load_state_dict(encoder.state_dict())
    assert all(isinstance(v, (str, int)) for v in encoder.config.values())


@pytest.mark.parametrize("backbone", SMALL)
def test_frames_and_pooling_compose_to_the_embedding(backbone):
    encoder = encoder_with_statistics(backbone)
    _, wavs, lens = padded_batch((0.5, 1.0))
    bands, lengths = encoder.features(wavs, valid_samples(wavs, lens))
    padding = frame_lens, _ = lengths.lens, lengths.valid
    frames = encoder.backbone.frames(bands, padding)
    hop = encoder.features.hop
    pooled_channels = {"ecapa": 96, "tdnn": 96 + 80}[backbone]
    assert frames.shape == (2, pooled_channels, 1 + 16000 // hop)
    assert frame_lens.tolist() == [1 + 8000 // hop, 1 + 16000 // hop]
    assert (frames[0, :, frame_lens[0] :] == 0).all()
    assert torch.equal(encoder.backbone.embed(frames, padding), encoder(wavs, lens))


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("loudness", [0.0, 1e-5, 1.0])
def test_bfloat16_autocast_is_finite(backbone, loudness):
    encoder = UtteranceEncoder(backbone, **SMALL[backbone])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, projection = encoder(loudness * torch.randn(3, 8000), project=True)
        loss = out.float().square().sum() + projection.float().square().sum()
    loss.backward()
    assert out.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("backbone", SMALL)
def test_bfloat16_autocast_is_close_to_float32(backbone):
    encoder = encoder_with_statistics(backbone)
    _, wavs, lens = padded_batch((0.5, 1.0))
    with torch.no_grad():
        expected = encoder(wavs, lens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = encoder(wavs, lens)
    assert torch.cosine_similarity(out, expected).min() > 0.99


WIDTHS = {"utterance_tiny": 128, "utterance_small": 192, "utterance_base": 192}


@pytest.mark.parametrize("name, width", WIDTHS.items())
def test_fragments_build_by_themselves_and_included(name, width, request):
    path = request.config.rootpath / "hparams" / f"{name}.yaml"
    encoder = load_hyperpyyaml(path.read_text())["utterance_encoder"]
    assert encoder.config["embedding_dim"] == width
    including = f"part: !include:{path}\n    channels: 16\nenc: !ref <part[utterance_encoder]>"
    encoder = load_hyperpyyaml(including)["enc"].eval()
    assert encoder.config["channels"] == 16
    assert encoder(torch.randn(2, 8000)).shape == (2, width)


@pytest.mark.parametrize("centre_bands", [True, False])
def test_log_mel_drops_the_level_and_where_asked_the_long_term_spectrum(centre_bands):
    wavs = torch.randn(1, 16000)
    samples = valid_samples(wavs)
    bands, _ = LogMel(320, centre_bands)(wavs, samples)
    louder, _ = LogMel(320, centre_bands)(10 * wavs, samples)
    assert torch.allclose(bands, louder, atol=1e-3)
    assert abs(bands.mean()) < 1e-3
    assert bool((bands.mean(2).abs().max() < 1e-3) == centre_bands)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_whitening_flattens_the_embeddings_and_keeps_the_projections(power):
    encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=6, projection_dim=5).eval()
    with torch.no_grad():
        encoder.backbone.fc.weight[0] *= 100  # one direction that dominates
        before, projections = encoder(wavs := torch.randn(400, 800), project=True)
        before = before.double()
        covariance = torch.cov(before.T)
        encoder.whiten(before.mean(0), covariance, power)
        after, same = encoder(wavs, project=True)
    assert torch.allclose(projections, same, atol=1e-4 * projections.abs().max())
    assert after.mean(0).abs().max() < 1e-3 * after.std()
    old = torch.linalg.eigvalsh(covariance)
    old = old / old.mean()
    new = torch.linalg.eigvalsh(torch.cov(after.double().T))
    assert torch.allclose(new / covariance.trace() * 6, old / (old + 0.01) ** power, rtol=1e-3)


def test_directions_are_taken_off_the_embeddings_and_no_others():
    encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=6).eval()
    wavs = torch.randn(5, 800)
    directions = torch.linalg.qr(torch.randn(6, 2, dtype=torch.double)).Q.T
    with torch.no_grad():
        before = encoder(wavs).double()
        encoder.project_out(directions)
        after = encoder(wavs).double()
    expected = before - before @ directions.T @ directions
    torch.testing.assert_close(after, expected, atol=1e-5 * before.abs().max(), rtol=0)


def test_whitening_on_fewer_utterances_than_dimensions_is_finite():
    encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=24, projection_dim=5).eval()
    few = encoder(torch.randn(3, 800)).double().detach()
    encoder.whiten(few.mean(0), torch.cov(few.T), 1.0)
    assert encoder(torch.randn(2, 800)).isfinite().all()
