"""The frame encoder: front ends, attention, masking, padding, fragments."""

import json
import math
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from torch.nn import functional as F

from lobes.frame_encoder import FrameEncoder
from lobes.front_ends import FbankFrontEnd
from lobes.signal import num_frames
from lobes.transformer import (
    GatedBiasSelfAttention,
    LongConv,
    SelfAttention,
    relative_position_bucket,
)
from pretrained.toolkits.names import export_state_dict

HPARAMS = Path(__file__).parents[2] / "hparams"
BASE = [("frame_base", attention) for attention in ("hubert", "wavlm")]
FRAGMENTS = [
    ("frame_tiny", "hubert"),
    ("frame_small", "hubert"),
    *(pytest.param(*one, marks=pytest.mark.long) for one in BASE),
]
SMALL = {
    "conv_channels": 32,
    "d_model": 32,
    "num_layers": 3,
    "nhead": 4,
    "d_ffn": 64,
    "pos_conv_kernel": 16,
    "pos_conv_groups": 4,
    "num_targets": 20,
    "head_dim": 16,
    "dropout": 0.0,
}
KINDS = [(f, a) for f in ("waveform", "fbank") for a in ("hubert", "wavlm")]
every_kind = pytest.mark.parametrize(("frontend", "attention"), KINDS)
every_frontend = pytest.mark.parametrize("frontend", ["waveform", "fbank"])


def small_encoder(seed=0, **changes):
    """Return a small encoder none of whose parameters is trivially zero or one."""
    torch.manual_seed(seed)
    encoder = FrameEncoder(**(SMALL | changes))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def padded_batch(lengths, seed=0, padding=0.0):
    """Return wavs, relative lengths and the utterances alone."""
    generator = torch.Generator().manual_seed(seed)
    rows = [0.1 * torch.randn(length, generator=generator) for length in lengths]
    wavs = torch.full((len(rows), max(lengths)), padding)
    for wav, row in zip(wavs, rows, strict=True):
        wav[: len(row)] = row
    return wavs, torch.tensor(lengths) / max(lengths), [row[None] for row in rows]


def assert_batch_agrees(encoder, batch, mask=None, tolerance=1e-4):
    """Assert that each row's hidden states and logits are those of the utterance alone."""
    wavs, wav_lens, alone = batch
    flags = {"output_hidden_states": True, "return_logits": True}
    with torch.no_grad():
        frames, hidden, logits = encoder(wavs, wav_lens, mask, **flags)
        for i, wav in enumerate(alone):
            n = num_frames(wav.shape[1])
            one, one_hidden, one_logits = encoder(
                wav, None, None if mask is None else mask[i : i + 1, :n], **flags
            )
            pairs = zip([frames, *hidden, logits], [one, *one_hidden, one_logits], strict=True)
            for padded, single in pairs:
                difference = (padded[i, :n] - single[0]).abs().max()
                assert difference <= tolerance * single.abs().max()
                assert not padded[i, n:].any()


def load_fragment(name, overrides=None):
    with open(HPARAMS / f"{name}.yaml", encoding="utf-8") as stream:
        return load_hyperpyyaml(stream, overrides)["frame_encoder"]


# ---- Frame counts


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(0, 0), (79, 0), (80, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16000, 49), (560000, 1749)],
)
def test_num_frames_at_the_boundaries(samples, frames):
    counted = num_frames(torch.tensor([[samples]]))
    assert num_frames(samples) == frames and type(num_frames(samples)) is int
    assert counted.tolist() == [[frames]] and counted.dtype == torch.int64


@every_frontend
@pytest.mark.parametrize("samples", [400, 559, 560, 719, 720, 879, 880, 7777, 16000, 16239, 16240])
def test_both_front_ends_give_that_many_frames(frontend, samples):
    encoder = small_encoder(frontend=frontend).eval()
    assert encoder(torch.randn(1, samples)).shape == (1, num_frames(samples), 32)


