"""The command enroll: a speaker's voice from recordings, for `verify --voice`."""

from pathlib import Path

from pretrained.commands.inputs import add_model, check_out_file
from pretrained.commands.runtime import check_device

DESCRIPTION = """
Writes the mean of the recordings' embeddings, for verify --voice. It belongs to the model that made
it: another refuses it. It tells who somebody is: ask whoever it is of.
"""


def add_parser(commands):
    """Add the command to the parser's commands."""
    enroll = commands.add_parser(
        "enroll", help="write the voice of one speaker's recordings", description=DESCRIPTION
    )
    enroll.add_argument("files", nargs="+", metavar="FILE", help="audio of any rate and length")
    add_model(enroll, "a verifier, of recipes/VoxCeleb/SpeakerRec")
    enroll.add_argument("--out", required=True, metavar="VOICE", help="a JSON file")
    enroll.set_defaults(run=enroll_files)


def enroll_files(options):
    """Write the voice, or nothing where a file is bad: a voice of fewer would be another."""
    check_out_file(options.out, options.files)
    from pretrained import SpeakerVerifier

    voice = SpeakerVerifier.from_pretrained(options.model, check_device(options.device)).enroll(
        options.files
    )
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    voice.save(options.out)
    return 0
