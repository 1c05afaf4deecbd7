"""The benchmark's own parts: turns, medians, verdicts, the table, and sides that do the same."""

import multiprocessing
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel

from lobes.frame_encoder import FrameEncoder
from pretrained import Learn2Diss
from pretrained.toolkits.names import export_state_dict
from tests import benchmark
from tests.peers import GivenMask
from tests.voices import write_audio

SIZES = {"conv_channels": 32, "d_model": 32, "num_layers": 1, "nhead": 4, "d_ffn": 64}


@pytest.fixture
def timed_runs(monkeypatch):
    """Return a function (name, seconds of each run) -> side, and the list of who ran when."""
    now, order = [0.0], []
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def side(name, seconds):
        seconds = iter(seconds)

        def run():
            order.append(name)
            now[0] += next(seconds)

        return run

    return side, order


def test_sides_take_turns_and_ratios_are_of_neighbours(timed_runs):
    side, order = timed_runs
    ours, peer = side("ours", [100.0, 1.0, 8.0, 3.0]), side("peer", [100.0, 2.0, 2.0, 4.0])
    figures = benchmark.alternate(ours, peer, repeats=3)
    assert order == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert (figures["ours_seconds"], figures["peer_seconds"]) == (3.0, 2.0)
    assert (figures["ratio"], figures["ratio_range"]) == (0.75, [0.5, 4.0])


@pytest.mark.parametrize(
    ("limit", "met", "cell"), [(0.7, False, "**no**"), (0.75, True, "yes"), (None, None, "")]
)
def test_a_row_that_misses_its_limit_is_marked(timed_runs, monkeypatch, tmp_path, limit, met, cell):
    make_side, _ = timed_runs

    def process(row, name, folder, threads):
        seconds, mib = {"ours": (3.0, 500.0), "peer": (4.0, 600.0)}[name]
        run = make_side(name, [seconds])
        return StandIn(run, mib)

    monkeypatch.setattr(benchmark, "Side", process)
    row = benchmark.Row("a, b", None, limit, repeats=1, warm_up=0)
    figures = benchmark.measure(row, tmp_path, threads=1)
    assert (figures["ratio"], figures["met"]) == (0.75, met)
    text = benchmark.table({"machine": benchmark.machine(threads=1), "rows": [figures]})
    shown = "" if limit is None else limit
    assert f"| a, b | 3 | 4 | 0.75 | {shown} | {cell} | 500 | 600 |" in text.splitlines()


class StandIn:
    """A side without a process."""

    def __init__(self, run, mib):
        self.run, self.mib = run, mib

    def __call__(self):
        self.run()

    def stop(self):
        return self.mib


def test_a_side_runs_when_it_is_told_to_and_ends_with_its_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None)
    ran = []
    here, there = multiprocessing.Pipe()
    arguments = (there, lambda folder, name: lambda: ran.append(name), "peer", tmp_path, 1)
    server = threading.Thread(target=benchmark.serve, args=arguments)
    server.start()
    assert here.recv() == "ready" and not ran
    for _ in range(2):
        here.send("run")
        assert here.recv() == "done"
    here.send("stop")
    assert here.recv() > 10 and ran == ["peer", "peer"]
    server.join()


def test_both_sides_encode_the_same_files(tmp_path):
    rng = np.random.default_rng(0)
    write_audio(tmp_path / "mixed", [0.9] * 8 + [0.5, 0.7], ".wav", rng)
    encoder = FrameEncoder(**SIZES).eval()
    config = HubertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(32,) * 7,
    )
    model = HubertModel(config).eval()
    model.load_state_dict(export_state_dict(encoder))
    ours = benchmark.ours_encodes(tmp_path / "mixed", Learn2Diss({"frame_encoder": encoder}))
    theirs = benchmark.hugging_face_encodes(tmp_path / "mixed", model)
    assert len(ours) == 10 and ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].shape == theirs[name].shape
    # Theirs normalises over the padding, so that only unpadded rows agree.
    assert torch.allclose(torch.from_numpy(ours["0009"]), theirs["0009"], atol=1e-4)


def test_torchaudio_sees_the_same_mask(tmp_path):
    write_audio(tmp_path / "training", [0.9, 1.2], ".flac", np.random.default_rng(0))
    batch = next(iter(benchmark.training_loader(tmp_path, "base", "frame")))
    mask = batch.mask.data.bool()
    x, given = GivenMask(mask, torch.ones(3))(torch.zeros(*mask.shape, 3), None)
    assert torch.equal(given, mask) and torch.equal(x.bool().all(-1), mask)
    assert 0 < mask.sum() < mask.numel()