def test_relative_lengths_are_rounded():
    encoder = small_encoder()
    # The least number of samples for each number of frames: truncation would lose one for many.
    samples = torch.arange(400, 116800, 320)
    assert not torch.equal((samples / 116800 * 116800).long(), samples)
    lens = encoder.frame_lens(torch.zeros(1, 116800).expand(len(samples), -1), samples / 116800)
    assert lens.tolist() == list(range(1, 365)) and lens.dtype == torch.int64
    assert encoder.frame_lens(torch.zeros(2, 720)).tolist() == [2, 2]


# ---- What forward returns


def test_what_forward_returns():
    encoder = small_encoder().eval()
    wavs = torch.randn(2, 8000)
    frames = encoder(wavs)
    pair = encoder(wavs, output_hidden_states=True)
    with_logits = encoder(wavs, return_logits=True)
    triple = encoder(wavs, output_hidden_states=True, return_logits=True)
    assert frames.shape == (2, 24, 32)
    assert [len(pair), len(with_logits), len(triple)] == [2, 2, 3]
    assert len(pair[1]) == 4 and all(x.shape == frames.shape for x in pair[1])
    assert torch.equal(pair[1][-1], frames) and not torch.equal(pair[1][0], pair[1][1])
    assert with_logits[1].shape == (2, 24, 20) and torch.equal(triple[2], with_logits[1])


def test_hidden_states_are_the_layers_inputs_and_outputs():
    encoder = small_encoder().eval()
    seen = []
    for layer in encoder.transformer.layers:
        layer.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    _, hidden = encoder(torch.randn(1, 8000), output_hidden_states=True)
    for i, (layer_input, layer_output) in enumerate(seen):
        assert torch.equal(hidden[i], layer_input) and torch.equal(hidden[i + 1], layer_output)


def test_config_rebuilds_the_encoder():
    encoder = small_encoder(frontend="fbank", attention="wavlm", head="linear").eval()
    twin = FrameEncoder(**json.loads(json.dumps(encoder.config))).eval()
    twin.load_state_dict(encoder.state_dict())
    wavs = torch.randn(2, 8000)
    for ours, theirs in zip(
        encoder(wavs, return_logits=True), twin(wavs, return_logits=True), strict=True
    ):
        assert torch.equal(ours, theirs)


def erased(directions=8):
    """Return an encoder, another that has had directions erased, and what they were found from."""
    encoder, changed = small_encoder().eval(), small_encoder().eval()
    changed.load_state_dict(encoder.state_dict())
    z = encoder(torch.randn(60, 8000)).detach().double()
    u = torch.randn(60, 5).double()
    evidence = z.mean((0, 1)), torch.cov(z.flatten(0, 1).T), z.mean(1), u
    changed.erase(directions, *evidence)
    return encoder, changed, evidence


def test_erasing_changes_the_frames_and_nothing_before_them():
    encoder, changed, _ = erased(3)
    wavs, lens, mask = torch.randn(2, 8000), torch.tensor([1.0, 0.6]), torch.rand(2, 24) < 0.3
    with torch.no_grad():
        plain = encoder(wavs, lens, mask, output_hidden_states=True, return_logits=True)
        frames, hidden, logits = changed(wavs, lens, mask, True, True)
        same = changed.erasure(plain[0])
    assert torch.equal(logits, plain[2]) and torch.equal(hidden[-1], frames)
    assert all(map(torch.equal, hidden[:-1], plain[1][:-1]))
    assert torch.equal(frames[0], same[0]) and (frames[1, 14:] == 0).all()
    assert torch.linalg.matrix_rank((plain[0] - frames)[0], atol=1e-3) == 3


def test_an_encoder_with_erased_directions_is_rebuilt_from_its_config():
    _, changed, _ = erased()
    twin = FrameEncoder(**json.loads(json.dumps(changed.config))).eval()
    wavs = torch.randn(1, 8000)
    assert not torch.equal(twin(wavs), changed(wavs))
    twin.load_state_dict(changed.state_dict())
    assert torch.equal(twin(wavs), changed(wavs))


