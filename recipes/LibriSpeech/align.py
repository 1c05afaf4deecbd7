#!/usr/bin/env python3
"""Forced alignments of LibriSpeech: when each phone of the transcripts is said.

    python align.py --data_folder LibriSpeech --lexicon lexicon.txt --output_folder A
        --splits dev-clean test-clean [--jobs 2]

Writes A/SPLIT.ctm, which `recipes.common.annotations.alignments.read_alignments` reads, and
A/SPLIT.failed.txt, which lists the utterances that could not be aligned, each with the
reason. A split whose CTM file is there is kept, and refused where that was made with other
pronunciations. PocketSphinx aligns, with the model of US English
that its package brings (pip install pocketsphinx). Words have the first pronunciation of the
lexicon, or else of PocketSphinx's dictionary.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm.contrib.concurrent import process_map

from lobes.signal import SAMPLE_RATE
from pretrained.audio import read_speech
from recipes.common.annotations.alignments import write_ctm
from recipes.common.annotations.text import read_lexicon
from recipes.common.data.files import CorpusError, replace_text
from recipes.LibriSpeech.librispeech_prepare import list_utterances

PERIOD = 0.01  # s between PocketSphinx's frames
# Its frames are 0.0256 s long: half way between the centres of the frames before and from i on is
# 0.01 i + 0.0078 s.
EDGE = (0.0256 - PERIOD) / 2
BEAM = 1e-60  # of the search: with the default, 1e-48, a few utterances are lost
SILENCE = "SIL"
NOISE = "spn"


def main(arguments=None):
    """Align each split that is not there yet."""
    options = parse(arguments)
    if importlib.util.find_spec("pocketsphinx") is None:
        sys.exit("PocketSphinx is not installed: pip install pocketsphinx")
    options.output_folder.mkdir(parents=True, exist_ok=True)
    try:
        lexicon = load_lexicon(options.lexicon)
        for split in options.splits:
            align_split(options, split, lexicon)
    except CorpusError as error:
        sys.exit(str(error))


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True, help="the folder LibriSpeech")
    parser.add_argument("--lexicon", type=Path, required=True, help="words and their phones")
    parser.add_argument("--output_folder", type=Path, required=True, help="receives SPLIT.ctm")
    parser.add_argument("--splits", nargs="+", required=True, help="such as dev-clean")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    return parser.parse_args(arguments)


def load_lexicon(path):
    """Return PocketSphinx's pronunciations, with those of a lexicon in place of its own.

    Raises
    ------
    CorpusError
        Where the lexicon has phones that PocketSphinx's model does not.
    """
    from pocketsphinx import get_model_path

    own = read_lexicon(get_model_path("en-us/cmudict-en-us.dict"))
    lexicon = {word.upper(): phones for word, phones in own.items()}
    known = {phone for phones in lexicon.values() for phone in phones}
    given = read_lexicon(path)
    for word, phones in given.items():
        if not known.issuperset(phones):
            raise CorpusError(
                f"{path}: {word} is {' '.join(phones)}: PocketSphinx's phones are "
                f"{', '.join(sorted(known))}."
            )
    return {**lexicon, **given}


def align_split(options, split, lexicon):
    """Write the alignments of a split, and the list of its utterances that have none."""
    path = options.output_folder / f"{split}.ctm"
    made_with = f"pronunciations {digest(lexicon)}"
    if path.is_file():
        check_made_with(made_with, path, options.lexicon)
        print(f"{split}: {path} is there and kept.")
        return
    rows, problems = list_utterances(options.data_folder, split)
    if problems:
        raise CorpusError("\n".join(problems))
    names, paths, texts = ([row[key] for row in rows] for key in ("ID", "wav", "wrd"))
    words = [[(word, lexicon.get(word)) for word in text.split()] for text in texts]
    how = {"max_workers": options.jobs, "chunksize": 4, "desc": split, "dynamic_ncols": True}
    results = process_map(align, paths, words, **how)
    done = {name: phones for name, (phones, _) in zip(names, results, strict=True) if phones}
    failed = {name: reason for name, (_, reason) in zip(names, results, strict=True) if reason}
    if not done:
        name, reason = next(iter(failed.items()))
        raise CorpusError(f"{split}: no utterance could be aligned. {name}: {reason}.")
    listed = options.output_folder / f"{split}.failed.txt"
    replace_text(listed, "".join(f"{name}\t{reason}\n" for name, reason in failed.items()))
    write_ctm(done, path, made_with)  # the last, as it tells that the split is done
    print(f"{split}: {len(done)} utterances are aligned, {len(failed)} are not (see {listed}).")


def digest(lexicon):
    """Return a digest of pronunciations."""
    return hashlib.sha256(json.dumps(lexicon, sort_keys=True).encode()).hexdigest()[:16]


def check_made_with(made_with, path, lexicon):
    """Raise CorpusError where a CTM file says that other pronunciations made it."""
    with open(path, encoding="utf-8") as file:
        said = file.readline().strip()
    if said.startswith(";; pronunciations ") and said != f";; {made_with}":
        raise CorpusError(
            f"{path} was made with other pronunciations than {lexicon} and PocketSphinx have now: "
            "remove it to align the split again, or name another --output_folder."
        )


def align(path, words):
    """Align an utterance; the result depends on nothing before it.

    Arguments
    ---------
    path : Path
        The audio.
    words : list of tuple
        (word, its phones, or None where it has no pronunciation), in order.

    Returns
    -------
    alignment : list of tuple or None
        (start, stop, phone), in seconds, from 0 to the end of the audio; None where it failed.
    problem : str or None
        Why it failed.
    """
    missing = [word for word, phones in words if phones is None]
    if missing:
        return None, f"no pronunciation of {', '.join(missing)}"
    try:
        audio = read_speech(path).numpy()
        frames = _search(audio, words)
    except RuntimeError as error:
        return None, str(error)
    expected = [phone for _, phones in words for phone in phones]
    if [phone for _, phone in frames if phone not in (SILENCE, NOISE)] != expected:
        return None, "PocketSphinx did not find all phones"
    edges = [start * PERIOD + EDGE for start, _ in frames[1:]]
    edges = np.clip([0, *edges, np.inf], 0, len(audio) / SAMPLE_RATE).tolist()
    names = [phone for _, phone in frames]
    return list(zip(edges, edges[1:], names, strict=False)), None


def _search(audio, words):
    """Return the first frame of each phone and the phone, in order."""
    from pocketsphinx import Decoder

    with tempfile.TemporaryDirectory() as folder:
        dictionary = Path(folder) / "words.dict"
        lines = sorted({f"{word} {' '.join(phones)}\n" for word, phones in words})
        dictionary.write_text("".join(lines), encoding="utf-8")
        # The search for the best path afterwards, on by default, ends some utterances too early.
        decoder = Decoder(
            samprate=SAMPLE_RATE,
            dict=str(dictionary),
            lm=None,
            bestpath=False,
            beam=BEAM,
            pbeam=BEAM,
            wbeam=BEAM,
            loglevel="FATAL",
        )
    decoder.set_align_text(" ".join(word for word, _ in words))
    _decode(decoder, audio)
    decoder.set_alignment()  # of phones, in the words that were found
    _decode(decoder, audio)
    phones = [phone for word in decoder.get_alignment() for phone in word]
    return [(phone.start, NOISE if phone.name[0] == "+" else phone.name) for phone in phones]


def _decode(decoder, audio):
    samples = np.clip(np.round(audio * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()


if __name__ == "__main__":
    main()
