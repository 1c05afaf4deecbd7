"""Recipes. Import this before torch: OpenMP reads how it is to wait when torch is loaded."""

import logging
import sys
from pathlib import Path

from pretrained.commands.runtime import spin_little


def _check_clone():
    """Leave where the program that runs lies in another clone than this package."""
    program = getattr(sys.modules["__main__"], "__file__", None)
    own = Path(__file__).resolve().parent.parent
    if Path(program or __file__).absolute().is_relative_to(sys.prefix):
        return  # a tool of the environment, which may lie in any clone
    for folder in Path(program or __file__).resolve().parents:
        if all((folder / name / "__init__.py").is_file() for name in ("recipes", "lobes")):
            if folder != own:
                sys.exit(
                    f"{program} lies in {folder}, but this environment has the recipes of {own}: "
                    f"code of two places would be mixed. Install that of {folder} (make install "
                    f"there, or pip install -e {folder}), or set PYTHONPATH={folder}."
                )
            return


_check_clone()
spin_little()
# SpeechBrain says at every start that pictures cannot be saved: those that it would draw itself.
logging.getLogger("speechbrain.utils.train_logger").addFilter(
    lambda record: "torchvision" not in record.getMessage()
)
