"""Exported heads in use: a class for each kind of task."""
