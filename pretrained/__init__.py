"""What a user imports: exported encoders in use, and public weights into our encoders."""

from pretrained.importing import import_weights
from pretrained.learn2diss import Encoding, Learn2Diss

__all__ = ["Encoding", "Learn2Diss", "import_weights"]
