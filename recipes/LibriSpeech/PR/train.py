#!/usr/bin/env python3
"""Phoneme recognition on LibriSpeech: CTC on the states of an upstream.

    python train.py hparams/lexicon_tiny.yaml --data_folder LibriSpeech --output_folder O/pr
        --lexicon librispeech-lexicon.txt --features O/joint/model

`--features` is an exported model folder, fbank, or random:<folder>; `--upstream finetune` trains
the upstream along. On several GPUs: torchrun --nproc_per_node=4 train.py ...
"""

from pretrained.tokenizers import SymbolTokenizer
from recipes.common.annotations.text import check_words, read_lexicon, transcribe_phones
from recipes.common.downstream.ctc import CTCBrain, add_tokens, read_transcripts
from recipes.common.downstream.labels import deal
from recipes.common.downstream.sweep import Sweep
from recipes.common.training.refusals import run_recipe


class PhonemeBrain(CTCBrain):
    """Phones by CTC (see `CTCBrain`); the model with the lowest phoneme error rate is tested."""

    criterion = "per"


def transcribe(hparams, texts):
    """Return the phones of each utterance by split, of words that the lexicon has."""
    lexicon = read_lexicon(hparams["lexicon"])
    left_out = check_words(texts, lexicon, hparams["lexicon"], hparams["skip_bad"])
    phones = {}
    for split, own in texts.items():
        kept = {name: text for name, text in own.items() if name not in left_out}
        spelled, _ = transcribe_phones(list(kept.values()), lexicon)
        phones[split] = dict(zip(kept, spelled, strict=True))
    return phones


def dataio_prepare(hparams, datasets):
    """Give each utterance its phones, `text`, and `tokens`, and return the tokenizer."""
    texts = transcribe(hparams, read_transcripts(hparams, datasets))
    texts["train"] = deal(texts["train"], hparams)
    tokenizer = SymbolTokenizer.from_texts(texts["train"].values(), "phones")
    add_tokens(hparams, datasets, texts, tokenizer)
    return tokenizer


def main(arguments):
    """Train a recogniser at each learning rate, test the best one and export it."""
    sweep = Sweep(arguments, PhonemeBrain)
    datasets = sweep.prepare()
    tokenizer = dataio_prepare(sweep.hparams, datasets)
    loaders = sweep.make_loaders(datasets)
    brain = sweep.fit(loaders, tokenizer)
    brain.evaluate(loaders["test"], min_key=brain.criterion)
    sweep.finish(brain)


if __name__ == "__main__":
    run_recipe(main)
