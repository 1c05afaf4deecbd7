#!/usr/bin/env python3
"""What each representation of a model tells of content and of speakers, with controls: a report.

    python train.py hparams/report.yaml --data_folder LibriSpeech --output_folder O/report
        --models [O/joint/model,O/joint_plain/model] --alignments ALIGNMENTS

Writes report.html, a page that opens from disk, and report.json. Run again, it goes on where it was
stopped; models that were measured before are not measured again.
"""

from recipes.common.report.report import run
from recipes.common.training.refusals import run_recipe

if __name__ == "__main__":
    run_recipe(run)
