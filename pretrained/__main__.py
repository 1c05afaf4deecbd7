"""Encode, transcribe or compare audio files with an exported model, or export it to a toolkit.

    python -m pretrained encode FILE... --model FOLDER --out DIR
    python -m pretrained transcribe FILE... --model FOLDER
    python -m pretrained verify A B --model FOLDER
    python -m pretrained export FOLDER --layout {speechbrain,huggingface,torchaudio} --out DIR

Exit code 2, with a line for each problem on stderr, where anything could not be done.
"""

import argparse
import io
import re
import sys
import warnings
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from pretrained.plain_files import write_whole
from pretrained.toolkits import LAYOUTS

# What loads torch is imported by the command that needs it: help is to be there at once.

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")  # what could break a line or steer a terminal


def main(arguments=None):
    """Run a command and return its exit code."""
    options = make_parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: tell("warning", message)
        try:
            return options.run(options)
        except (OSError, ValueError) as error:
            return complain(error)


def make_parser():
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser("python -m pretrained", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    encode = commands.add_parser("encode", help="write one .npz (frames, utterance) per audio file")
    encode.add_argument("files", nargs="+", metavar="FILE", help="audio of any rate and length")
    encode.add_argument("--model", required=True, metavar="FOLDER", help="an exported model")
    encode.add_argument("--out", required=True, metavar="DIR", help="where the .npz go")
    encode.set_defaults(run=encode_files)
    transcribe = commands.add_parser("transcribe", help="print path, tab and text of each file")
    transcribe.add_argument("files", nargs="+", metavar="FILE", help="audio of any rate and length")
    transcribe.add_argument("--model", required=True, metavar="FOLDER", help="with a ctc_head")
    transcribe.set_defaults(run=transcribe_files)
    verify = commands.add_parser("verify", help="print whether two files have the same speaker")
    verify.add_argument("files", nargs=2, metavar="FILE", help="audio of any rate and length")
    verify.add_argument("--model", required=True, metavar="FOLDER", help="a verifier")
    verify.set_defaults(run=verify_files)
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
    from pretrained import Learn2Diss

    model = Learn2Diss.from_pretrained(options.model)
    out.mkdir(parents=True, exist_ok=True)
    pairs = list(zip(options.files, targets, strict=True))
    return for_each(
        tqdm(pairs, unit="file"), lambda pair: write_encoding(pair[1], model.encode_file(pair[0]))
    )


def for_each(items, do):
    """Do something with each item. One that fails is reported, and the others follow all the same.

    Returns the exit code.
    """
    code = 0
    for item in items:
        try:
            do(item)
        except (OSError, ValueError) as error:
            code = complain(error)
    return code


def write_encoding(path, encoding):
    """Write what there is of `frames` (frames, d_model) and `utterance` (E,), or nothing."""
    import numpy as np

    named = {"frames": encoding.frames, "utterance": encoding.utterance}
    arrays = {name: x[0].cpu().numpy() for name, x in named.items() if x is not None}
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_whole(path, content.getvalue())


def transcribe_files(options):
    """Print the text of each file. A bad one is reported, and the others follow all the same."""
    from pretrained import Transcriber

    transcriber = Transcriber.from_pretrained(options.model)
    return for_each(options.files, lambda file: show(file, transcriber.transcribe_file(file)))


def verify_files(options):
    """Print the score of two files, the threshold, where it was set, and the decision."""
    from pretrained import SpeakerVerifier

    verification = SpeakerVerifier.from_pretrained(options.model).verify_files(*options.files)
    show("score", f"{verification.score:.6f}")
    show("threshold", f"{verification.threshold:.6f}")
    show("threshold set on", verification.set_on)
    show("decision", "same speaker" if verification.same_speaker else "different speakers")
    return 0


def show(name, text):
    """Print a name and a text as one line, with a tab between them."""
    print(*(CONTROL.sub(" ", part) for part in (name, text)), sep="\t", flush=True)


def export_model(options):
    """Export a model's encoders in another toolkit's layout."""
    from pretrained.exported import load_model
    from pretrained.toolkits import layouts

    write = getattr(layouts, f"to_{options.layout}")
    write(load_model(options.model), options.out)
    return 0


def complain(error):
    """Write an error as one line and return the exit code that tells of it."""
    tell("error", error)
    return 2


def tell(kind, message):
    """Write an error or a warning to stderr as one line."""
    tqdm.write(f"{kind}: {' '.join(CONTROL.sub(' ', str(message)).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
