"""How a recipe's command ends where it refuses its input: with one message, and no traceback."""

import linecache
import logging
import sys
import traceback

from recipes.common.training.brain import TrainingError

logger = logging.getLogger(__name__)  # SpeechBrain's own leaves out what is below info
INTERRUPTED = (
    "Interrupted. The same command goes on from the last checkpoint; before the first one was "
    "saved, it begins anew."
)
PROJECT = {"lobes", "pretrained", "recipes", "__main__"}  # the last is a recipe's train.py


def run_recipe(main, *more):
    """Run a recipe on its command line; where it refuses something, say so and end with status 1.

    A refusal is written to stderr and to the run's log; so is, to stderr, that Ctrl-C interrupted
    it, which ends with status 130. A defect keeps its traceback, and with `--debug` all of them do.

    Arguments
    ---------
    main : callable
        Takes the words of the command line.
    *more
        What else it takes.
    """
    arguments = sys.argv[1:]
    try:
        main(arguments, *more)
    except KeyboardInterrupt:
        if "--debug" in arguments:
            raise
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)  # as shells have it for SIGINT
    except Exception as error:
        if "--debug" in arguments or not is_refusal(error):
            raise
        logger.debug(f"Ended with: {error}")  # the console, which is above debug, has it from exit
        sys.exit(str(error))


def is_refusal(error):
    """Return whether an exception is for the user to read: about settings, files or training.

    That is a ValueError, a TrainingError or an OSError that this project's code raises itself, in a
    statement `raise`, and any OSError that names a file. A ValueError of Python's or of a library's
    own is a defect here.

    Arguments
    ---------
    error : Exception
        As it was caught.

    Returns
    -------
    bool

    Example
    -------
    >>> try:
    ...     int("many")
    ... except ValueError as error:
    ...     is_refusal(error)
    False
    >>> try:
    ...     open("none.csv")
    ... except OSError as error:
    ...     is_refusal(error)
    True
    """
    if isinstance(error, OSError) and error.filename is not None:
        return True
    if not isinstance(error, (ValueError, TrainingError, OSError)):
        return False
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    statement = linecache.getline(frame.f_code.co_filename, line).strip()
    return package in PROJECT and statement.startswith("raise")
