"""What `make gpu` measures: counts, differences, time and errors; all of it on a CPU."""

import json
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.gpu import __main__ as command
from tests.gpu import agreement, largest, made_up, running, speed
from tests.gpu.running import Record, Settings, run_parts, run_steps, time_limits
from tests.peers import sample_counts


@pytest.fixture
def settings(tmp_path):
    return Settings("cpu", "tiny", None, tmp_path, 8.0, time.time())


def test_without_a_gpu_a_line_is_printed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--out", str(tmp_path / "out")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        command.main(["--device", "cuda"])


def test_operations_are_three_times_those_of_the_forward():
    linear, conv = nn.Linear(6, 5), nn.Conv1d(8, 4, 3, groups=4, padding=1)
    x = torch.randn(7, 6)
    assert speed.count_operations(linear, lambda: linear(x)) == 3 * 2 * 7 * 6 * 5
    x = torch.randn(2, 8, 10)
    assert speed.count_operations(conv, lambda: conv(x)) == 3 * 2 * (2 * 10 * 4) * (2 * 3)
    assert conv.training


def test_a_difference_is_by_norm_and_rounding_of_nothing_counts_little():
    reference = {"gradients": {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0])}}
    found = {"gradients": {"a": torch.tensor([3.0, 4.5]), "b": torch.tensor([1e-4])}}
    row = agreement.differences(found, reference)["gradients"]
    assert row["all"] == pytest.approx(0.1, rel=1e-3)
    assert (row["worst"], row["where"]) == (pytest.approx(0.1), "a")


def test_batches_hold_the_audio_and_the_padding_they_are_to():
    for padded in (True, False):
        lengths = made_up.row_lengths(87.5, 12.5, padded)
        batch = made_up.make_batch(lengths)
        assert batch.sig.data.shape == (7, 200_000)
        assert bool((batch.sig.lengths < 1).any()) == padded
    assert batch.units.data.max() == made_up.NUM_TARGETS - 1 and 0 < len(batch.hidden) < 7 * 624


def test_the_samples_of_a_row_are_counted_where_rows_differ():
    assert sample_counts(made_up.make_batch([1.0, 0.6])).tolist() == [16000, 9600]
    assert sample_counts(made_up.make_batch([1.0, 1.0])) is None


@pytest.mark.long
@pytest.mark.parametrize("who", speed.PEERS)
def test_a_peer_begins_about_where_chance_is(who):
    batch = made_up.make_batch([1.0, 0.6])
    model, loss = speed.PEERS[who](batch, made_up.NUM_TARGETS)
    model.eval()
    with torch.no_grad():
        assert 3 < loss() < 30  # chance is log(100), at a temperature of 1


@pytest.mark.long
def test_a_case_is_the_recipes_brain_compiled_where_asked(settings, tmp_path, monkeypatch):
    compiled, asked = torch.compile, []

    def compile_plainly(module, **_):
        asked.append(module)
        return compiled(module, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_plainly)
    batch = made_up.make_batch([1.0, 0.6])
    for case in (speed.Case("joint", front_end="fbank"), speed.Case(padded=False, compiled=True)):
        assert not asked
        operations, step = speed.our_step(case, batch, settings, tmp_path)
        [brain, _] = step.args
        before = [p.detach().clone() for p in brain.modules.parameters()]
        step()
        moved = map(torch.equal, brain.modules.parameters(), before)
        assert operations > 1e6 and brain.optimizer_step == 1 and not all(moved)
    assert asked


def test_time_that_a_part_leaves_is_shared_by_those_after_it(settings, monkeypatch):
    now = [settings.began]
    monkeypatch.setattr(running, "time", SimpleNamespace(time=lambda: now[0]))
    limits = time_limits(settings, {"a": 1, "b": 2, "c": 1})
    assert next(limits) == ("a", 120.0)
    now[0] += 30
    assert next(limits) == ("b", 300.0)
    now[0] += 440
    assert next(limits) == ("c", 10.0)


