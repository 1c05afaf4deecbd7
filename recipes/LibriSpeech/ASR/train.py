#!/usr/bin/env python3
"""Speech recognition on LibriSpeech: CTC over characters or word pieces.

    python train.py hparams/char_tiny.yaml --data_folder LibriSpeech --output_folder O/asr
        --features O/joint/model

`--features` is an exported model folder, fbank, or random:<folder>; `--upstream finetune` trains
the upstream along. On several GPUs: torchrun --nproc_per_node=4 train.py ...
"""

from pathlib import Path

import recipes  # noqa: F401, before torch is loaded

# isort: split
from speechbrain import Stage
from speechbrain.utils.distributed import run_on_main

from pretrained.decoding import BeamDecoder
from pretrained.tokenizers import PieceTokenizer, SymbolTokenizer
from recipes.common.downstream.bigram import write_bigram
from recipes.common.downstream.ctc import CTCBrain, add_tokens, drop_spans, read_transcripts
from recipes.common.downstream.labels import deal
from recipes.common.downstream.sweep import Sweep
from recipes.common.evaluation.metrics import cer
from recipes.common.training.limits import check_used
from recipes.common.training.refusals import run_recipe

TRANSCRIPTS = "transcripts"  # as lm_file: a bigram of the training transcripts
USED_BY = {  # as `check_used` takes it
    **dict.fromkeys(("tokenizer_file", "vocab_size"), ("tokenizer", "characters")),
    **dict.fromkeys(("lm_weight", "word_score"), ("lm_file", None)),
    "lm_file": ("beam_size", 0),
}


class WordBrain(CTCBrain):
    """Characters or word pieces by CTC; the model with the lowest word error rate is tested."""

    criterion = "wer"

    def compute_forward(self, batch, stage):
        """Return logits and their lengths; in training some bands and stretches are dropped."""
        states, lens = self.states(batch.to(self.device))
        if stage == Stage.TRAIN and self.hparams.spec_augment:
            states = drop_spans(states)
        return self.modules.ctc_head(states, lens)

    def error_figures(self, references, hypotheses):
        """Return the word error rate, its parts by words, and the character error rate."""
        words = super().error_figures(references, hypotheses)
        return {**words, "cer": cer(references, hypotheses)}


def check_files(hparams, given):
    """Raise ValueError where a file or an option would not be used, or a file is missing.

    Arguments
    ---------
    hparams : dict
    given : iterable of str
        The names of the command line's options.
    """
    files = [name for name in ("tokenizer_file", "lm_file") if hparams[name] is not None]
    check_used(hparams, {*given, *files}, USED_BY)
    for name in files:
        value = hparams[name]
        if (name, value) != ("lm_file", TRANSCRIPTS) and not Path(value).is_file():
            what = f"a file, or {TRANSCRIPTS}" if name == "lm_file" else "a file"
            raise ValueError(f"{name} is {value}, which is missing: expected {what}.")


def make_tokenizer(hparams, texts):
    """Return the tokenizer of the training transcripts, or an earlier run's."""
    kind, file = hparams["tokenizer"], hparams["tokenizer_file"]
    if kind == "characters":
        return SymbolTokenizer.from_texts(texts, "characters")
    if file is None:
        file = Path(hparams["output_folder"]) / "tokenizer.model"
        file.parent.mkdir(parents=True, exist_ok=True)
        run_on_main(PieceTokenizer.train, args=[texts, file, hparams["vocab_size"]])
    return PieceTokenizer(file)


def make_beam(hparams, texts, tokenizer):
    """Return the beam search of the test, or None where `beam_size` is 0."""
    if hparams["beam_size"] == 0:
        return None
    file, weights = hparams["lm_file"], (hparams["lm_weight"], hparams["word_score"])
    if file == TRANSCRIPTS:
        file = Path(hparams["output_folder"]) / "bigram.arpa"
        run_on_main(write_bigram, args=[texts, file])
    return BeamDecoder(tokenizer, hparams["beam_size"], file, *weights)


def dataio_prepare(hparams, datasets):
    """Give each utterance its `text` and `tokens`; return the tokenizer and the test's beam."""
    texts = read_transcripts(hparams, datasets)
    texts["train"] = deal(texts["train"], hparams)
    trained_on = list(texts["train"].values())
    tokenizer = make_tokenizer(hparams, trained_on)
    add_tokens(hparams, datasets, texts, tokenizer)
    return tokenizer, make_beam(hparams, trained_on, tokenizer)


def main(arguments):
    """Train a recogniser at each learning rate, test the best one and export it."""
    sweep = Sweep(arguments, WordBrain)
    check_files(sweep.hparams, sweep.overrides)
    datasets = sweep.prepare()
    # Before training, so that a language model that cannot be used is refused at once.
    tokenizer, beam = dataio_prepare(sweep.hparams, datasets)
    loaders = sweep.make_loaders(datasets)
    brain = sweep.fit(loaders, tokenizer)
    brain.beam = beam
    brain.evaluate(loaders["test"], min_key=brain.criterion)
    sweep.finish(brain)


if __name__ == "__main__":
    run_recipe(main)
