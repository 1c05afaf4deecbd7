"""What a user imports: public weights into our encoders."""

from pretrained.importing import import_weights

__all__ = ["import_weights"]
