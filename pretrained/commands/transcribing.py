"""The command transcribe: the text of audio files, with times where they are asked for."""

import json

from pretrained.commands import subtitles
from pretrained.commands.inputs import FILES_HELP, PLACES_HELP, find_audio, place_results
from pretrained.commands.messages import for_each, show
from pretrained.plain_files import write_new

SUBTITLES = ("srt", "vtt")
DESCRIPTION = f"""
text: path, tab and text of each file. jsonl: a JSON object for each, with path, text and words (of
a recogniser of phones: phones), each with text, start and end in seconds. srt and vtt: a file of
subtitles for each, in DIR. {PLACES_HELP}.

Times are exact to a frame of the model, 20 ms or a few of these, for what the model tells: in which
frame it names a symbol, not where a sound begins and ends. Words seem shorter than they are.
"""


def add_parser(commands):
    """Add the command to the parser's commands."""
    transcribe = commands.add_parser(
        "transcribe", help="print or write the text of audio files", description=DESCRIPTION
    )
    transcribe.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)
    transcribe.add_argument("--model", required=True, metavar="FOLDER", help="with a ctc_head")
    transcribe.add_argument("--format", choices=("text", "jsonl", *SUBTITLES), default="text")
    transcribe.add_argument("--out", metavar="DIR", help="where subtitles go")
    transcribe.set_defaults(run=transcribe_files)


def transcribe_files(options):
    """Transcribe each file. A bad one is reported, and the others follow all the same."""
    inputs = find_audio(options.files)
    if (options.format in SUBTITLES) != (options.out is not None):
        wanted = "is needed with" if options.out is None else "has no use with"
        raise ValueError(f"--out {wanted} --format {options.format}: srt and vtt are files there.")
    places = None if options.out is None else place_results(inputs, options.out)
    from pretrained import Transcriber

    transcriber = Transcriber.from_pretrained(options.model)

    def write(file):
        if options.format == "text":
            show(file, transcriber.transcribe_file(file))
        elif options.format == "jsonl":
            print(_json_line(file, transcriber), flush=True)
        else:
            _write_subtitles(f"{places[file]}.{options.format}", transcriber.align_file(file))

    return for_each(inputs.files, write)


def _json_line(file, transcriber):
    words = transcriber.align_file(file)
    kind = "phones" if transcriber.tokenizer.kind == "phones" else "words"
    timed = [
        {"text": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
        for word in words
    ]
    text = " ".join(word.text for word in words)
    return json.dumps({"path": file, "text": text, kind: timed})


def _write_subtitles(path, words):
    cues = subtitles.make_cues(words)
    format_cues = subtitles.format_srt if path.endswith(".srt") else subtitles.format_vtt
    write_new(path, format_cues(cues).encode())
