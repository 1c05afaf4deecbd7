"""Recipes. Import this before torch: OpenMP reads how it is to wait when torch is loaded."""

from pretrained.commands.runtime import spin_little

spin_little()
