"""Recipes. Import this before torch: OpenMP reads how it is to wait when torch is loaded."""

import logging

from pretrained.commands.runtime import spin_little

spin_little()
# SpeechBrain says at every start that pictures cannot be saved: those that it would draw itself.
logging.getLogger("speechbrain.utils.train_logger").addFilter(
    lambda record: "torchvision" not in record.getMessage()
)
