"""Recognition by CTC: phonemes, characters or word pieces, frame by frame."""

import csv
import io
from pathlib import Path

import torch
from speechbrain import Stage
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.utils.distributed import main_process_only, run_on_main
from speechbrain.utils.logger import get_logger
from torch.nn import functional as F

from lobes.distributed import all_reduce_sum, world_size
from lobes.heads import BLANK
from pretrained.tokenizers import PieceTokenizer, SymbolTokenizer
from recipes.common.data.manifest import CorpusError, replace_text
from recipes.common.data.text import (
    BeamDecoder,
    check_transcripts,
    check_vocabulary,
    check_words,
    greedy_decode,
    read_lexicon,
    transcribe_phones,
)
from recipes.common.downstream.sweep import DownstreamBrain, deal
from recipes.common.evaluation.metrics import cer, error_counts, wer
from recipes.common.training.run import manifest_paths

logger = get_logger(__name__)

COUNTS = ("insertions", "deletions", "substitutions")
BEAM_OPTIONS = {"lm_path": "lm_file", "lm_weight": "lm_weight", "word_score": "word_score"}


class RecognitionBrain(DownstreamBrain):
    """CTC over the symbols of a tokenizer. What is recognised, a subclass tells."""

    label_keys = ("text", "tokens")

    @classmethod
    def add_labels(cls, hparams, datasets):
        """Give each utterance its `text` and `tokens`; leave out what training cannot take."""
        datasets["train"] = without_long(datasets["train"], hparams["max_seconds"])
        texts = {split: transcripts(dataset) for split, dataset in datasets.items()}
        manifests = manifest_paths(hparams)
        where = {split: ", ".join(map(str, manifests[split])) for split in texts}
        for split, own in texts.items():
            check_transcripts(own, where[split])
        texts = cls.symbols(hparams, texts)
        texts["train"] = deal(texts["train"], hparams)
        tokenizer = cls.make_tokenizer(hparams, list(texts["train"].values()))
        for split, own in texts.items():
            check_vocabulary(tokenizer, own, where[split])
            datasets[split] = datasets[split].filtered_sorted(key_test={"id": own.__contains__})
            add_tokens(datasets[split], own, tokenizer)
        make_beam(hparams, tokenizer)  # a bad language model is refused now, not after training
        return tokenizer

    @staticmethod
    def make_modules(hparams, upstream, tokenizer):
        """Return the head, of the sizes of the upstream and of the tokenizer."""
        states = upstream.states
        sizes = states.num_layers, states.dim, len(tokenizer)
        return {"ctc_head": hparams["head"](*sizes, last_layers=hparams["last_layers"])}

    def compute_forward(self, batch, stage):
        """Return logits and their lengths; in training some bands and stretches are dropped."""
        batch = batch.to(self.device)
        states, lens = self.states(batch)
        if stage == Stage.TRAIN and self.hparams.spec_augment:
            states = drop_spans(states)
        return self.modules.ctc_head(states, lens)

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
        self.track("unaligned", (losses == 0).sum().double(), len(losses))
        loss, count = losses.sum(), token_lens.sum()
        self.track("ctc_loss", loss, count)
        if stage != Stage.TRAIN:
            self.keep_hypotheses(batch, logits, lens, stage)
        return loss * world_size() / all_reduce_sum(count).clamp(min=1)

    def on_stage_start(self, stage, epoch=None):
        """Forget the hypotheses of the stage before."""
        super().on_stage_start(stage, epoch)
        self.rows, self.beam = [], None
        if stage == Stage.TEST:
            self.beam = make_beam(vars(self.hparams), self.labels)

    def keep_hypotheses(self, batch, logits, lens, stage):
        """Decode a batch: by the best path, and for the test also by the beam where asked for."""
        log_probs = logits.float().log_softmax(2)
        columns = [batch.id, batch.text, greedy_decode(log_probs, lens, self.labels)]
        if self.beam is not None:
            columns.append(self.beam(log_probs, lens))
        self.rows += zip(*columns, strict=True)

    def summarise(self):
        """Return the error rates, and what CTC could not align."""
        figures = {name: float(self.average(name)) for name in ("ctc_loss", "unaligned")}
        if self.stage == Stage.TRAIN:
            return figures
        _, references, *decoded = zip(*self.rows, strict=True)
        for prefix, hypotheses in zip(("", "beam_"), decoded, strict=False):
            found = self.error_figures(references, hypotheses)
            figures.update({f"{prefix}{name}": value for name, value in found.items()})
        if self.stage == Stage.TEST:
            self.write_hypotheses()
        return figures

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

    def facts(self):
        """Return the tokenizer as plain values."""
        return {"tokenizer": self.labels.to_config()}


