"""The command verify: whether two files, a voice and a file, or pairs of files are one speaker."""

from pretrained.commands.inputs import add_model
from pretrained.commands.messages import complain, show, tell
from pretrained.commands.runtime import check_device
from pretrained.plain_files import read_utf8

LABELS = ("0", "1")
DESCRIPTION = """
Of two files: score, threshold, what it was set on, and the decision, a line each. Of a list of
trials: a line for each, with tabs between score, decision ("same" or "different") and both files;
each file is read once. A trial with a file that cannot be used has no line.
"""


def add_parser(commands):
    """Add the command to the parser's commands."""
    verify = commands.add_parser(
        "verify", help="print whether files have the same speaker", description=DESCRIPTION
    )
    verify.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="two audio files; one with --voice; none with --trials",
    )
    verify.add_argument("--voice", metavar="VOICE", help="the file that enroll wrote")
    add_model(verify, "a verifier, of recipes/VoxCeleb/SpeakerRec")
    verify.add_argument(
        "--trials",
        metavar="LIST",
        help="a text file with two files on each line, behind a label 0 or 1 or without one, as "
        "VoxCeleb has them; paths are relative to the current folder. Spaces separate, or tabs "
        "where paths have spaces",
    )
    verify.set_defaults(run=verify_files)


def verify_files(options):
    """Compare two files, a voice and a file, or the files of each trial."""
    if None not in (options.voice, options.trials):
        raise ValueError("--voice and --trials are two ways to compare: give one of them.")
    expected = 2 - (options.voice is not None) if options.trials is None else 0
    if len(options.files) != expected:
        raise ValueError(
            f"{len(options.files)} file(s) to compare: expected two, one beside --voice, or none "
            "beside --trials."
        )
    trials = None if options.trials is None else read_trials(options.trials)
    from pretrained import SpeakerVerifier, Voice

    verifier = SpeakerVerifier.from_pretrained(options.model, check_device(options.device))
    if trials is not None:
        return _verify_trials(verifier, trials)
    if options.voice is None:
        verification = verifier.verify_files(*options.files)
    else:
        verification = verifier.verify(Voice.load(options.voice), *options.files)
    show("score", f"{verification.score:.6f}")
    show("threshold", f"{verification.threshold:.6f}")
    show("threshold set on", verification.set_on)
    show("decision", "same speaker" if verification.same_speaker else "different speakers")
    return 0


def _verify_trials(verifier, trials):
    """Print a line for each trial, and each error once; return the exit code."""
    told, left_out = set(), 0
    for pair, found in zip(trials, verifier.verify_trials(trials), strict=True):
        if isinstance(found, list):
            left_out += 1
            for error in found:
                if id(error) not in told:
                    told.add(id(error))
                    complain(error)
        else:
            decision = "same" if found.same_speaker else "different"
            show(f"{found.score:.6f}", decision, *pair)
    tell("done", f"{len(trials) - left_out} trial(s) scored; {left_out} left out for bad files")
    return 2 if left_out else 0


def read_trials(path):
    """Return the pairs of files of a list of trials.

    Arguments
    ---------
    path : str or Path
        A line for each trial: `label a b` or `a b`, the same in all lines.

    Raises
    ------
    OSError
        Where it cannot be read.
    ValueError
        Where a line has another number of fields, or another label than 0 or 1; names the line.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> _ = path.write_text("1 a/1.wav a/2.wav\\n0\\ta/1.wav\\tb/a 1.wav\\n")
    >>> read_trials(path)
    [('a/1.wav', 'a/2.wav'), ('a/1.wav', 'b/a 1.wav')]
    """
    pairs, sizes = [], set()
    for number, line in enumerate(read_utf8(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        sizes.add(len(fields))
        labelled = len(fields) == 3 and fields[0] in LABELS
        if not (labelled or len(fields) == 2) or len(sizes) > 1 or "" in fields:
            raise ValueError(
                f"{path}, line {number}: expected two files, with a label 0 or 1 before them in "
                "all lines or in none."
            )
        pairs.append(tuple(fields[-2:]))
    if not pairs:
        raise ValueError(f"{path} holds no trial: expected lines such as: 1 a.wav b.wav")
    return pairs
