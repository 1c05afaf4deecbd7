"""Encode, transcribe or compare audio files with an exported model, or export it to a toolkit.

    python -m pretrained encode FILE... --model MODEL --out DIR
    python -m pretrained transcribe FILE... --model MODEL
    python -m pretrained classify FILE... --model MODEL
    python -m pretrained verify A B --model MODEL
    python -m pretrained verify --trials LIST --model MODEL
    python -m pretrained enroll FILE... --model MODEL --out VOICE
    python -m pretrained verify FILE --voice VOICE --model MODEL
    python -m pretrained diarize FILE... --model MODEL --out DIR
    python -m pretrained units FILE... --model MODEL --layer N --centroids FILE --out TXT
    python -m pretrained export FOLDER --layout LAYOUT --out DIR
    python -m pretrained push FOLDER ORGANISATION/NAME

Exit code 2, with a line for each problem on stderr, where anything could not be done.
"""

import argparse
import os
import sys
import warnings

from pretrained import __version__
from pretrained.commands import (
    classifying,
    diarizing,
    enrolling,
    exporting,
    file_encoding,
    pushing,
    transcribing,
    unit_naming,
    verifying,
)
from pretrained.commands.messages import complain, tell
from pretrained.commands.runtime import spin_little

COMMANDS = (
    file_encoding,
    transcribing,
    classifying,
    verifying,
    enrolling,
    diarizing,
    unit_naming,
    exporting,
    pushing,
)


def main(arguments=None):
    """Run a command and return its exit code."""
    options = make_parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: tell("warning", message)
        try:
            return options.run(options)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
            return 2
        except (OSError, ValueError) as error:
            return complain(error)


def make_parser():
    """Return the parser of the command line."""
    description, _, more = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        "python -m pretrained",
        description=description,
        epilog=more.strip("\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"learn2diss {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    spin_little()
    if sys.stdout is not None:  # as in a daemon
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files need not be text
    sys.exit(main())
