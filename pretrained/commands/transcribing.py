"""The command transcribe: the text of audio files."""

from pretrained.commands.messages import for_each, show


def add_parser(commands):
    """Add the command to the parser's commands."""
    transcribe = commands.add_parser("transcribe", help="print path, tab and text of each file")
    transcribe.add_argument("files", nargs="+", metavar="FILE", help="audio of any rate and length")
    transcribe.add_argument("--model", required=True, metavar="FOLDER", help="with a ctc_head")
    transcribe.set_defaults(run=transcribe_files)


def transcribe_files(options):
    """Print the text of each file. A bad one is reported, and the others follow all the same."""
    from pretrained import Transcriber

    transcriber = Transcriber.from_pretrained(options.model)
    return for_each(options.files, lambda file: show(file, transcriber.transcribe_file(file)))
