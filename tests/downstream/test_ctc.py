"""Recognition by CTC: the loss against all alignments, decoding, and learning from states."""

import csv
import itertools
import math

import pytest
import torch
from speechbrain import Stage
from torch.nn import functional as F

from lobes.heads import BLANK, CTCHead
from lobes.states import FbankStates
from pretrained.decoding import BeamDecoder
from pretrained.tokenizers import SymbolTokenizer
from recipes.common.data.crops import SpeechBatch
from recipes.common.downstream.ctc import BLANK_PENALTIES, favour_blanks
from recipes.common.evaluation.metrics import error_counts
from recipes.common.training.brain import TrainingError
from recipes.LibriSpeech.PR.train import dataio_prepare
from tests.downstream.tasks import hparams_of, started, trained
from tests.made_datasets import made_dataset


def likelihood(probs, tokens):
    """Return the probability of a text: the sum over all of its alignments."""
    total = 0.0
    for path in itertools.product(range(probs.shape[1]), repeat=len(probs)):
        if [symbol for symbol, _ in itertools.groupby(path) if symbol] == tokens:
            total += math.prod(probs[t, symbol].item() for t, symbol in enumerate(path))
    return total


TEXTS = {"u0": "AB", "u1": "B", "u2": "AAB"}
FRAMES = torch.tensor([5, 3, 3])  # too few for the last: a repeated symbol needs a blank


@pytest.fixture
def recogniser(tmp_path):
    """A Brain, a batch of which one text cannot be aligned, and logits of longer, padded rows."""
    tokenizer = SymbolTokenizer(["A", "B"], "characters")
    brain = started("ASR", hparams_of("ASR", tmp_path), tokenizer)
    rows = [
        {"id": name, "duration": 1.0, "text": text, "tokens": torch.tensor(tokenizer.encode(text))}
        for name, text in TEXTS.items()
    ]
    torch.manual_seed(1)
    return brain, SpeechBatch(rows), torch.randn(3, 6, 3, requires_grad=True)


def test_the_loss_is_that_of_all_alignments_by_symbol(recogniser):
    brain, batch, logits = recogniser
    loss = brain.compute_objectives((logits, FRAMES), batch, Stage.TRAIN)
    probs = logits.detach().double().softmax(2)
    expected = [
        -math.log(likelihood(probs[row, : FRAMES[row]], brain.labels.encode(text)))
        for row, text in enumerate(("AB", "B"))
    ]
    symbols = sum(map(len, TEXTS.values()))
    assert loss.item() == pytest.approx(sum(expected) / symbols, rel=1e-5)
    assert float(brain.meter.average("ctc_loss")) == pytest.approx(loss.item())
    assert float(brain.meter.average("unaligned")) == pytest.approx(1 / 3)


def test_a_text_that_cannot_be_aligned_teaches_nothing(recogniser):
    brain, batch, logits = recogniser
    brain.compute_objectives((logits, FRAMES), batch, Stage.TRAIN).backward()
    assert not logits.grad[2].any() and not logits.grad[1, 3:].any()
    assert torch.isfinite(logits.grad).all() and logits.grad[0, :5].abs().min() > 0


def test_logits_that_are_not_finite_stop_the_training(recogniser):
    brain, batch, logits = recogniser
    loss = brain.compute_objectives((logits * math.nan, FRAMES), batch, Stage.TRAIN)
    brain.check_loss_isfinite(loss)
    with pytest.raises(TrainingError, match="The loss is nan"):
        brain.read_losses(0.0)


def test_the_beam_decodes_the_test_beside_the_best_path(recogniser, tmp_path):
    brain, batch, logits = recogniser
    brain.beam = BeamDecoder(brain.labels, beam_size=5)
    for stage in (Stage.VALID, Stage.TEST):
        brain.on_stage_start(stage)
        brain.compute_objectives((logits.detach(), FRAMES), batch, stage)
        found = brain.summarise()
        assert ("beam_wer" in found) == (stage == Stage.TEST)
    with open(tmp_path / "hypotheses.csv", newline="") as file:
        rows = {row["ID"]: row for row in csv.DictReader(file)}
    assert {name: row["reference"] for name, row in rows.items()} == TEXTS
    probs = logits.detach().double().softmax(2)
    texts = ["".join(t) for n in range(4) for t in itertools.product("AB", repeat=n)]
    for row, name in enumerate(TEXTS):
        own = probs[row, : FRAMES[row]]
        best = max(texts, key=lambda text: likelihood(own, brain.labels.encode(text)))  # noqa: B023
        assert rows[name]["beam"] == best


