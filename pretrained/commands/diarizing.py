"""The command diarize: who speaks when in audio files, as RTTM."""

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from pretrained.commands.messages import for_each
from pretrained.plain_files import write_whole


def add_parser(commands):
    """Add the command to the parser's commands."""
    diarize = commands.add_parser("diarize", help="write who speaks when, an .rttm per audio file")
    diarize.add_argument("files", nargs="+", metavar="FILE", help="audio of any rate and length")
    diarize.add_argument("--model", required=True, metavar="FOLDER", help="an exported model")
    diarize.add_argument("--out", required=True, metavar="DIR", help="where the .rttm go")
    diarize.add_argument("--speakers", type=int, metavar="N", help="how many speak in each file")
    diarize.add_argument(
        "--threshold", type=float, default=0.6, help="cosine distance between speakers, without N"
    )
    diarize.set_defaults(run=diarize_files)


def diarize_files(options):
    """Diarize each file. A bad one is reported, and the others follow all the same."""
    out = Path(options.out)
    targets = [out / f"{Path(file).stem}.rttm" for file in options.files]
    target, times = Counter(targets).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} files would be written to {target}: diarize to two folders.")
    from pretrained.diarizer import Diarizer, to_rttm

    diarizer = Diarizer.from_pretrained(options.model, options.threshold)
    out.mkdir(parents=True, exist_ok=True)

    def diarize(pair):
        file, target = pair
        turns = diarizer.diarize_file(file, options.speakers)
        write_whole(target, to_rttm(target.stem, turns).encode())

    return for_each(tqdm(list(zip(options.files, targets, strict=True)), unit="file"), diarize)