def test_batches_are_doubled_until_one_does_not_fit(settings, monkeypatch):
    def measure(case, seconds, *_):
        if seconds > 30 and case.who == "ours":
            raise torch.cuda.OutOfMemoryError("full")
        if case.who != "ours":
            raise ValueError("fails")
        return {"step_seconds": 1.0}

    monkeypatch.setattr(largest, "measure", measure)
    monkeypatch.setattr(largest, "batch_seconds", lambda *_: 5.0)
    monkeypatch.setattr(largest, "CASES", [speed.Case(), speed.Case(who="torchaudio")])
    noted = {}
    failed = run_steps(
        lambda *_: largest.steps(replace(settings, device="cuda"), None),
        settings,
        None,
        lambda *keys, value: noted.update({keys[-1]: value}),
    )
    sizes = [name.rpartition(", ")[2] for name in noted if "ours" in name]
    assert sizes == ["10 s", "20 s", "40 s"] and list(noted.values())[2]["out_of_memory"]
    assert failed == [name for name in noted if "torchaudio" in name] and len(failed) == 1
    assert list(noted.values())[3] == {"error": "ValueError: fails"}


# ---- Processes


def fails(settings, folder):
    yield "first", lambda: {"figure": 3.0}
    yield "second", lambda: 1 / 0
    yield "third", lambda: {"figure": float("nan")}


def crashes(settings, folder):
    yield "first", lambda: {"figure": 4.0}
    yield "second", lambda: os._exit(7)


def hangs(settings, folder):
    yield "first", lambda: {"figure": 2.0}
    yield "second", lambda: time.sleep(600)


def works(settings, folder):
    yield "first", lambda: {"figure": 1.0}


@pytest.mark.long
def test_a_part_that_fails_crashes_or_hangs_costs_itself_alone(settings, tmp_path, monkeypatch):
    parts = {"works": works, "hangs": hangs, "fails": fails, "crashes": crashes}
    limits = [(name, 3.0 if name == "hangs" else 200.0) for name in parts]
    monkeypatch.setattr(running, "time_limits", lambda *_: limits)
    assert run_parts(settings, parts, dict.fromkeys(parts, 1), tmp_path) == ["fails", "crashes"]
    found = Record(settings).figures()["parts"]
    assert [found[name]["steps"]["first"]["figure"] for name in parts] == [1.0, 2.0, 3.0, 4.0]
    assert set(found["works"]) == {"steps"}
    assert "stopped after" in found["hangs"]["note"] and "second" not in found["hangs"]["steps"]
    assert found["fails"]["steps"]["second"]["error"].startswith("ZeroDivisionError")
    assert found["fails"]["error"] == "failed: second, third"
    assert found["crashes"]["error"] == "its process ended with 7"
    assert "ended with 7" in (tmp_path / "table.md").read_text()


def test_what_does_not_agree_has_failed(settings, tmp_path, monkeypatch):
    noted = {}

    def note(*keys, value):
        noted[keys] = value

    def noise(stage, settings, folder, device, precision):
        return {"outputs": {"x": torch.randn(1000)}, "loss": {"loss": torch.randn(1)}}

    monkeypatch.setattr(agreement, "observe", noise)
    monkeypatch.setattr(agreement, "STAGES", ("frame",))
    monkeypatch.setattr(agreement, "OTHERS", ())
    assert run_steps(agreement.steps, settings, tmp_path, note) == ["frame"]
    assert "float32, device and CPU: outputs" in noted["steps", "frame"]["problem"]


@pytest.mark.long
def test_what_it_measures_runs_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.delitem(command.PARTS, "stages")  # whose runs others test
    out = tmp_path / "out"
    code = command.main(["--device", "cpu", "--minutes", "20", "--out", str(out)])
    metrics = json.loads((out / "metrics.json").read_text())
    parts = metrics["figures"]["parts"]
    assert code == 0, parts
    assert [*parts, "compiled"] == list(command.PARTS)
    for name, part in parts.items():
        assert set(part) == {"steps"} and part["steps"], (name, part)
        assert f"## {name}" in (out / "table.md").read_text()
    exact = [step["float32, device and CPU"] for step in parts["agreement"]["steps"].values()]
    assert all(kind["worst"] < 1e-5 for row in exact for kind in row.values())
    assert all(step["kernels"] for step in parts["profile"]["steps"].values())
