"""What recipes of recognition by CTC share: the Brain, transcripts as tokens, error rates."""

import csv
import io
import math
from functools import partial
from pathlib import Path

import torch
from speechbrain import Stage
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.logger import get_logger
from torch.nn import functional as F

from lobes.heads import BLANK
from pretrained.decoding import greedy_decode
from recipes.common.annotations.text import check_transcripts, check_vocabulary, drop_unknown
from recipes.common.data.files import CorpusError, replace_text
from recipes.common.downstream.downstream_brain import DownstreamBrain
from recipes.common.downstream.labels import manifests_of
from recipes.common.evaluation.metrics import error_counts

logger = get_logger(__name__)

COUNTS = ("insertions", "deletions", "substitutions")
# What may be taken off the blank's natural logarithm before decoding: see `greedy_decode`.
BLANK_PENALTIES = (0.0, 0.5, 1.0, 1.5, 2.0)


class CTCBrain(DownstreamBrain):
    """CTC over the symbols of a tokenizer.

    Validation decodes with each of BLANK_PENALTIES. The best one becomes part of the head before
    the test: the exported head needs none.

    A task's Brain adds `criterion`, the name of the error rate. Where `beam` is set, a second way
    to decode, the test is decoded by it too.
    """

    label_keys = ("text", "tokens")
    beam = None

    @staticmethod
    def make_modules(hparams, upstream, tokenizer):
        """Return the head, of the sizes of the upstream and of the tokenizer."""
        states = upstream.states
        sizes = states.num_layers, states.dim, len(tokenizer)
        head = hparams["head"](*sizes, last_layers=hparams["last_layers"])
        return {"ctc_head": favour_blanks(head)}

    def compute_forward(self, batch, stage):
        """Return logits (batch, time, symbols) and their lengths (batch,)."""
        return self.modules.ctc_head(*self.states(batch.to(self.device)))

    def compute_objectives(self, predictions, batch, stage):
        """Return CTC's loss per symbol of the global batch."""
        logits, lens = predictions
        tokens, relative = batch.tokens
        token_lens = (relative * tokens.shape[1]).round().long()
        losses = F.ctc_loss(
            logits.float().log_softmax(2).transpose(0, 1),
            tokens,
            lens,
            token_lens,
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )
        # Too few frames for the symbols: no alignment, a loss of 0, and nothing to learn from.
        self.meter.add("unaligned", (losses == 0).sum(), len(losses))
        loss, count = losses.sum(), token_lens.sum()
        self.meter.add("ctc_loss", loss, count)
        if stage != Stage.TRAIN:
            self.keep_hypotheses(batch, logits, lens)
        return self.mean_over_ranks(loss, count)

    def on_stage_start(self, stage, epoch=None):
        """Forget the hypotheses of the stage before."""
        super().on_stage_start(stage, epoch)
        self.rows = []

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Take the best model, and make its penalty on the blank part of the head."""
        super().on_evaluate_start(max_key, min_key)
        best = self.checkpointer.find_checkpoint(max_key=max_key, min_key=min_key)
        with torch.no_grad():
            self.heads()["ctc_head"].output.bias[BLANK] -= best.meta.get("blank_penalty", 0.0)

    def keep_hypotheses(self, batch, logits, lens):
        """Decode a batch: of validation with each penalty, of the test as the head is."""
        log_probs = logits.float().log_softmax(2)
        penalties = BLANK_PENALTIES if self.stage == Stage.VALID else (0.0,)
        decoded = [greedy_decode(log_probs, lens, self.labels, penalty) for penalty in penalties]
        if self.stage == Stage.TEST and self.beam is not None:
            decoded.append(self.beam(log_probs, lens))
        self.rows += zip(batch.id, batch.text, *decoded, strict=True)

    def summarise(self):
        """Return the error rates, and what CTC could not align."""
        figures = {name: float(self.meter.average(name)) for name in ("ctc_loss", "unaligned")}
        if self.stage == Stage.TRAIN:
            return figures
        _, references, *decoded = zip(*self.rows, strict=True)
        found = [self.error_figures(references, hypotheses) for hypotheses in decoded]
        if self.stage == Stage.VALID:
            return figures | self.best_of(found)
        self.write_hypotheses()
        for prefix, own in zip(("", "beam_"), found, strict=False):
            figures |= {f"{prefix}{name}": value for name, value in own.items()}
        return figures

    def best_of(self, found):
        """Return the figures of the best of BLANK_PENALTIES, the lowest of equal ones, with it."""
        rates = [own[self.criterion] for own in found]
        best = rates.index(min(rates))
        return {**found[best], "blank_penalty": BLANK_PENALTIES[best]}

    def error_figures(self, references, hypotheses):
        """Return the error rate of words, or of phones, and its parts."""
        counts = error_counts([r.split() for r in references], [h.split() for h in hypotheses])
        rate, *parts = (counts[key] / counts["tokens"] for key in ("errors", *COUNTS))
        return {self.criterion: rate, **dict(zip(COUNTS, parts, strict=True))}

    @main_process_only
    def write_hypotheses(self):
        """Write hypotheses.csv, a line for each utterance of the test, beside metrics.json."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        names = ["ID", "reference", "greedy", "beam"]
        writer.writerow(names[: len(self.rows[0])])
        writer.writerows(sorted(self.rows))
        folder = Path(self.hparams.output_folder).parent
        replace_text(folder / "hypotheses.csv", text.getvalue())

    def name_labels(self):
        """Return the tokenizer's symbols or pieces: the same pieces may be other bytes."""
        kind = self.labels.kind
        return [kind, *(self.labels.pieces if kind == "pieces" else self.labels.symbols)]

    def facts(self):
        """Return the tokenizer as plain values."""
        return {"tokenizer": self.labels.to_config()}


