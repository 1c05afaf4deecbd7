"""Time and memory hardly grow with the corpus, nor with ranks and workers."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
ROOT = Path(__file__).parents[2]


@cache
def figures_of(*words):
    """Return what the command prints."""
    command = [sys.executable, "-m", "tests.corpus_memory", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.long
def test_two_hundred_thousand_rows_take_little_memory():
    assert figures_of(200_000)["peak"] < 150  # as dicts they took 500


@pytest.mark.long
def test_a_million_rows_are_open_in_seconds():
    """Ten million, which take half a minute to write, may take 60 s and 1000 MiB."""
    found = figures_of(1_000_000)
    assert found["open_seconds"] < 6 and found["peak"] < 300 and found["plan_seconds"] < 1


@pytest.mark.long
@pytest.mark.parametrize(("method", "workers"), [("fork", 4), ("spawn", 2)])
def test_workers_share_the_rows(method, workers):
    few, many = (
        figures_of(rows, "--workers", workers, "--method", method)["total"]
        for rows in (1000, 1_000_000)
    )
    assert many - few < 320  # 250 without workers; a copy of the texts takes 100 in each


@pytest.mark.long
def test_a_corpus_that_is_prepared_is_ready_in_seconds():
    found = figures_of(20_000, "--tree")
    assert sum(found.values()) < 5 * 20_000 / 281_241 + 0.3
