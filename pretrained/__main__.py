"""Encode audio files with an exported model, or export it for another toolkit.

    python -m pretrained encode FILE... --model FOLDER --out DIR
    python -m pretrained export FOLDER --layout {speechbrain,huggingface,torchaudio} --out DIR

Exit code 2, with a line for each problem on stderr, where anything could not be done.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pretrained.exported import load_model
from pretrained.layouts import LAYOUTS
from pretrained.learn2diss import Learn2Diss


def main(arguments=None):
    """Run a command and return its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        return options.run(options)
    except (OSError, ValueError) as error:
        return complain(error)


def make_parser():
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser("python -m pretrained", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="{encode,export}")
    encode = commands.add_parser("encode", help="write one .npz (frames, utterance) per audio file")
    encode.add_argument("files", nargs="+", metavar="FILE", help="audio of any rate and length")
    encode.add_argument("--model", required=True, metavar="FOLDER", help="an exported model")
    encode.add_argument("--out", required=True, metavar="DIR", help="where the .npz go")
    encode.set_defaults(run=encode_files)
    export = commands.add_parser("export", help="write the model in another toolkit's layout")
    export.add_argument("model", metavar="FOLDER", help="an exported model")
    export.add_argument("--layout", required=True, choices=LAYOUTS)
    export.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    export.set_defaults(run=export_model)
    return parser


def encode_files(options):
    """Encode each file. A bad one is reported, and the others are encoded all the same."""
    out = Path(options.out)
    targets = [out / f"{Path(file).stem}.npz" for file in options.files]
    target, times = Counter(targets).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} files would be written to {target}: encode them to two folders.")
    model = Learn2Diss.from_pretrained(options.model)
    out.mkdir(parents=True, exist_ok=True)
    code = 0
    pairs = list(zip(options.files, targets, strict=True))
    for file, target in tqdm(pairs, unit="file"):
        try:
            write_encoding(target, model.encode_file(file))
        except (OSError, ValueError) as error:
            code = complain(error)
    return code


def write_encoding(path, encoding):
    """Write what there is of `frames` (frames, d_model) and `utterance` (E,), or nothing."""
    named = {"frames": encoding.frames, "utterance": encoding.utterance}
    arrays = {name: x[0].cpu().numpy() for name, x in named.items() if x is not None}
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def export_model(options):
    """Export a model in another toolkit's layout."""
    LAYOUTS[options.layout](load_model(options.model), options.out)
    return 0


def complain(error):
    """Write an error as one line and return the exit code that tells of it."""
    tqdm.write(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
