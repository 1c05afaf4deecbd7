"""The command encode: frames and embeddings of audio files, a file for each."""

import io
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from pretrained.commands.messages import for_each
from pretrained.plain_files import write_whole


def add_parser(commands):
    """Add the command to the parser's commands."""
    encode = commands.add_parser("encode", help="write one .npz (frames, utterance) per audio file")
    encode.add_argument("files", nargs="+", metavar="FILE", help="audio of any rate and length")
    encode.add_argument("--model", required=True, metavar="FOLDER", help="an exported model")
    encode.add_argument("--out", required=True, metavar="DIR", help="where the .npz go")
    encode.set_defaults(run=encode_files)


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


def write_encoding(path, encoding):
    """Write what there is of `frames` (frames, d_model) and `utterance` (E,), or nothing."""
    import numpy as np

    named = {"frames": encoding.frames, "utterance": encoding.utterance}
    arrays = {name: x[0].cpu().numpy() for name, x in named.items() if x is not None}
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_whole(path, content.getvalue())
