"""Heads: against slow versions, blind to padding, and able to learn a few utterances."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from lobes.heads import ClassificationHead, CosineClassifier, CTCHead, SpeakerHead, WeightedSum

LENS = torch.tensor([40, 17, 5])
CTC = {
    "linear": {},
    "linear, strided": {"stride": 2},
    "blstm": {"lstm_layers": 2, "dropout": 0.2},
    "blstm, strided": {"lstm_layers": 1, "stride": 4},
}


def padded_states(seed=0, padding=0.0):
    """Return states (3, 40, 3, 16) of three rows of unequal length, and the rows alone."""
    states = torch.randn(3, 40, 3, 16, generator=torch.Generator().manual_seed(seed))
    alone = [row[None, :n] for row, n in zip(states, LENS.tolist(), strict=True)]
    for row, n in zip(states, LENS.tolist(), strict=True):
        row[n:] = padding
    return states, alone


def ctc_head(**options):
    torch.manual_seed(0)
    return CTCHead(num_layers=3, in_dim=16, num_symbols=8, hidden_dim=12, **options)


def test_the_sum_is_weighted_by_a_softmax_and_even_at_first():
    states, _ = padded_states()
    layer = WeightedSum(3)
    torch.testing.assert_close(layer(states), states.mean(2))
    with torch.no_grad():
        layer.weights.copy_(torch.tensor([0.3, -1.0, 2.0]))
    shares = layer.weights.exp() / layer.weights.exp().sum()
    expected = sum(share * states[:, :, i] for i, share in enumerate(shares))
    torch.testing.assert_close(layer(states), expected)


@pytest.mark.parametrize("last, kept", [(0, slice(None)), (1, slice(2, 3)), (2, slice(1, 3))])
@pytest.mark.parametrize("head", ["ctc", "speaker"])
def test_the_last_layers_alone_are_summed_where_asked(head, last, kept):
    states, lens = padded_states()[0], LENS
    torch.manual_seed(0)
    made = (
        ctc_head(last_layers=last)
        if head == "ctc"
        else SpeakerHead(num_layers=3, in_dim=16, hidden_dim=12, last_layers=last)
    )
    few = ctc_head() if head == "ctc" else SpeakerHead(3, 16, 12)
    few.load_state_dict({**made.state_dict(), "weighted_sum.weights": torch.zeros(3)})
    few.weighted_sum = WeightedSum(states[:, :, kept].shape[2])
    given, expected = made(states, lens), few(states[:, :, kept], lens)
    given, expected = (x[0] if head == "ctc" else x for x in (given, expected))
    torch.testing.assert_close(given, expected)


def test_more_layers_than_there_are_are_refused():
    for last in (4, -1, 0.5):
        with pytest.raises(ValueError, match=f"last_layers is {last}: expected 1 to 3"):
            WeightedSum(3, last)


@pytest.mark.parametrize("kind", CTC)
@pytest.mark.parametrize("padding", [0.0, 7.0])
def test_logits_do_not_see_padding(kind, padding):
    head = ctc_head(**CTC[kind]).eval()
    states, alone = padded_states(padding=padding)
    logits, lens = head(states, LENS)
    for i, row in enumerate(alone):
        one, n = head(row, LENS[i : i + 1])
        assert n == lens[i] == one.shape[1] == head.output_lens(LENS[i])
        torch.testing.assert_close(logits[i, :n], one[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", [0.0, 7.0])
def test_a_classification_is_of_the_mean_of_projected_frames(padding):
    torch.manual_seed(0)
    head = ClassificationHead(num_layers=3, in_dim=16, num_classes=4, hidden_dim=12)
    with torch.no_grad():
        head.weighted_sum.weights.normal_()
    states, alone = padded_states(padding=padding)
    logits = head(states, LENS)
    for found, [row] in zip(logits, alone, strict=True):
        projected = [head.projection(frame) for frame in head.weighted_sum(row[None])[0]]
        expected = head.output(sum(projected) / len(projected))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_stride_puts_frames_side_by_side():
    head = ctc_head(stride=2)
    states, _ = padded_states()
    summed = F.pad(head.weighted_sum(states[1:2, :17]), (0, 0, 0, 1))
    pairs = torch.cat([summed[:, ::2], summed[:, 1::2]], dim=2)
    logits, lens = head(states[1:2], LENS[1:2])
    assert lens.tolist() == [9]
    torch.testing.assert_close(logits[:, :9], head.output(head.projection(pairs)))


@pytest.mark.parametrize("pooling", ["mean", "xvector"])
@pytest.mark.parametrize("padding", [0.0, 7.0])
def test_embeddings_do_not_see_padding(pooling, padding):
    torch.manual_seed(0)
    head = SpeakerHead(3, 16, hidden_dim=12, pooling=pooling, embedding_dim=6)
    states, alone = padded_states(padding=padding)
    head(states, LENS)  # statistics of batch normalisation that are not those of the start
    head.eval()
    embeddings = head(states, LENS)
    assert embeddings.shape == (3, head.embedding_dim)
    for i, row in enumerate(alone):
        one = head(row, LENS[i : i + 1])
        torch.testing.assert_close(embeddings[i], one[0], rtol=0, atol=1e-5)


def test_classes_of_slots_are_told_slot_by_slot():
    """Against each slot by itself: cross-entropies add up, and every slot's best value is named."""
    torch.manual_seed(0)
    sizes = [3, 2, 4]
    head = ClassificationHead(1, 16, num_classes=24, hidden_dim=12, slots=sizes)
    states, lens = torch.randn(5, 30, 1, 16), torch.tensor([30, 10, 1, 20, 30])
    logits = head(states, lens)
    means = torch.stack([row[:n, 0].mean(0) for row, n in zip(states, lens, strict=True)])
    slots = head.output(head.projection(means)).split(sizes, 1)
    names = list(itertools.product(*map(range, sizes)))
    for row in range(len(lens)):
        best = tuple(int(slot[row].argmax()) for slot in slots)
        assert names[int(logits[row].argmax())] == best
        for number, values in enumerate(names):
            loss = F.cross_entropy(logits[row], torch.tensor(number))
            expected = sum(
                F.cross_entropy(slot[row], torch.tensor(value))
                for slot, value in zip(slots, values, strict=True)
            )
            torch.testing.assert_close(loss, expected)
    with pytest.raises(ValueError, match="have 24 combinations, and num_classes is 20"):
        ClassificationHead(num_classes=20, slots=sizes)