def test_erasing_twice_or_too_much_is_refused():
    encoder, changed, evidence = erased()
    with pytest.raises(ValueError, match="erase once"):
        changed.erase(1, *evidence)
    with pytest.raises(ValueError, match="erased_directions is 33: .* 0 to 32"):
        encoder.erase(33, *evidence)


def test_an_export_to_a_layout_without_erasing_is_refused_or_of_the_frames_before():
    encoder, changed, _ = erased()
    with pytest.raises(ValueError, match="8 directions are erased.*--changes_apart"):
        export_state_dict(changed)
    state_dict = export_state_dict(changed, changes_apart=True)
    plain = export_state_dict(encoder)
    assert state_dict.keys() == plain.keys()
    assert all(torch.equal(state_dict[name], plain[name]) for name in plain)


def test_wrong_arguments_are_named():
    encoder = small_encoder()
    with pytest.raises(ValueError, match=r"\[399, 200\] valid samples, and a frame takes 400"):
        encoder(torch.randn(2, 1000), torch.tensor([0.399, 0.2]))
    with pytest.raises(ValueError, match=r"\[399\] valid samples"):
        encoder(torch.randn(1, 399))
    with pytest.raises(ValueError, match=r"wavs must be \(batch, samples\)"):
        encoder(torch.randn(2, 1, 8000))
    with pytest.raises(ValueError, match="wav_lens must have one value for each of the 2 rows"):
        encoder(torch.randn(2, 8000), torch.ones(3))
    with pytest.raises(ValueError, match=r"mask must be .* \(2, 24\), not \(2, 25\)"):
        encoder(torch.randn(2, 8000), mask=torch.zeros(2, 25, dtype=torch.bool))
    for key in ("frontend", "attention", "head"):
        with pytest.raises(ValueError, match=f"{key} must be one of .* not 'nonsense'"):
            FrameEncoder(**{key: "nonsense"})
    with pytest.raises(ValueError, match="multiple of nhead"):
        FrameEncoder(d_model=30, nhead=4)
    for directions in (-1, 33, 2.5):
        with pytest.raises(ValueError, match=f"erased_directions is {directions}: .* 0 to 32"):
            small_encoder(erased_directions=directions)


# ---- Padding


@pytest.mark.parametrize(("fragment", "attention"), FRAGMENTS)
def test_shipped_encoders_do_not_see_padding(fragment, attention):
    encoder = load_fragment(fragment, {"attention": attention}).eval()
    assert_batch_agrees(encoder, padded_batch([16000, 48000, 116800]))


@pytest.mark.parametrize(("fragment", "attention"), FRAGMENTS)
def test_shipped_encoders_do_not_see_padding_in_training_and_with_masks(fragment, attention):
    given = {"attention": attention, "dropout": 0.0, "layer_drop": 0.0}
    encoder = load_fragment(fragment, given).train()
    mask = torch.rand(3, num_frames(36000)) < 0.5
    assert_batch_agrees(encoder, padded_batch([5000, 14000, 36000]), mask)


@every_kind
@pytest.mark.parametrize("padding", [7.0, math.nan])
def test_what_padding_holds_does_not_matter(frontend, attention, padding):
    encoder = small_encoder(frontend=frontend, attention=attention).eval()
    lengths = [400, 719, 720, 7777, 15999, 16000]
    mask = torch.rand(6, num_frames(16000)) < 0.5
    assert_batch_agrees(encoder, padded_batch(lengths, padding=padding), mask)


