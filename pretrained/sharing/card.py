"""The README.md of an exported folder: what it is, how to load it, what was measured.

Its first lines are what the Hugging Face Hub shows and searches models by.
"""

import json
from pathlib import Path

from pretrained.facts import CLASSIFIER, TRANSCRIBER, VERIFIER, kind_of
from pretrained.plain_files import write_whole

TEMPLATE = """---
library_name: learn2diss
pipeline_tag: {task}
license: unknown
tags:
- speech
- {tag}
---

# {title}

Exported by a recipe of Learn2Diss for SpeechBrain (arXiv 2407.02543): {what}

{modules}

## Load

With that project installed:

{load}

On the Hugging Face Hub, `organisation/name` stands for the folder. It is complete and holds no
code: `model.safetensors` are the weights, `config.json` the architecture and the checksums. Who
trained the weights says under which licence they are: in the first lines of this file.

## Figures

{figures}

These are figures of one run with one seed, on the data below. {caveat}
None is taken from the method's paper, whose authors withdrew theirs.

## Made from

{origin}
"""
ENCODERS_TEXT = {
    "task": "feature-extraction",
    "tag": "self-supervised",
    "title": "{encoders}",
    "what": """encoders of 16 kHz speech,
trained without labels.""",
    "load": """    from pretrained import Learn2Diss
    model = Learn2Diss.from_pretrained("<this folder>")
    encoding = model.encode_file("speech.flac")

`encoding.frames` is (1, frames, d_model) at 50 Hz, `encoding.utterance` (1, E); the output of an
encoder that is not in the folder is None.""",
    "caveat": """They say how its training went by
its own measures. They do not tell how good the representations are for another task or on other
recordings, and figures of runs on other data cannot be compared with them.""",
}
HEADS_CAVEAT = """They do not tell how
many errors there are on other recordings, and can be compared only with figures on the same"""
TRANSCRIBER_TEXT = {
    "task": "automatic-speech-recognition",
    "tag": "ctc",
    "title": "Transcriber",
    "what": """16 kHz speech to
{tokenizer[kind]}, by a CTC head on {features}.""",
    "load": """    from pretrained import Transcriber
    transcriber = Transcriber.from_pretrained("<this folder>")
    text = transcriber.transcribe_file("speech.flac")

Or `python -m pretrained transcribe speech.flac --model <this folder>`. The text is that of the
best symbol of each frame, without a language model.""",
    "caveat": f"{HEADS_CAVEAT} data,\ndecoded likewise.",
}
VERIFIER_TEXT = {
    "task": "audio-classification",
    "tag": "speaker-verification",
    "title": "Speaker verifier",
    "what": """whether two
recordings have the same speaker, by the cosine ({scoring}) of embeddings of {features}.""",
    "load": """    from pretrained import SpeakerVerifier
    verifier = SpeakerVerifier.from_pretrained("<this folder>")
    verification = verifier.verify_files("a.flac", "b.flac")

Or `python -m pretrained verify a.flac b.flac --model <this folder>`. `verification.score` is the
cosine; `verification.same_speaker` tells whether it is at least the threshold, {threshold:.6g}.
That was set on: {threshold_set_on}. Other recordings need another one.""",
    "caveat": f"{HEADS_CAVEAT}\ntrials.",
}
CLASSIFIER_TEXT = {
    "task": "audio-classification",
    "tag": "utterance-classification",
    "title": "Classifier of utterances",
    "what": """which of
{number_of_labels} classes an utterance of 16 kHz speech belongs to, by a linear classifier of the
mean over time of {features}. The classes: {labels}.""",
    "load": """    from pretrained import Classifier
    classifier = Classifier.from_pretrained("<this folder>")
    found = classifier.classify_file("speech.flac")

Or `python -m pretrained classify speech.flac --model <this folder>`. `found.label` is the most
probable class, `found.score` its posterior, and `found.scores` has the posterior of each class. It
names one of its classes whatever it hears.""",
    "caveat": f"{HEADS_CAVEAT}\nutterances.",
}
TEXTS = {
    None: ENCODERS_TEXT,
    TRANSCRIBER: TRANSCRIBER_TEXT,
    VERIFIER: VERIFIER_TEXT,
    CLASSIFIER: CLASSIFIER_TEXT,
}
SHOWN_LABELS = 50
FEATURES_TEXT = {
    "frame_encoder": "all layers of the frame encoder",
    "utterance_encoder": "the utterance encoder",
    "fbank": "log-mel bands",
    "fbank_statistics": "log-mel bands' mean and deviation over time",
}


def write_card(folder, metrics):
    """Write the model card of an exported folder.

    Arguments
    ---------
    folder : str or Path
        As `pretrained.exported.save_model` leaves it.
    metrics : dict
        The content of the run's metrics.json.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> from pretrained.exported import save_model
    >>> folder = getfixture("tmp_path") / "model"
    >>> save_model(folder, {"utterance_encoder": UtteranceEncoder("tdnn", channels=8)})
    >>> write_card(folder, {"figures": {"test": {"loss": 1.5}}, "seed": 7})
    >>> "| test.loss | 1.5 |" in (folder / "README.md").read_text()
    True
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    modules = {name: config[name] for name in config if name.endswith(("_encoder", "_head"))}
    origin = {key: value for key, value in metrics.items() if key != "figures"}
    values = {"encoders": " and ".join(modules).replace("_", " ").capitalize()}
    facts = config.get("facts")
    if facts is not None:
        values = {**facts, "features": FEATURES_TEXT[facts["features"]]}
        values |= _shown_labels(facts.get("labels", []))
    text = TEMPLATE.format(
        modules=_table("argument", modules),
        figures=_table("figure", metrics["figures"]),
        origin=_table("what", origin),
        **{key: text.format(**values) for key, text in TEXTS[kind_of(facts)].items()},
    )
    write_whole(folder / "README.md", text.encode())


def _shown_labels(labels):
    """Return how many labels there are, and the first of them, as texts of the card."""
    shown = ", ".join(labels[:SHOWN_LABELS]) + (", ..." if len(labels) > SHOWN_LABELS else "")
    return {"number_of_labels": len(labels), "labels": shown}


def _table(heading, values):
    rows = [f"| {name} | {value} |" for name, value in _flat(values)]
    return "\n".join([f"| {heading} | value |", "|---|---|", *rows])


def _flat(values, prefix=""):
    """Yield the dotted name and the text of each plain value."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            yield f"{prefix}{key}", text.replace("|", "\\|").replace("\n", " ")
