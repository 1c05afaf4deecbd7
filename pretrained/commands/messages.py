"""What commands print: lines of results, of errors and of warnings."""

import re
import sys

from tqdm import tqdm

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")  # what could break a line or steer a terminal


def for_each(items, do):
    """Do something with each item. One that fails is reported, and the others follow all the same.

    Returns the exit code.
    """
    code = 0
    for item in items:
        try:
            do(item)
        except BrokenPipeError:  # whoever read the results reads no more
            raise
        except (OSError, ValueError) as error:
            code = complain(error)
    return code


def show(*texts):
    """Print texts as one line, with tabs between them."""
    print(*(CONTROL.sub(" ", text) for text in texts), sep="\t", flush=True)


def complain(error):
    """Write an error as one line and return the exit code that tells of it."""
    tell("error", error)
    return 2


def tell(kind, message):
    """Write an error or a warning to stderr as one line."""
    tqdm.write(f"{kind}: {' '.join(CONTROL.sub(' ', str(message)).split())}", file=sys.stderr)
