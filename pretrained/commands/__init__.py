"""The commands of `python -m pretrained`, a file each.

Each has `add_parser`, which adds the command to the parser and names the function that runs it.
What loads torch is imported by that function: help is to be there at once.
"""
