"""Break inputs for some minutes; print each finding, as kept.json has it.

python -m tests.fuzzing.search MINUTES [TARGET ...]
"""

import json
import sys
import time
import traceback

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzzing.trying import NAMES, attempt, inputs

ROUND = settings(
    max_examples=150,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def search(name, number):
    """Try a target many times; return how often, and the smallest input that fails, or None."""
    tried, last = [0], []

    @seed(number)
    @ROUND
    @given(inputs(name))
    def one(change):
        tried[0] += 1
        last[:] = [name, *change]
        wrong = attempt(name, *change)
        assert wrong is None, wrong

    try:
        one()
    except AssertionError as error:
        return tried[0], last, str(error).splitlines()[0]
    except Exception:
        return tried[0], last, traceback.format_exc()
    return tried[0], None, None


def main(minutes, *names):
    """Search all targets in turn."""
    end, number, tried = time.time() + 60 * float(minutes), 0, 0
    while time.time() < end:
        number += 1
        for name in names or NAMES:
            count, found, why = search(name, number)
            tried += count
            if found:
                print(json.dumps(found), "#", why, flush=True)
        print(f"# round {number}: {tried} inputs", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