def favour_blanks(head):
    """Make the blank about as likely as all symbols together, for training to start from.

    Where all are alike, a symbol can take the blank's place in silence, and a linear head on states
    without a mean stays there.

    Arguments
    ---------
    head : CTCHead

    Returns
    -------
    CTCHead
        The same one.

    Example
    -------
    >>> from lobes.heads import CTCHead
    >>> logits, _ = favour_blanks(CTCHead(num_symbols=4))(
    ...     torch.zeros(1, 50, 1, 240), torch.tensor([50])
    ... )
    >>> 0.4 < logits.softmax(2)[0, 0, BLANK].item() < 0.6
    True
    """
    bias = head.output.bias
    with torch.no_grad():
        bias[BLANK] += math.log(len(bias) - 1)
    return head


def read_transcripts(hparams, datasets):
    """Return the words of each utterance; leave out what training cannot take.

    Arguments
    ---------
    hparams : dict
        `max_seconds`: longer utterances are left out of "train"; the manifests' keys.
    datasets : dict
        By split: Utterances; "train" is changed in place.

    Returns
    -------
    dict
        By split: a dict of each utterance's words by its ID.

    Raises
    ------
    CorpusError
        Where the manifest has no words, a transcript is empty, or nothing is left to train on.
    """
    datasets["train"] = without_long(datasets["train"], hparams["max_seconds"])
    texts = {split: words_of(dataset) for split, dataset in datasets.items()}
    for split, own in texts.items():
        check_transcripts(own, manifests_of(hparams, split))
    return texts


def words_of(dataset):
    """Return the words of each utterance by its ID; CorpusError where a manifest has none."""
    try:
        words = dataset.column("wrd")
    except CorpusError as error:
        raise CorpusError(f"{error} Recognition needs words.") from error
    return dict(zip(dataset.data_ids, words, strict=True))


def without_long(dataset, longest):
    """Return the utterances of at most so many seconds, and log how many others there were."""
    kept = dataset.filtered_sorted(key_max_value={"duration": longest})
    if len(kept) < len(dataset):
        count = len(dataset) - len(kept)
        logger.warning(f"train: {count} utterances are longer than max_seconds, {longest} s")
    if len(kept) == 0:
        raise CorpusError(f"train: no utterance is as short as max_seconds, {longest} s.")
    return kept


def add_tokens(hparams, datasets, texts, tokenizer):
    """Give each utterance the items `text` and `tokens`, (symbols,) int64; leave out the others.

    A symbol of validation or test that the tokenizer lacks is in `text` alone: it counts as an
    error.

    Arguments
    ---------
    hparams : dict
        The manifests' keys, for messages.
    datasets : dict
        By split: Utterances; changed in place.
    texts : dict
        By split: a dict of each utterance's words, or phones, by its ID.
    tokenizer : SymbolTokenizer or PieceTokenizer

    Raises
    ------
    CorpusError
        Where a text of training has a symbol that the tokenizer lacks, or all of another split have
        no others.
    """
    for split, own in texts.items():
        where = manifests_of(hparams, split)
        if split == "train":
            check_vocabulary(tokenizer, own, where)
        known = own if split == "train" else drop_unknown(tokenizer, own, where)
        dataset = datasets[split].filtered_sorted(key_test={"id": own.__contains__})
        dataset.add_dynamic_item(own.get, takes=["id"], provides="text")
        encode = partial(encode_text, tokenizer, known)
        dataset.add_dynamic_item(encode, takes=["id"], provides="tokens")
        datasets[split] = dataset


def encode_text(tokenizer, texts, utterance):
    """Return the indices of the symbols of an utterance's text, (symbols,) int64."""
    return torch.tensor(tokenizer.encode(texts[utterance]), dtype=torch.long)


def drop_spans(states):
    """Set some stretches of time and some bands of features to zero (SpecAugment, 1904.08779).

    Arguments
    ---------
    states : torch.Tensor
        Shape (batch, frames, layers, dim), at 50 Hz.

    Returns
    -------
    torch.Tensor
        The same shape: up to two stretches of up to 0.4 s and up to two bands of up to an eighth of
        the features are 0, the same in all layers.

    Example
    -------
    >>> _ = torch.manual_seed(0)
    >>> dropped = drop_spans(torch.ones(4, 100, 3, 64))
    >>> 0.5 < dropped.mean().item() < 1
    True
    """
    batch, frames, _, dim = states.shape
    kept = torch.ones(batch, frames, dim, device=states.device)
    for axis, size, longest in ((1, frames, 20), (2, dim, dim // 8)):
        longest = max(2, min(longest, size // 4))
        drop = SpectrogramDrop(1, longest, 1, 2, replace="zeros", dim=axis)
        kept = drop(kept)
    return states * kept.unsqueeze(2)
