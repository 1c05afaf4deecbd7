"""What a user imports: exported models in use, and public weights into our encoders.

A name's module is imported when the name is first asked for.
"""

from importlib import import_module

__version__ = "0.1.0"  # also in CITATION.cff and CHANGELOG.md
PLACES = {
    "Classification": "pretrained.tasks.classifier",
    "Classifier": "pretrained.tasks.classifier",
    "Diarizer": "pretrained.tasks.diarizer",
    "Encoding": "pretrained.learn2diss",
    "Learn2Diss": "pretrained.learn2diss",
    "SpeakerVerifier": "pretrained.tasks.verifier",
    "Transcriber": "pretrained.tasks.transcriber",
    "Verification": "pretrained.tasks.verifier",
    "Voice": "pretrained.tasks.verifier",
    "import_weights": "pretrained.toolkits.importing",
    "push_to_hub": "pretrained.sharing.uploads",
}
__all__ = list(PLACES)


def __getattr__(name):
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)


def __dir__():
    return sorted(globals().keys() | PLACES.keys())
