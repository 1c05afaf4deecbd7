"""The command classify: which class each audio file belongs to, as a table."""

from itertools import islice

from pretrained.commands.inputs import FILES_HELP, add_model, find_audio
from pretrained.commands.messages import for_each, show
from pretrained.commands.runtime import check_device

DESCRIPTION = """
Prints a line for each file, with tabs between path, label and score, the posterior of the label.
With --top N, as many lines for each file, the most probable label first.
"""


def add_parser(commands):
    """Add the command to the parser's commands."""
    classify = commands.add_parser(
        "classify", help="print the class of each audio file", description=DESCRIPTION
    )
    classify.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)
    add_model(classify, "a classifier, of a recipe that classifies")
    classify.add_argument(
        "--top", type=int, default=1, metavar="N", help="labels for each file (default: 1)"
    )
    classify.set_defaults(run=classify_files)


def classify_files(options):
    """Classify each file. A bad one is reported, and the others follow all the same."""
    if options.top < 1:
        raise ValueError(f"--top is {options.top}: expected 1 or more.")
    inputs = find_audio(options.files)
    from pretrained import Classifier

    classifier = Classifier.from_pretrained(options.model, check_device(options.device))

    def write(file):
        scores = classifier.classify_file(file).scores
        for label, score in islice(scores.items(), options.top):
            show(file, label, f"{score:.6f}")

    return for_each(inputs.files, write)
