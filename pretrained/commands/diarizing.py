"""The command diarize: who speaks when in audio files, as RTTM."""

import os
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from pretrained.commands.inputs import add_model, result_name
from pretrained.commands.messages import for_each
from pretrained.commands.runtime import check_device
from pretrained.plain_files import refuse_existing, write_new

DESCRIPTION = """
Writes DIR/NAME.rttm for each NAME.wav: a line for each turn, with its start and length in seconds
and a number for its speaker. Speakers are clusters of the embeddings of windows of 1.5 s; set
--threshold on recordings like your own, or give --speakers.
"""


def add_parser(commands):
    """Add the command to the parser's commands."""
    diarize = commands.add_parser(
        "diarize", help="write who speaks when, an .rttm per audio file", description=DESCRIPTION
    )
    diarize.add_argument("files", nargs="+", metavar="FILE", help="audio of any rate and length")
    add_model(diarize, "an exported model")
    diarize.add_argument("--out", required=True, metavar="DIR", help="where the .rttm go")
    diarize.add_argument("--speakers", type=int, metavar="N", help="how many speak in each file")
    diarize.add_argument(
        "--threshold",
        type=float,
        help="cosine distance between speakers, where --speakers is not given (default: 0.6)",
    )
    diarize.set_defaults(run=diarize_files)


def diarize_files(options):
    """Diarize each file. A bad one is reported, and the others follow all the same."""
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a folder.")
    if options.speakers is not None and (options.speakers < 1 or options.threshold is not None):
        raise ValueError("--speakers must be at least 1, and takes the place of --threshold.")
    targets = [out / f"{result_name(file)}.rttm" for file in options.files]
    target, times = Counter(targets).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} files would be written to {target}: diarize to two folders.")
    from pretrained.tasks.diarizer import Diarizer, to_rttm

    given = {} if options.threshold is None else {"threshold": options.threshold}
    diarizer = Diarizer.from_pretrained(options.model, device=check_device(options.device), **given)

    def diarize(pair):
        file, target = pair
        refuse_existing(target)
        turns = diarizer.diarize_file(file, options.speakers)
        write_new(target, os.fsencode(to_rttm(target.stem, turns)))

    return for_each(tqdm(list(zip(options.files, targets, strict=True)), unit="file"), diarize)