def test_validation_takes_the_penalty_on_blanks_that_is_best(recogniser):
    brain, batch, logits = recogniser
    rates = []
    for shift in torch.arange(12) / 2:  # the more a blank is above the symbols
        shifted = logits.detach().clone()
        shifted[..., BLANK] += shift
        brain.on_stage_start(Stage.VALID, 1)
        brain.compute_objectives((shifted, FRAMES), batch, Stage.VALID)
        found = brain.summarise()
        slow = []
        for penalty in BLANK_PENALTIES:
            paths = [
                [row.argmax().item() for row in (own - penalty * torch.eye(3)[0])[:n]]
                for own, n in zip(shifted, FRAMES, strict=True)
            ]
            texts = ["".join("_AB"[i] for i, _ in itertools.groupby(path) if i) for path in paths]
            counts = error_counts([[t] for t in TEXTS.values()], [t.split() for t in texts])
            slow.append(counts["errors"] / counts["tokens"])
        assert found["wer"] == min(slow)
        assert found["blank_penalty"] == BLANK_PENALTIES[slow.index(min(slow))]
        rates.append(found["blank_penalty"])
    assert len(set(rates)) > 2


@pytest.mark.parametrize("task", ["PR", "ASR"])
def test_each_recogniser_starts_from_a_head_that_favours_blanks(task, tmp_path):
    tokenizer = SymbolTokenizer([f"P{chr(65 + i)}" for i in range(20)], "phones")
    head = started(task, hparams_of(task, tmp_path), tokenizer).heads()["ctc_head"].eval()
    logits, _ = head(torch.zeros(1, 8, 1, FbankStates.dim), torch.tensor([8]))
    assert 0.3 < logits.softmax(2)[..., BLANK].min() < 0.7


def test_the_penalty_of_the_best_epoch_is_part_of_the_tested_head(recogniser):
    brain, _, _ = recogniser
    for epoch, (rate, penalty) in enumerate([(0.5, 1.5), (0.7, 0.5)], start=1):
        brain.valid_figures = {"wer": rate, "blank_penalty": penalty}
        brain.save_epoch({"epoch": epoch, "architecture": brain.architecture()})
    bias = brain.heads()["ctc_head"].output.bias
    before = bias.detach().clone()
    for _ in range(2):  # a test that is run again starts from the checkpoint
        brain.on_evaluate_start(min_key="wer")
        expected = before - 1.5 * F.one_hot(torch.tensor(BLANK), len(bias))
        torch.testing.assert_close(bias.detach(), expected)


def spoken(count, phones, generator):
    """Return made-up frames (count, 56, dim) without a mean: 8 phones between two silences."""
    texts = torch.randint(1, len(phones), (count, 8), generator=generator)
    silence = texts.new_zeros(count, 12)
    frames = phones[torch.cat([silence, texts.repeat_interleave(4, 1), silence], 1)]
    frames = frames + 0.5 * torch.randn(frames.shape, generator=generator)
    return frames - frames.mean(1, keepdim=True), texts


def test_a_head_that_favours_blanks_does_not_take_silence_for_a_phone():
    losses = {}
    for favoured in (True, False):
        generator = torch.Generator().manual_seed(0)
        frames, texts = spoken(200, torch.randn(21, 32, generator=generator), generator)
        torch.manual_seed(0)
        head = CTCHead(1, 32, 21, 64)
        if favoured:
            favour_blanks(head)
        optimizer = torch.optim.Adam(head.parameters(), 0.003)
        for _ in range(200):
            rows = torch.randint(200, (8,), generator=generator)
            logits, lens = head(frames[rows][:, :, None], torch.full((8,), 56))
            log_probs = logits.log_softmax(2).transpose(0, 1)
            loss = F.ctc_loss(log_probs, texts[rows], lens, torch.full((8,), 8))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[favoured] = loss.item()
    assert losses[True] < 0.6 * losses[False]


PHONES = [f"P{chr(65 + i)}" for i in range(20)]


def recognise(folder, **changes):
    """Return a trained Brain of phoneme recognition on states that tell each phone."""
    path = folder / "lexicon.txt"
    path.write_text("".join(f"W{phone} {phone}\n" for phone in PHONES))
    hparams = hparams_of("PR", folder, 0.003, lexicon=path, max_batch_seconds=10, **changes)
    torch.manual_seed(0)
    sounds, data, states = torch.randn(len(PHONES), FbankStates.dim), {}, {}
    for split, count in (("train", 200), ("valid", 20), ("test", 40)):
        data[split] = {}
        for name in (f"{split}-{number}" for number in range(count)):
            said = torch.randint(len(PHONES), (5,))
            text = " ".join(f"W{PHONES[i]}" for i in said)
            data[split][name] = {"duration": 1.0, "wav": "none", "spk_id": "1", "wrd": text}
            sound = sounds[said]
            frames = torch.stack([torch.zeros_like(sound), sound, sound], 1).flatten(0, 1)
            states[name] = (frames + 0.1 * torch.randn_like(frames))[:, None]
    datasets = {split: made_dataset(folder / f"{split}.csv", own) for split, own in data.items()}
    labels = dataio_prepare(hparams, datasets)
    return trained("PR", hparams, labels, datasets, states)


@pytest.mark.long
def test_phones_are_recognised_unless_their_texts_are_dealt_out(tmp_path):
    for folder in ("right", "dealt"):
        (tmp_path / folder).mkdir()
    assert recognise(tmp_path / "right", number_of_epochs=12).test_figures["per"] < 0.1
    dealt = recognise(tmp_path / "dealt", number_of_epochs=12, shuffle_labels=True)
    assert dealt.test_figures["per"] >= 0.9