def test_silent_bands_do_not_see_padding():
    # What a telephone leaves: nothing above 4 kHz, so those bands lie at the floor throughout.
    encoder = load_fragment("frame_tiny").eval()
    wavs, wav_lens, alone = padded_batch([16000, 48000, 116800])
    for wav, row in zip(wavs, alone, strict=True):
        time = torch.arange(row.shape[1]) / 16000
        row[0] = sum(0.1 * torch.sin(2 * math.pi * hertz * time) for hertz in (200, 900, 2100))
        wav[: row.shape[1]] = row[0]
    assert_batch_agrees(encoder, (wavs, wav_lens, alone), tolerance=1e-5)


@every_frontend
def test_a_batch_wider_than_its_longest_row(frontend):
    encoder = small_encoder(frontend=frontend).eval()
    wavs, _, _ = padded_batch([8000, 4000])
    narrow = encoder(wavs, torch.tensor([1.0, 0.5]))
    wide = encoder(F.pad(wavs, (0, 8000)), torch.tensor([0.5, 0.25]))
    assert wide.shape[1] == 49 and not wide[:, 24:].any()
    assert torch.allclose(wide[:, :24], narrow, atol=1e-5)


@every_kind
def test_a_row_without_a_frame_is_zero_and_harms_no_other(frontend, attention):
    encoder = small_encoder(frontend=frontend, attention=attention).train()
    wavs, wav_lens, alone = padded_batch([8000, 399, 5])
    wavs.requires_grad_()
    mask = torch.rand(3, 24) < 0.5
    frames, logits = encoder(wavs, wav_lens, mask, return_logits=True)
    assert torch.isfinite(frames).all() and torch.isfinite(logits).all()
    assert not frames[1:].any() and not logits[1:].any()
    assert torch.allclose(frames[:1], encoder(alone[0], None, mask[:1]), atol=1e-5)
    (frames.square().sum() + logits.square().sum()).backward()
    assert not wavs.grad[1:].any()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_every_row_has_something_to_attend_to():
    encoder = small_encoder()
    seen = []
    for layer in encoder.transformer.layers:
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    wavs, wav_lens, _ = padded_batch([8000, 4000, 5])
    encoder(wavs, wav_lens)
    # A softmax over nothing is NaN in some attention kernels, though not in all.
    assert all(keys.sum(dim=-1).flatten().tolist() == [24, 12, 24] for keys in seen)
    seen.clear()
    encoder(wavs)
    assert seen == [None] * 3


@every_kind
def test_padded_samples_get_no_gradient(frontend, attention):
    encoder = small_encoder(frontend=frontend, attention=attention).train()
    wavs, wav_lens, _ = padded_batch([16000, 5000], padding=0.3)
    wavs.requires_grad_()
    encoder(wavs, wav_lens)[1].square().sum().backward()
    assert not wavs.grad[0].any() and not wavs.grad[1, 5000:].any()
    assert (wavs.grad[1, :4880] != 0).float().mean() > 0.9


# ---- Front ends


def test_fbank_bands_are_normalised_per_row_and_none_is_empty():
    front_end = FbankFrontEnd(channels=8)
    assert (front_end.mel.mel_scale.fb.sum(dim=0) > 0).all()
    wavs, _, _ = padded_batch([16000, 5000])
    bands = front_end._normalised_bands(wavs, torch.tensor([16000, 5000]))
    assert bands.shape == (2, 80, 98) and not bands[1, :, 29:].any()
    for row, frames in ((0, 98), (1, 29)):
        valid = bands[row, :, :frames]
        assert valid.mean(dim=1).abs().max() < 1e-5
        assert torch.allclose(valid.std(dim=1, correction=0), torch.ones(80), atol=1e-3)


def test_fbank_takes_silence():
    encoder = small_encoder(frontend="fbank").train()
    frames = encoder(torch.zeros(1, 8000))
    frames.square().sum().backward()
    assert torch.isfinite(frames).all()