class WordBrain(RecognitionBrain):
    """Speech recognition: characters or word pieces, told by the word error rate."""

    criterion = "wer"

    @staticmethod
    def symbols(hparams, texts):
        """Return the words of each utterance by split, as they are."""
        return texts

    @staticmethod
    def make_tokenizer(hparams, texts):
        """Return the tokenizer of the training transcripts, or an earlier run's."""
        kind, file = hparams["tokenizer"], hparams["tokenizer_file"]
        if kind == "characters":
            return SymbolTokenizer.from_texts(texts, "characters")
        if kind != "pieces":
            raise ValueError(f"tokenizer is {kind!r}, not 'characters' or 'pieces'.")
        if file is None:
            file = Path(hparams["output_folder"]) / "tokenizer.model"
            file.parent.mkdir(parents=True, exist_ok=True)
            run_on_main(PieceTokenizer.train, args=[texts, file, hparams["vocab_size"]])
        return PieceTokenizer(file)

    def error_figures(self, references, hypotheses):
        """Return the word error rate, its parts by words, and the character error rate."""
        counts = error_counts([r.split() for r in references], [h.split() for h in hypotheses])
        parts = {name: counts[name] / counts["tokens"] for name in COUNTS}
        return {"wer": wer(references, hypotheses), **parts, "cer": cer(references, hypotheses)}


class PhonemeBrain(RecognitionBrain):
    """Phoneme recognition, told by the phoneme error rate."""

    criterion = "per"

    @staticmethod
    def symbols(hparams, texts):
        """Return the phones of each utterance by split, of words that the lexicon has."""
        lexicon = read_lexicon(hparams["lexicon"])
        left_out = check_words(texts, lexicon, hparams["lexicon"], hparams["skip_bad"])
        phones = {}
        for split, own in texts.items():
            kept = {name: text for name, text in own.items() if name not in left_out}
            spelled, _ = transcribe_phones(list(kept.values()), lexicon)
            phones[split] = dict(zip(kept, spelled, strict=True))
        return phones

    @staticmethod
    def make_tokenizer(hparams, texts):
        """Return a tokenizer of the phones of the training transcripts."""
        return SymbolTokenizer.from_texts(texts, "phones")

    def error_figures(self, references, hypotheses):
        """Return the phoneme error rate and its parts."""
        counts = error_counts([r.split() for r in references], [h.split() for h in hypotheses])
        parts = {name: counts[name] / counts["tokens"] for name in COUNTS}
        return {"per": wer(references, hypotheses), **parts}


def transcripts(dataset):
    """Return the words of each utterance by its ID; ValueError where the manifest has none."""
    try:
        with dataset.output_keys_as(["id", "wrd"]):
            return {row["id"]: row["wrd"] for row in dataset}
    except RuntimeError as error:  # SpeechBrain's, for a key that no item has
        raise CorpusError("The manifest has no column wrd: recognition needs words.") from error


def without_long(dataset, longest):
    """Return the utterances of at most so many seconds, and log how many others there were."""
    kept = dataset.filtered_sorted(key_max_value={"duration": longest})
    if len(kept) < len(dataset):
        count = len(dataset) - len(kept)
        logger.warning(f"train: {count} utterances are longer than max_seconds, {longest} s")
    if len(kept) == 0:
        raise CorpusError(f"train: no utterance is as short as max_seconds, {longest} s.")
    return kept


def add_tokens(dataset, texts, tokenizer):
    """Give each utterance the items `text` and `tokens`, (symbols,) int64."""

    def tokens(utterance):
        yield texts[utterance]
        yield torch.tensor(tokenizer.encode(texts[utterance]))

    dataset.add_dynamic_item(tokens, takes=["id"], provides=["text", "tokens"])


def make_beam(hparams, tokenizer):
    """Return the beam search of the test, or None where `beam_size` is 0."""
    if hparams["beam_size"] == 0:
        return None
    given = {name: hparams[key] for name, key in BEAM_OPTIONS.items() if key in hparams}
    return BeamDecoder(tokenizer, hparams["beam_size"], **given)


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
