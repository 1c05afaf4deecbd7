"""What a user imports: exported models in use, and public weights into our encoders."""

from pretrained.learn2diss import Encoding, Learn2Diss
from pretrained.toolkits.importing import import_weights
from pretrained.transcriber import Transcriber
from pretrained.verifier import SpeakerVerifier, Verification

__all__ = [
    "Encoding",
    "Learn2Diss",
    "SpeakerVerifier",
    "Transcriber",
    "Verification",
    "import_weights",
]
