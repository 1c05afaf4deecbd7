"""Passes over a corpus: the same by any number of ranks, taken up after any kill, never stuck."""

import time

import pytest
import torch
from safetensors.torch import load_file

from recipes.common.units import passes
from recipes.common.units.passes import SharedWork, cut_jobs
from tests.units.ranks import end_this_process, run_ranks

JOBS = [[[1, 2], [3]], [[4]], [[5], [6, 7]], [[8, 9]], [[10]], [[11, 12]], [[13]]]
SUMS = [6, 4, 18, 17, 10, 23, 13]


def sum_up(folder, made_of="numbers", note=None):
    """Sum up the numbers of each job; return the sums, and write them to a file."""

    def compute(batches):
        batches = [list(batch) for batch in batches]
        if note:
            with open(note, "a") as file:
                file.write(f"{sum(map(sum, batches))}\n")
        return {"sum": torch.tensor(sum(map(sum, batches)))}

    with SharedWork(folder) as work:
        paths = work.share("sums", made_of, JOBS, list, compute)
        found = [int(load_file(path)["sum"]) for path in paths]
        assert found == SUMS
    return found


def test_batches_are_cut_into_jobs_in_their_order(monkeypatch):
    batches = list(range(1000))
    assert sum(cut_jobs(batches), []) == batches and len(cut_jobs(batches)) == 63
    monkeypatch.setattr(passes, "MOST_JOBS", 10)
    assert [len(job) for job in cut_jobs(batches)] == [100] * 10


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_job_is_done_once(ranks, tmp_path):
    note = tmp_path / "note"
    assert not run_ranks(ranks, tmp_path, sum_up, tmp_path / "parts", "numbers", note)
    assert sorted(map(int, note.read_text().split())) == sorted(SUMS)
    assert not (tmp_path / "parts").exists()


def interrupted_sum(folder, count, note):
    """Sum up, but be killed before a rank's own job of some number is written."""
    given, plain = [], passes.save

    def save(part):
        given.append(part)
        if len(given) > count:
            end_this_process()
        return plain(part)

    passes.save = save
    sum_up(folder, note=note)


@pytest.mark.long
@pytest.mark.parametrize(("before", "after"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_jobs_that_are_done_are_not_done_again(before, after, tmp_path):
    parts, note = tmp_path / "parts", tmp_path / "note"
    assert run_ranks(before, tmp_path, interrupted_sum, parts, 1, note)
    done = len(list(parts.rglob("*.safetensors")))
    assert 1 <= done < len(JOBS)
    note.unlink()
    assert not run_ranks(after, tmp_path, sum_up, parts, "numbers", note)
    assert len(note.read_text().split()) == len(JOBS) - done


def test_what_was_cut_and_what_others_gave_is_made_anew(tmp_path):
    parts, note = tmp_path / "parts", tmp_path / "note"
    assert run_ranks(1, tmp_path, interrupted_sum, parts, 4, note)
    first, second, *_ = sorted(parts.rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(b"")
    (first.parent / "9.safetensors.partial").write_bytes(b"")
    note.unlink()
    sum_up(parts, note=note)
    assert len(note.read_text().split()) == len(JOBS) - 4 + 2

    assert run_ranks(1, tmp_path, interrupted_sum, parts, 4, note)
    note.unlink()
    sum_up(parts, "other numbers", note=note)
    assert len(note.read_text().split()) == len(JOBS)


def fail(folder, rank, how):
    """Take part in the work, but for one rank."""
    passes.BEAT, passes.SILENCE = 0.1, 1.0
    with SharedWork(folder) as work:
        if passes.rank() == rank:
            if how == "raise":
                raise OSError("the disk is full")
            work.presence.stop()  # as where a rank was killed and nobody ended the others
            time.sleep(5)
            return
        work.share("sums", "numbers", JOBS, list, lambda b: {"sum": torch.tensor(len(list(b)))})


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("how", "told"),
    [("raise", "failed.*OSError: the disk is full"), ("vanish", "no sign of life.*for 1.0 s")],
)
def test_ranks_do_not_wait_for_one_that_has_ended(rank, how, told, tmp_path):
    with pytest.raises(AssertionError, match=rf"(?s)RuntimeError: Rank {rank} .*{told}"):
        raised = run_ranks(3, tmp_path, watch, tmp_path / "parts", rank, how)
        assert not raised, "\n".join(raised.values())


def watch(folder, rank, how):
    """As `fail`, but a rank that raised stays until the others have noticed."""
    try:
        fail(folder, rank, how)
    except OSError:
        time.sleep(5)


def slow_main(folder):
    """Have the main rank take longer than the silence that is allowed, while it is alive."""
    passes.BEAT, passes.SILENCE = 0.1, 0.5
    with SharedWork(folder) as work:
        assert work.on_main(lambda: time.sleep(1.5) or [passes.rank(), "done"]) == [0, "done"]
        assert work.on_main(passes.world_size) == 2


@pytest.mark.long
def test_a_slow_rank_is_waited_for(tmp_path):
    assert not run_ranks(2, tmp_path, slow_main, tmp_path / "parts")


def remove_at_once(folder):
    """Have the main rank remove the parts while another has not looked for them yet."""
    with SharedWork(folder) as work:
        passes.POLL = 1.5 if passes.rank() == 1 else 0.05

        def compute(batches):
            time.sleep(0.1 if passes.rank() == 0 else 0)
            return {"sum": torch.tensor(len(list(batches)))}

        paths = work.share("sums", "numbers", JOBS, list, compute)
        work.on_main(lambda: [path.unlink() for path in paths])


@pytest.mark.long
def test_parts_may_be_removed_before_all_ranks_have_seen_them(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.units.ranks.SECONDS", 10)
    assert not run_ranks(2, tmp_path, remove_at_once, tmp_path / "parts")
