"""The command encode: frames and embeddings of audio files, in files beside each other."""

import time
from pathlib import Path

from tqdm import tqdm

from pretrained.commands.inputs import (
    FILES_HELP,
    PLACES_HELP,
    add_model,
    find_audio,
    place_results,
)
from pretrained.commands.messages import complain, tell
from pretrained.commands.runtime import check_device
from pretrained.encoding.array_files import FORMATS, write_arrays

DESCRIPTION = f"""
Writes for each audio file what the model's encoders make of it: frames (frames, d_model) at 50 Hz,
utterance (E,) and, with --layers, hidden_states (layers, frames, d_model).

{PLACES_HELP}, with another suffix.

Stopped, or called again, the command goes on: files that are there, whole, made with the same model
and options of the same audio, are kept. DIR/encoded.jsonl tells. Other audio is encoded anew;
another model, --format, --layers or --float16 is refused.
"""


def add_parser(commands):
    """Add the command to the parser's commands."""
    encode = commands.add_parser(
        "encode", help="write frames and embeddings of audio files", description=DESCRIPTION
    )
    add = encode.add_argument
    add("files", nargs="+", metavar="FILE", help=FILES_HELP)
    add_model(encode, "an exported model")
    add("--out", required=True, metavar="DIR", help="where the results go")
    add(
        "--batch_seconds",
        type=positive(float),
        metavar="S",
        help="most audio in a batch; results differ by rounding alone (default: 8 on a CPU, 80 "
        "elsewhere)",
    )
    add(
        "--num_workers",
        type=positive(int),
        default=2,
        metavar="N",
        help="threads that read audio (default: 2)",
    )
    add(
        "--format",
        choices=FORMATS,
        default="npz",
        help="npz or safetensors: a file with all arrays; npy: a file of each, such as "
        "NAME.frames.npy (default: npz)",
    )
    add(
        "--layers",
        default="",
        metavar="N,N,...",
        help="which hidden states to write: 0 for the input of the first layer, n for the output "
        "of the n-th; or all",
    )
    add("--float16", action="store_true", help="write half precision instead of float32")
    encode.set_defaults(run=encode_files)


def positive(kind):
    """Return a function that makes a number of a word, and refuses one that is not positive."""

    def parse(word):
        number = kind(word)
        if not 0 < number < float("inf"):
            raise ValueError
        return number

    parse.__name__ = f"positive {kind.__name__}"  # argparse names it in its message
    return parse


def encode_files(options):
    """Encode each file. A bad one is reported, and the others are encoded all the same."""
    inputs, out = find_audio(options.files), Path(options.out)
    places = place_results(inputs, out)
    from pretrained import Learn2Diss
    from pretrained.commands.runtime import keep_freed_memory
    from pretrained.encoding.batching import encode_all, write_behind
    from pretrained.encoding.records import Record, digest_modules

    keep_freed_memory()
    model = Learn2Diss.from_pretrained(options.model, check_device(options.device))
    encoders = {"frame_encoder": model.frame_encoder, "utterance_encoder": model.utterance_encoder}
    encoders = {name: encoder for name, encoder in encoders.items() if encoder is not None}
    layers = parse_layers(options.layers, model.frame_encoder)
    settings = {
        "model": digest_modules(encoders),
        "--format": options.format,
        "--layers": layers,
        "--float16": options.float16,
    }
    record = Record(out, settings)
    waiting = [file for file in inputs.files if not record.holds(file, places[file])]

    def write(file, arrays):
        suffixes = write_arrays(places[file], arrays, options.format, options.float16)
        record.add(file, places[file], suffixes)

    results = encode_all(model, waiting, layers, options.batch_seconds, options.num_workers)
    bar = tqdm(total=len(places), initial=len(places) - len(waiting), unit="file")
    failed, began = 0, time.monotonic()
    with record, bar:
        for error in write_behind(write, results):
            bar.update()
            if error is not None:
                failed += 1
                complain(error)
    made = len(waiting) - failed
    tell(
        "done",
        f"{made} file(s) encoded, {made / (time.monotonic() - began):.1f} a second; "
        f"{len(places) - len(waiting)} were there already; {failed} failed",
    )
    return 2 if failed else 0


def parse_layers(text, encoder):
    """Return the numbers of the hidden states that --layers names, in its order.

    Arguments
    ---------
    text : str
        Numbers with commas between them, "all", or empty for none.
    encoder : FrameEncoder or None

    Raises
    ------
    ValueError
        Where the encoder has no such layer, or there is none.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
    >>> parse_layers("2,0", encoder), parse_layers("all", encoder), parse_layers("", encoder)
    ([2, 0], [0, 1, 2], [])
    """
    if not text:
        return []
    if encoder is None:
        raise ValueError(f"--layers {text}: the model has no frame encoder, and so no layers.")
    last = encoder.config["num_layers"]
    known = {str(number): number for number in range(last + 1)}
    words = list(known) if text == "all" else text.split(",")
    if not set(words) <= known.keys() or len(set(words)) < len(words):
        raise ValueError(
            f"--layers {text}: expected different numbers from 0 to {last}, such as 0,{last}, "
            "or all."
        )
    return [known[word] for word in words]
