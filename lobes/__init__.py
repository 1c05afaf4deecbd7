"""Torch modules of Learn2Diss: the encoders, the critic and what they are built from."""
