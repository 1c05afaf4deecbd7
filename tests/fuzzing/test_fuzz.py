"""Whatever is broken is read, or refused in a sentence that names it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzzing.trying import NAMES, attempt, inputs

KEPT = Path(__file__).with_name("kept.json")
QUICK = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def kept():
    return [tuple(found) for found in json.loads(KEPT.read_text())]


@pytest.mark.parametrize(("name", "place", "changes"), kept())
def test_what_was_once_misunderstood_is_understood(name, place, changes):
    assert attempt(name, place, changes) is None


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_what_is_broken_is_read_or_refused_by_name(name):
    @QUICK
    @given(inputs(name))
    def tried(change):
        assert attempt(name, *change) is None

    tried()
