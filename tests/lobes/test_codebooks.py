"""The codebooks and their teacher, against slow and obvious versions."""

import math

import numpy as np
import pytest
import torch

from lobes.codebooks import (
    Codebooks,
    LayerHeads,
    MovingTeacher,
    normalise_over_time,
    teacher_decay,
)
from lobes.frame_encoder import FrameEncoder

LAYERS, CODES, DIM = 2, 5, 3
SIZES = {"d_model": 32, "num_layers": 3, "nhead": 4, "d_ffn": 64, "dropout": 0.5}


def encoder(seed=0):
    torch.manual_seed(seed)
    return FrameEncoder("fbank", 32, **SIZES)


def codebooks(decay=0.9, codes=CODES):
    torch.manual_seed(0)
    return Codebooks(LAYERS, codes, DIM, decay)


def batches(count):
    """Return states of several batches of unlike size, around a few points."""
    generator = torch.Generator().manual_seed(1)
    points = 4 * torch.randn(LAYERS, CODES, DIM, generator=generator)
    for number in range(count):
        drawn = torch.randint(CODES, (30 + number,), generator=generator)
        noise = torch.randn(LAYERS, len(drawn), DIM, generator=generator)
        yield points[:, drawn] + 0.1 * noise


def test_a_state_has_the_code_that_is_nearest_to_it():
    books, states = codebooks(), next(batches(1))
    codes = books(states)
    assert codes.dtype == torch.int64 and codes.shape == states.shape[:2]
    for layer in range(LAYERS):
        for state, code in zip(states[layer], codes[layer], strict=True):
            distances = [math.dist(state, other) for other in books.codes[layer]]
            assert int(code) == min(range(CODES), key=distances.__getitem__)


