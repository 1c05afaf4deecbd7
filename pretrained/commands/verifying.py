"""The command verify: whether two audio files, or a voice and a file, have the same speaker."""

from pretrained.commands.messages import show


def add_parser(commands):
    """Add the command to the parser's commands."""
    verify = commands.add_parser("verify", help="print whether two files have the same speaker")
    verify.add_argument(
        "files", nargs="+", metavar="FILE", help="audio; one beside --voice, or two"
    )
    verify.add_argument("--voice", metavar="VOICE", help="the file that enroll wrote")
    verify.add_argument("--model", required=True, metavar="FOLDER", help="a verifier")
    verify.set_defaults(run=verify_files)


def verify_files(options):
    """Print the score, the threshold, where it was set, and the decision."""
    expected = 2 if options.voice is None else 1
    if len(options.files) != expected:
        raise ValueError(
            f"{len(options.files)} files: expected two, or one beside --voice VOICE, to compare."
        )
    from pretrained import SpeakerVerifier, Voice

    verifier = SpeakerVerifier.from_pretrained(options.model)
    if options.voice is None:
        verification = verifier.verify_files(*options.files)
    else:
        verification = verifier.verify(Voice.load(options.voice), *options.files)
    show("score", f"{verification.score:.6f}")
    show("threshold", f"{verification.threshold:.6f}")
    show("threshold set on", verification.set_on)
    show("decision", "same speaker" if verification.same_speaker else "different speakers")
    return 0
