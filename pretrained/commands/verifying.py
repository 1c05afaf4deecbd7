"""The command verify: whether two audio files have the same speaker."""

from pretrained.commands.messages import show


def add_parser(commands):
    """Add the command to the parser's commands."""
    verify = commands.add_parser("verify", help="print whether two files have the same speaker")
    verify.add_argument("files", nargs=2, metavar="FILE", help="audio of any rate and length")
    verify.add_argument("--model", required=True, metavar="FOLDER", help="a verifier")
    verify.set_defaults(run=verify_files)


def verify_files(options):
    """Print the score of two files, the threshold, where it was set, and the decision."""
    from pretrained import SpeakerVerifier

    verification = SpeakerVerifier.from_pretrained(options.model).verify_files(*options.files)
    show("score", f"{verification.score:.6f}")
    show("threshold", f"{verification.threshold:.6f}")
    show("threshold set on", verification.set_on)
    show("decision", "same speaker" if verification.same_speaker else "different speakers")
    return 0
