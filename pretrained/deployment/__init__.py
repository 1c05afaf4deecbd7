"""Exported models in use elsewhere than on whole files in this process."""