@every_frontend
def test_front_ends_see_the_same_stretch_of_the_signal(frontend):
    encoder = small_encoder(frontend=frontend)
    reach = {"waveform": (0, 400), "fbank": (-160, 560)}[frontend]
    wavs = torch.randn(1, 16000, requires_grad=True)
    # Normalisation spreads a little of every sample over the row: look at the bulk.
    encoder.front_end(wavs, torch.tensor([16000]))[0, 20].square().sum().backward()
    share = wavs.grad[0].square()
    inside = share[20 * 320 + reach[0] : 20 * 320 + reach[1]].sum()
    assert inside > 0.9 * share.sum()


def test_feature_gradient_multiplier():
    gradients = []
    for multiplier in (1.0, 0.25):
        encoder = small_encoder(feature_grad_mult=multiplier)
        wavs = padded_batch([8000, 6000])[0]
        encoder(wavs).square().mean().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters()})
    for name, full in gradients[0].items():
        if full is not None:
            factor = 0.25 if name.startswith("front_end") else 1.0
            assert torch.allclose(gradients[1][name], factor * full, rtol=1e-4, atol=1e-8), name


# ---- Masking


@every_frontend
def test_features_of_masked_frames_do_not_matter(frontend):
    encoder = small_encoder(frontend=frontend).eval()
    wavs = torch.randn(1, 16000)
    mask = torch.zeros(1, 49, dtype=torch.bool)
    mask[0, 10:30] = True
    masked = encoder(wavs, mask=mask)
    assert not torch.allclose(masked, encoder(wavs), atol=1e-2)

    def change(module, args, features, where):
        return torch.where(where[..., None], features + torch.randn_like(features), features)

    for where, same in ((mask, True), (~mask, False)):
        handle = encoder.front_end.register_forward_hook(
            lambda *args, where=where: change(*args, where=where)
        )
        assert torch.equal(encoder(wavs, mask=mask), masked) == same
        handle.remove()


def test_masked_frames_hold_the_mask_embedding():
    encoder = small_encoder().eval()
    seen = []
    encoder.transformer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    mask = torch.rand(2, 24) < 0.5
    wavs, wav_lens, _ = padded_batch([8000, 4000])
    encoder(wavs, wav_lens, mask)
    mask[1, 12:] = False
    assert (seen[0][mask] == encoder.mask_embedding).all()
    assert not seen[0][1, 12:].any()


# ---- Attention


