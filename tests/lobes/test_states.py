"""States: what a head is given, whatever an utterance is batched with."""

import pytest
import torch

from lobes.frame_encoder import FrameEncoder
from lobes.states import FbankStates, FrameStates, PooledStates, UtteranceStates
from lobes.utterance_encoder import UtteranceEncoder

LENGTHS = [16000, 9000, 4000]


def frame_encoder():
    return FrameEncoder("fbank", 16, d_model=16, num_layers=2, nhead=2, d_ffn=32).eval()


def utterance_encoder():
    return UtteranceEncoder("tdnn", channels=8, embedding_dim=12, attention_channels=4).eval()


KINDS = {
    "frames": lambda: FrameStates(frame_encoder()),
    "utterance": lambda: UtteranceStates(utterance_encoder()),
    "fbank": FbankStates,
    "pooled": lambda: PooledStates(FbankStates()),
}


def batch():
    generator = torch.Generator().manual_seed(0)
    wavs = torch.zeros(3, 16000)
    for row, length in zip(wavs, LENGTHS, strict=True):
        row[:length] = 0.1 * torch.randn(length, generator=generator).cumsum(0) / length**0.5
    return wavs, torch.tensor(LENGTHS) / 16000


@pytest.mark.parametrize("kind", KINDS)
def test_states_do_not_depend_on_the_batch(kind):
    torch.manual_seed(0)
    states = KINDS[kind]()
    wavs, wav_lens = batch()
    with torch.no_grad():
        together, lens = states(wavs, wav_lens)
        assert together.shape[2:] == (states.num_layers, states.dim)
        for i, length in enumerate(LENGTHS):
            alone, one_len = states(wavs[i : i + 1, :length])
            assert alone.shape[1] == one_len == lens[i]
            scale = alone.abs().max()
            assert (together[i, : lens[i]] - alone[0]).abs().max() <= 1e-4 * scale
            assert not together[i, lens[i] :].any()


def test_the_states_of_frames_are_the_hidden_states():
    encoder, (wavs, wav_lens) = frame_encoder(), batch()
    states, lens = FrameStates(encoder)(wavs, wav_lens)
    _, hidden = encoder(wavs, wav_lens, output_hidden_states=True)
    assert all(torch.equal(states[:, :, i], layer) for i, layer in enumerate(hidden))
    assert torch.equal(lens, encoder.frame_lens(wavs, wav_lens))


def test_the_state_of_an_utterance_has_the_direction_of_its_embedding():
    encoder, (wavs, wav_lens) = utterance_encoder(), batch()
    states, _ = UtteranceStates(encoder)(wavs, wav_lens)
    embeddings = encoder(wavs, wav_lens)
    cosines = torch.cosine_similarity(states[:, 0, 0], embeddings, dim=1)
    torch.testing.assert_close(cosines, torch.ones(3))
    torch.testing.assert_close(states[:, 0, 0].square().mean(1), torch.ones(3))


def test_log_mel_bands_have_their_slopes_beside_them_without_level_and_range():
    states = FbankStates()
    wavs, _ = batch()
    made, lens = states(wavs[:1])
    assert lens.tolist() == [51]
    bands = states.features.fbank(wavs[:1])[0]
    orders = [bands - bands.mean()]
    for _ in range(2):
        x = torch.cat([torch.zeros(2, 80), orders[-1], torch.zeros(2, 80)])
        orders.append(0.2 * (x[4:] - x[:-4]) + 0.1 * (x[3:-1] - x[1:-3]))
    expected = torch.cat([x / x.square().mean().sqrt() for x in orders], dim=1)[::2]
    torch.testing.assert_close(made[0, :, 0], expected, rtol=1e-3, atol=1e-3)
    louder, _ = states(3 * wavs[:1])
    torch.testing.assert_close(louder, made, rtol=0, atol=1e-3)


def test_pooled_states_are_means_and_deviations_over_valid_frames():
    bands, (wavs, wav_lens) = FbankStates(), batch()
    pooled, lens = PooledStates(bands)(wavs, wav_lens)
    states, frames = bands(wavs, wav_lens)
    assert lens.tolist() == [1, 1, 1]
    own = states[1, : frames[1], 0]
    expected = torch.cat([own.mean(0), own.std(0, correction=0)])
    torch.testing.assert_close(pooled[1, 0, 0], expected, rtol=0, atol=1e-5)