def test_bf16_around_it_does_not_round_the_distances():
    books, states = codebooks(), next(batches(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(books(states), codebooks()(states))


def test_codes_are_moving_averages_of_sums_over_those_of_counts():
    """Equations 3 to 5 of DinoSR, with sums and counts kept apart, in float64."""
    books = codebooks(decay=0.7)
    sums, counts = np.zeros((LAYERS, CODES, DIM)), np.zeros((LAYERS, CODES))
    untouched = books.codes.numpy().copy()
    for states in batches(4):
        codes = books(states)
        books.update(states, codes)
        sums, counts = 0.7 * sums, 0.7 * counts
        for layer in range(LAYERS):
            for state, code in zip(states[layer].numpy(), codes[layer].tolist(), strict=True):
                sums[layer, code] += 0.3 * state
                counts[layer, code] += 0.3
    assert (counts > 0).any() and (counts == 0).any()
    expected = np.where(counts[..., None] > 0, sums / counts[..., None].clip(1e-9), untouched)
    np.testing.assert_allclose(books.codes.numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(books.counts.numpy(), counts, rtol=1e-5)


def test_a_code_of_no_frame_stays_where_it_is_for_as_long_as_may_be():
    books = codebooks(decay=0.5)
    states = torch.zeros(LAYERS, 4, DIM)
    books.update(states, torch.zeros(LAYERS, 4, dtype=torch.int64))
    before = books.codes.clone()
    for _ in range(200):  # in which the count of code 0 becomes 0
        books.update(states, torch.ones(LAYERS, 4, dtype=torch.int64))
    assert (books.counts[:, 0] == 0).all()
    assert torch.equal(books.codes[:, 2:], before[:, 2:])
    assert torch.equal(books.codes[:, :2], torch.zeros(LAYERS, 2, DIM))


def test_codes_that_die_are_replaced_and_no_others():
    books = codebooks()
    new = torch.arange(LAYERS * CODES * DIM).view(LAYERS, CODES, DIM).float()
    assert int(books.revive(new, frames=100)) == LAYERS * CODES  # nothing was near them yet
    assert torch.equal(books.codes, new) and (books.counts == 20).all()
    assert int(books.revive(new + 1, frames=100)) == 0 and torch.equal(books.codes, new)
    books.counts[1, 3], books.counts[0, 2] = 0.19, 0.21  # 1 % of an even share is 0.2
    assert int(books.revive(new + 1, frames=100)) == 1
    assert torch.equal(books.codes[1, 3], new[1, 3] + 1)
    assert torch.equal(books.codes[0], new[0])


def test_codes_find_the_points_that_states_lie_around():
    many = 2 * CODES  # else two points share a code, from which nothing takes it off
    books, generator = codebooks(codes=many), torch.Generator().manual_seed(2)
    for states in batches(60):
        books.update(states, books(states))
        drawn = torch.randint(states.shape[1], (many,), generator=generator)
        books.revive(states[:, drawn], states.shape[1])
    distances = torch.cdist(states, books.codes).min(-1).values
    assert distances.max() < 0.5  # the noise alone has a length of 0.16; points are some 4 apart
    assert torch.cdist(states, codebooks(codes=many).codes).min(-1).values.mean() > 2


def test_teacher_moves_to_the_share_of_the_encoder():
    student, other = encoder(0), encoder(1)
    teacher = MovingTeacher(student, 2)
    expected = {
        name: 0.9 * p + 0.1 * dict(other.named_parameters())[name]
        for name, p in student.named_parameters()
    }
    teacher.follow(other, 0.9)
    for name, p in teacher.encoder.named_parameters():
        torch.testing.assert_close(p, expected[name], msg=name)
    before = [p.clone() for p in teacher.encoder.parameters()]
    teacher.follow(other, 1.0)
    assert all(map(torch.equal, teacher.encoder.parameters(), before))
    teacher.follow(other, 0.0)
    assert all(map(torch.equal, teacher.encoder.parameters(), other.parameters()))


def test_teacher_drops_nothing_has_no_gradient_and_leaves_the_student_alone():
    student = encoder().train()
    teacher = MovingTeacher(student, 2).train()
    wavs = torch.randn(2, 8000)
    assert student.training and not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    first, again = teacher(wavs), teacher(wavs)
    assert not torch.equal(student(wavs), student(wavs))  # while the student drops out
    assert all(map(torch.equal, first, again)) and not first[0].requires_grad


def test_states_are_those_of_the_last_layers_whatever_a_row_is_padded_to():
    teacher = MovingTeacher(encoder(), 2)
    wavs, lens = torch.randn(2, 16000), torch.tensor([1.0, 0.5])
    _, hidden = encoder().eval()(wavs[1:, :8000], output_hidden_states=True)
    for state, layer in zip(teacher(wavs, lens), hidden[-2:], strict=True):
        own = torch.nn.functional.instance_norm(layer.transpose(1, 2), eps=0.0).transpose(1, 2)
        torch.testing.assert_close(state[1, :24], own[0], rtol=1e-3, atol=1e-3)


def test_what_does_not_vary_over_time_is_zero():
    constant = torch.randn(1, 1, 4).expand(2, 7, 4)
    assert normalise_over_time(constant).abs().max() < 0.2  # float32's last digit, magnified


@pytest.mark.parametrize("layers", [0, 4])
def test_refuses_more_codebooks_than_layers(layers):
    with pytest.raises(ValueError, match=rf"{layers} layers with .*has 3, so expected 1 to 3"):
        MovingTeacher(encoder(), layers)


def test_refuses_codes_that_would_never_move():
    with pytest.raises(ValueError, match="codebook_decay is 1.0: expected a number from 0, below"):
        codebooks(decay=1.0)


def test_the_teacher_slows_down_until_it_stands_still():
    """The published run: 400,000 steps, .999, a timescale of 20,000 steps, still from 1e-7 on."""
    for step in (0, 20_000, 100_000, 184_000):
        expected = 1 - 0.001 * math.exp(-step / 20_000)
        assert teacher_decay(step / 400_000, 0.999, 0.05) == pytest.approx(expected, abs=1e-12)
    assert 1 - teacher_decay(184_000 / 400_000, 0.999, 0.05) > 1e-7
    assert teacher_decay(185_000 / 400_000, 0.999, 0.05) == 1.0


def test_each_head_is_a_linear_map_of_its_own():
    heads = LayerHeads(LAYERS, CODES, DIM)
    states = torch.randn(LAYERS, 4, DIM)
    logits = heads(states)
    for layer, head in enumerate(heads.heads):
        expected = states[layer] @ head.weight.T + head.bias
        torch.testing.assert_close(logits[layer], expected)
    assert sum(p.numel() for p in heads.parameters()) == LAYERS * (DIM + 1) * CODES