def slow_attention(attention, x, lens, bias_of=None):
    """Attend one row, head and frame after the other; `bias_of(head, query, key)` in addition."""
    out = torch.zeros_like(x)
    size = x.shape[2] // attention.nhead
    for b in range(len(x)):
        rows = [p(x[b]) for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
        for h in range(attention.nhead):
            q, k, v = (row[:, h * size : (h + 1) * size] for row in rows)
            for t in range(x.shape[1]):
                scores = torch.stack([q[t] @ k[s] / math.sqrt(size) for s in range(lens[b])])
                if bias_of is not None:
                    head_input = x[b, t, h * size : (h + 1) * size]
                    scores = scores + bias_of(h, t, head_input)[: lens[b]]
                out[b, t, h * size : (h + 1) * size] = scores.softmax(0) @ v[: lens[b]]
    return attention.out_proj(out)


@pytest.mark.parametrize("lens", [[9, 9], [9, 4]])
@pytest.mark.parametrize("kind", [SelfAttention, GatedBiasSelfAttention])
def test_attention_agrees_with_a_loop(kind, lens):
    torch.manual_seed(0)
    attention = kind(16, 4, 0.0)
    x = torch.randn(2, 9, 16)
    keys = None if min(lens) == 9 else torch.arange(9)[None, :] < torch.tensor(lens)[:, None]
    keys = None if keys is None else keys[:, None, None]
    bias, bias_of = None, None
    if kind is GatedBiasSelfAttention:
        bias = torch.randn(4, 9, 9)
        torch.nn.init.normal_(attention.gru_rel_pos_const)

        def bias_of(head, query, head_input):
            gates = attention.gru_rel_pos_linear(head_input)
            update, reset = torch.sigmoid(gates[:4].sum()), torch.sigmoid(gates[4:].sum())
            scaled = attention.gru_rel_pos_const[0, head, 0, 0] * reset * bias[head, query]
            return bias[head, query] + update * scaled + (1 - update) * bias[head, query]

    with torch.no_grad():
        expected = slow_attention(attention, x, lens, bias_of)
        assert torch.allclose(attention(x, keys, bias), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("frames", "channels", "kernel", "groups"),
    [(50, 8, 16, 2), (7, 8, 16, 2), (1, 8, 128, 4), (200, 32, 128, 16), (30, 3, 5, 1)],
)
def test_gradients_of_a_long_convolution(frames, channels, kernel, groups):
    generator = torch.Generator().manual_seed(0)
    like = {"dtype": torch.float64, "generator": generator}
    x = torch.randn(2, channels, frames, **like).requires_grad_()
    weight = torch.randn(channels, channels // groups, kernel, **like).requires_grad_()
    expected = F.conv1d(x, weight, padding=kernel // 2, groups=groups)
    found = LongConv.apply(x, weight, kernel // 2, groups)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    given = torch.randn(expected.shape, **like)
    gradients = (torch.autograd.grad(y, (x, weight), given) for y in (found, expected))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_relative_positions_agree_with_the_formula():
    for distance in (*range(-1000, 1001), -50_000, 50_000):
        size = abs(distance)
        if size >= 80:
            size = min(159, math.floor(80 * (1 + math.log(size / 80) / math.log(10)) + 1e-9))
        expected = size + (160 if distance > 0 else 0)
        # float32 may fall on the other side of a border by rounding, and there only.
        found = relative_position_bucket(torch.tensor(distance)).item()
        assert found == expected or (abs(found - expected) == 1 and abs(distance) % 80 == 0)


def test_wavlm_attention_depends_on_the_sign_of_a_distance():
    encoder = small_encoder(attention="wavlm")
    bias = encoder.transformer._position_bias(5)
    table = encoder.transformer.rel_attn_embed.weight
    assert bias.shape == (4, 5, 5)
    assert torch.equal(bias[:, 1, 3], table[162]) and torch.equal(bias[:, 3, 1], table[2])


# ---- Training


@every_kind
@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_every_parameter_is_trained(frontend, attention, head):
    encoder = small_encoder(frontend=frontend, attention=attention, head=head).train()
    wavs, wav_lens, _ = padded_batch([8000, 4000])
    mask = torch.rand(2, 24) < 0.5
    _, logits = encoder(wavs, wav_lens, mask, return_logits=True)
    F.cross_entropy(logits[mask], torch.randint(0, 20, (int(mask.sum()),))).backward()
    # A constant added to all keys shifts no softmax, so that their biases have no gradient.
    idle = [n for n, p in encoder.named_parameters() if not p.grad.any() and "k_proj.bias" not in n]
    assert not idle


def test_layers_are_passed_by_in_training_only():
    encoder = small_encoder(attention="wavlm", layer_drop=1.0)
    wavs = torch.randn(1, 8000)
    _, hidden = encoder.train()(wavs, output_hidden_states=True)
    assert all(torch.equal(x, hidden[0]) for x in hidden)
    hidden[-1].square().sum().backward()
    assert all(
        p.grad is not None and not p.grad.any() for p in encoder.transformer.layers.parameters()
    )
    _, hidden = encoder.eval()(wavs, output_hidden_states=True)
    assert not any(torch.equal(a, b) for a, b in zip(hidden, hidden[1:], strict=False))


def test_layers_are_passed_by_as_often_as_asked_and_by_the_seed():
    encoder = small_encoder(num_layers=40, layer_drop=0.25).train()

    def passed(seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            _, hidden = encoder(torch.ones(1, 800), output_hidden_states=True)
        return [torch.equal(a, b) for a, b in zip(hidden, hidden[1:], strict=False)]

    assert passed(0) == passed(0) != passed(1)
    assert 0.15 < sum(sum(passed(seed)) for seed in range(10)) / 400 < 0.35


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "activation_dropout"])
def test_dropouts_act_in_training_only(name):
    encoder = small_encoder(**{name: 0.5})
    wavs = torch.randn(1, 8000)
    assert not torch.equal(encoder.train()(wavs), encoder(wavs))
    assert torch.equal(encoder.eval()(wavs), encoder(wavs))


@every_kind
def test_bfloat16_agrees_with_float32(frontend, attention):
    encoder = small_encoder(frontend=frontend, attention=attention).train()
    wavs, wav_lens, _ = padded_batch([8000, 4000, 300])
    mask = torch.rand(3, 24) < 0.5
    units = torch.randint(0, 20, (int(mask.sum()),))
    results = []
    for enabled in (False, True):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            frames, logits = encoder(wavs, wav_lens, mask, return_logits=True)
        F.cross_entropy(logits[mask], units).backward()
        gradients = {n: p.grad.clone() for n, p in encoder.named_parameters()}
        results.append({"frames": frames.detach().float()} | gradients)
    for name, exact in results[0].items():
        assert torch.isfinite(results[1][name]).all()
        # The key biases' gradients are nothing but rounding errors.
        if "k_proj.bias" not in name:
            assert (results[1][name] - exact).norm() < 0.1 * exact.norm(), name


def test_group_norm_statistics_are_float32_under_bfloat16():
    encoder = small_encoder().eval()
    wavs, wav_lens, alone = padded_batch([16000, 8000])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        samples = torch.tensor([16000, 8000])
        padded = encoder.front_end(wavs, samples)[1, :24]
        single = encoder.front_end(alone[1], samples[1:])[0]
    assert padded.dtype == torch.bfloat16 and torch.equal(padded, single)


# ---- Heads


def test_cosine_head_gives_cosines_over_the_temperature():
    encoder = small_encoder(temperature=0.2).eval()
    frames, logits = encoder(torch.randn(1, 8000), return_logits=True)
    projected = encoder.head.projection(frames[0, 3])
    expected = F.cosine_similarity(projected[None], encoder.head.embeddings) / 0.2
    assert torch.allclose(logits[0, 3], expected, atol=1e-5)
    assert logits.abs().max() <= 5.0 + 1e-4


def test_linear_head():
    encoder = small_encoder(head="linear").eval()
    frames, logits = encoder(torch.randn(1, 8000), return_logits=True)
    assert torch.allclose(logits, F.linear(frames, encoder.head.weight, encoder.head.bias))


# ---- Fragments


def test_base_has_the_size_of_hubert_base():
    encoder = load_fragment("frame_base")
    sizes = {name: module.numel() for name, module in encoder.named_parameters()}
    assert sum(n for name, n in sizes.items() if not name.startswith("head.")) == 94_371_712
    assert encoder.config["feature_grad_mult"] == 0.1 and encoder.config["layer_drop"] == 0.05
    assert encoder.config["dropout"] == 0.1 and encoder.config["attention_dropout"] == 0.0


@pytest.mark.parametrize(("fragment", "attention"), FRAGMENTS)
def test_fragments_can_be_included_and_overridden(fragment, attention, tmp_path):
    (tmp_path / "fragment.yaml").write_text((HPARAMS / f"{fragment}.yaml").read_text())
    (tmp_path / "main.yaml").write_text(
        "clusters: 7\n"
        "frame: !include:fragment.yaml\n"
        "    num_targets: !ref <clusters>\n"
        "    layer_drop: 0.2\n"
        f"    attention: {attention}\n"
        "encoder: !ref <frame[frame_encoder]>\n"
    )
    with open(tmp_path / "main.yaml", encoding="utf-8") as stream:
        encoder = load_hyperpyyaml(stream, {"clusters": 9})["encoder"]
    assert encoder.head.embeddings.shape[0] == 9 and encoder.transformer.layer_drop == 0.2
    assert encoder.config["attention"] == attention
