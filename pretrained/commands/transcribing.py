"""The command transcribe: the text of audio files, with times where they are asked for."""

import json

from pretrained.commands import subtitles
from pretrained.commands.inputs import FILES_HELP, PLACES_HELP, add_model, find_audio, place_results
from pretrained.commands.messages import for_each, show
from pretrained.commands.runtime import check_device
from pretrained.plain_files import refuse_existing, write_new

SUBTITLES = ("srt", "vtt")
USED_WITH = {"lm_file": "beam_size", "lm_weight": "lm_file", "word_score": "lm_file"}
DESCRIPTION = f"""
text: path, tab and text of each file. jsonl: a JSON object for each, with path, text and words (of
a recogniser of phones: phones), each with text, start and end in seconds. srt and vtt: a file of
subtitles for each, in DIR. {PLACES_HELP}.

Times are exact to a frame of the model, 20 ms or a few of these, for what the model tells: in which
frame it names a symbol, not where a sound begins and ends. Words seem shorter than they are.

A beam finds better texts than the best symbol of each frame, above all with an n-gram model. For a
model of recipes/LibriSpeech/ASR that is the bigram.arpa beside it, of training with --beam_size 30
--lm_file transcripts, with the weights of that run's hyperparams.yaml. A beam takes much longer.
"""


def add_parser(commands):
    """Add the command to the parser's commands."""
    transcribe = commands.add_parser(
        "transcribe", help="print or write the text of audio files", description=DESCRIPTION
    )
    transcribe.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)
    add_model(transcribe, "a recogniser, of recipes/LibriSpeech/ASR or PR")
    transcribe.add_argument("--format", choices=("text", "jsonl", *SUBTITLES), default="text")
    transcribe.add_argument("--out", metavar="DIR", help="where subtitles go")
    add = transcribe.add_argument
    add(
        "--beam_size",
        type=int,
        metavar="N",
        help="decode by a beam that keeps so many texts after each frame, such as 30 (default: "
        "the best symbol of each frame)",
    )
    add(
        "--lm_file",
        metavar="ARPA",
        help="for the beam, an n-gram model of words, or of phones for a model of phones, as ARPA "
        "text or that in gzip; needs kenlm and pygtrie",
    )
    add("--lm_weight", type=float, metavar="W", help="of the n-gram model (default: 0.5)")
    add(
        "--word_score",
        type=float,
        metavar="S",
        help="added to a text's score for each word, where there is an n-gram model (default: 1.5)",
    )
    transcribe.set_defaults(run=transcribe_files)


def transcribe_files(options):
    """Transcribe each file. A bad one is reported, and the others follow all the same."""
    inputs = find_audio(options.files)
    if (options.format in SUBTITLES) != (options.out is not None):
        wanted = "is needed with" if options.out is None else "has no use with"
        raise ValueError(f"--out {wanted} --format {options.format}: srt and vtt are files there.")
    check_beam(options)
    places = None if options.out is None else place_results(inputs, options.out)
    from pretrained import Transcriber

    transcriber = Transcriber.from_pretrained(options.model, check_device(options.device))
    transcriber.beam = make_beam(options, transcriber.tokenizer)

    def write(file):
        if options.format == "text":
            show(file, transcriber.transcribe_file(file))
        elif options.format == "jsonl":
            print(_json_line(file, transcriber), flush=True)
        else:
            path = f"{places[file]}.{options.format}"
            refuse_existing(path)  # before what takes long
            _write_subtitles(path, transcriber.align_file(file))

    return for_each(inputs.files, write)


def check_beam(options):
    """Raise ValueError where an option of the beam would not be used."""
    for name, needed in USED_WITH.items():
        if getattr(options, name) is not None and getattr(options, needed) is None:
            raise ValueError(f"--{name} has no use without --{needed}.")


def make_beam(options, tokenizer):
    """Return the beam search of the options, or None where they ask for none."""
    if options.beam_size is None:
        return None
    from pretrained.decoding import BeamDecoder

    weights = {name: getattr(options, name) for name in ("lm_weight", "word_score")}
    given = {name: value for name, value in weights.items() if value is not None}
    return BeamDecoder(tokenizer, options.beam_size, options.lm_file, **given)


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