def test_the_mean_head_is_a_projection_and_a_mean():
    head = SpeakerHead(1, 16, hidden_dim=5)
    states = torch.randn(2, 30, 1, 16)
    embeddings = head(states, torch.tensor([30, 10]))
    torch.testing.assert_close(embeddings[1], head.projection(states[1, :10, 0].mean(0)))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling must be 'mean' or 'xvector', not 'max'"):
        SpeakerHead(pooling="max")


def test_classes_are_told_by_cosines():
    classifier = CosineClassifier(6, 4)
    x = torch.randn(5, 6)
    expected = torch.stack(
        [torch.cosine_similarity(x, row[None], dim=1) for row in classifier.directions], dim=1
    )
    torch.testing.assert_close(classifier(x), expected)
    torch.testing.assert_close(classifier(100 * x), expected)


def errors(logits, symbols):
    """Return the share of symbols that the best paths miss, place by place."""
    wrong = 0
    for row, truth in zip(logits.argmax(2), symbols, strict=True):
        best = [s for s in row.unique_consecutive().tolist() if s != 0]
        wrong += sum(a != b for a, b in zip(best, truth.tolist(), strict=False))
        wrong += abs(len(best) - len(truth))
    return wrong / symbols.numel()


@pytest.mark.long
def test_a_blstm_learns_20_utterances():
    generator = torch.Generator().manual_seed(1)
    symbols = torch.randint(1, 6, (20, 5), generator=generator)
    codes = torch.randn(6, 16, generator=generator)
    states = codes[symbols].repeat_interleave(6, dim=1)
    states = states + 0.1 * torch.randn(states.shape, generator=generator)
    torch.manual_seed(0)
    head = CTCHead(1, 16, num_symbols=6, hidden_dim=32, lstm_layers=1)
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    lens, token_lens = torch.full((20,), 30), torch.full((20,), 5)
    untrained = errors(head(states.unsqueeze(2), lens)[0], symbols)
    for _ in range(250):
        logits, out_lens = head(states.unsqueeze(2), lens)
        loss = F.ctc_loss(logits.log_softmax(2).transpose(0, 1), symbols, out_lens, token_lens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert errors(logits, symbols) <= 0.05 < 0.7 < untrained
