"""The ablations of stage C: every setting's command, what is kept, and the table."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lobes.frame_encoder import FrameEncoder
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.exported import save_model
from recipes.common.annotations.alignments import write_ctm
from recipes.common.closed_forms.moments import moments_of_rows
from recipes.common.closed_forms.rival_models import RIVALS
from recipes.common.data.table import read_manifest
from recipes.common.training.hparams import check_options
from recipes.experiments import ablate
from recipes.experiments.readings import arrays, encode_run, rows_of_run
from recipes.experiments.runner import PRETRAIN
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech

NAMES = list(ablate.read_tree(ablate.SETTINGS))
CENTRED = RIVALS["mean"]


def figures(value):
    probed = {"value": value, "scores": [value - 0.1, value + 0.1, value]}
    return dict.fromkeys(ablate.PROBED.values(), probed) | dict.fromkeys(
        ablate.UNPROBED.values(), value
    )


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Two settings."""
    path = tmp_path / "ablations.yaml"
    path.write_text("control: {beta: 0.0}\nhard: {beta: 0.5}\n")
    monkeypatch.setattr(ablate, "SETTINGS", path)
    return path


def add_run(folder, name, seed, value, data="D"):
    run = ablate.run_folder(folder, name, seed)
    run.mkdir(parents=True)
    setting = json.dumps(dict(ablate.read_tree(ablate.SETTINGS)[name]))
    made_by = {"settings": {"setting": setting}, "inputs": {"data": data, "alignments": "A"}}
    kept = {"figures": figures(value), "made_by": made_by}
    (run / "dev.json").write_text(json.dumps(kept))
    return run


@pytest.mark.parametrize("name", NAMES)
def test_the_options_of_each_setting_are_those_of_the_stage(name):
    options = argparse.Namespace(
        models=Path("/O"), data_folder=Path("/D"), output_folder=Path("/B")
    )
    run = ablate.run_of(name, 2408, options)
    script, yaml = run.words
    assert (PRETRAIN / script).is_file() and run.recipe == PRETRAIN
    check_options(PRETRAIN / yaml, run.given)
    assert run.given["seed"] == 2408 and run.given["frame_model"] == Path("/O/frame/model")


@pytest.mark.parametrize(
    ("change", "used"), [(None, True), ("beta (0.0, now 0.1)", False)], ids=["same", "other"]
)
def test_a_setting_that_is_among_the_models_is_not_trained_again(
    change, used, tmp_path, monkeypatch
):
    models, folder = tmp_path / "O", tmp_path / "B"
    options = argparse.Namespace(models=models, data_folder=Path("/D"), output_folder=folder)
    asked = []
    monkeypatch.setattr(ablate, "changed", lambda run: asked.append(run) or change)
    assert ablate.run_of("default", 1, options).folder == folder / "default" / "1"
    for name in ablate.OF_MODELS.values():
        (models / name).mkdir(parents=True)
        (models / name / "metrics.json").write_text("{}")
    for name, kept in ablate.OF_MODELS.items():
        run = ablate.run_of(name, 1, options)
        assert run.folder == (models / kept if used else ablate.run_folder(folder, name, 1))
        assert asked[-1].folder == models / kept and asked[-1].given == run.given
    assert ablate.run_of("no norm", 1, options).folder == folder / "no_norm" / "1"


def test_settings_differ_and_each_has_a_folder_of_its_own():
    settings = ablate.read_tree(ablate.SETTINGS)
    assert len(settings) >= 12 and settings["default"] == {}
    assert dict(settings[ablate.CONTROL]) == {"frame_norm": "none", "beta": 0.0}
    assert len({json.dumps(options) for options in settings.values()}) == len(settings)
    assert len({ablate.run_folder(Path("B"), name, 1) for name in settings}) == len(settings)


def test_a_difference_is_that_of_the_seeds_that_the_control_has(settings, tmp_path):
    for name, seed, value in [("control", 2407, 0.5), ("hard", 2407, 0.3), ("hard", 2408, 0.4)]:
        add_run(tmp_path, name, seed, value)
    found = ablate.collect(tmp_path)
    assert list(found["hard"]["runs"]) == ["2407", "2408"]
    last = ablate.make_table(found).splitlines()[-1]
    assert last.startswith("| hard | `--beta 0.5` | 2 | 35.0 (-20.0 [-20.0, -20.0]) |")
    assert last.endswith("| 35.0 [30.0, 40.0] |" + " 35.0 [30.0, 40.0] |" * 2)


def test_a_run_of_another_setting_is_left_out(settings, tmp_path, capsys):
    run = add_run(tmp_path / "B", "hard", 2407, 0.3)
    assert "hard" in ablate.collect(tmp_path / "B")
    settings.write_text("control: {beta: 0.0}\nhard: {beta: 0.6}\n")
    assert ablate.collect(tmp_path / "B") == {}
    assert f"{run} is left out: it is of another setting" in capsys.readouterr().out


def test_a_run_of_other_data_is_left_out(settings, tmp_path, capsys):
    add_run(tmp_path / "B", "control", 2407, 0.3)
    run = add_run(tmp_path / "B", "hard", 2407, 0.3, data="others")
    assert list(ablate.collect(tmp_path / "B")) == ["control"]
    assert f"{run} is left out: it is of other data than the first" in capsys.readouterr().out


def test_nothing_is_written_from_a_folder_without_figures(tmp_path, monkeypatch):
    pages = [ablate.HERE / name for name in ("RESULTS.md", "ablations.png", "layers.png")]
    before = [page.is_file() and page.read_bytes() for page in pages]
    monkeypatch.setattr("sys.argv", ["ablate.py", "--write", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no figures of settings"):
        ablate.main()
    assert [page.is_file() and page.read_bytes() for page in pages] == before


def test_changed_frames_are_a_row_of_their_own():
    centred = {key: figures(0.2)[key] for key in ablate.PROBED.values()}
    centred.pop("speaker_pooled")  # all means are 0
    run = figures(0.5) | {CENTRED: centred}
    found = {"control": {"options": {"beta": 0.0}, "runs": {"2407": run}}}
    row = ablate.make_table(found).splitlines()[-1]
    start = f"| control: {CENTRED} | `--beta 0.0` | 1 | - | 20.0 (-30.0 ["
    assert row.startswith(start)
    assert row.endswith("| 50.0 | 50.0 | 50.0 |")


def test_the_curves_go_from_nothing_erased_to_most(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(ablate, "draw_tradeoff", lambda *given: drawn.append(given))
    probed = lambda value: {key: figures(value)[key] for key in ablate.PROBED.values()}  # noqa: E731
    steps = {name: probed(0.4 - count / 1000) for name, count in ablate.ERASED.items()}
    run = figures(0.3) | steps | {CENTRED: {"phone_frames": figures(0.1)["phone_frames"]}}
    found = {
        "control": {"options": {}, "runs": {"1": run, "2": run}},
        "default": {"options": {}, "runs": {"1": figures(0.2)}},
    }
    ablate.draw(found, tmp_path / "it.png")
    [(curves, points, labels, _)] = drawn
    assert curves["control"]["0"] == pytest.approx((30, 30))
    assert list(curves["control"]) == ["0", "20", "40", "60", "80", "100"] and len(curves) == 1
    assert curves["control"]["80"] == pytest.approx((32, 32))
    assert points == {"default": [pytest.approx((20, 20))]}
    assert len(labels) == 2


def test_a_curve_of_layers_is_the_mean_of_the_runs_that_have_them(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(ablate, "draw_tradeoff", lambda *given: drawn.append(given))
    runs = {
        str(seed): {
            **figures(0.3),
            "layers": [
                dict(zip(ablate.PLACED, ({"value": x}, {"value": y}), strict=True))
                for x, y in ((0.2 * seed, 0.5), (0.1 * seed, 0.7))
            ],
        }
        for seed in (1, 2)
    }
    found = {"control": {"options": {}, "runs": {**runs, "3": figures(0.2)}}}
    found["older"] = {"options": {}, "runs": {"1": figures(0.2)}}
    ablate.draw_layers(found, tmp_path / "it.png")
    [(curves, points, *_)] = drawn
    assert list(curves) == ["control"] and not points
    assert curves["control"] == {"0": pytest.approx((30, 50)), "1": pytest.approx((15, 70))}


def test_a_column_is_there_where_a_run_was_read_for_it():
    run = figures(0.5)
    found = {"control": {"options": {"beta": 0.0}, "runs": {"1": run}}}
    assert "means and deviations" in ablate.make_table(found)
    found["hard"] = {
        "options": {},
        "runs": {"1": {k: v for k, v in run.items() if k != "speaker_both"}},
    }
    assert "| 50.0 (+0.0 [+0.0, +0.0]) | - | 50.0" in ablate.make_table(found).splitlines()[-1]
    assert "means and deviations" not in ablate.make_table({"hard": found["hard"]})


@pytest.fixture
def erased_run(librispeech, tmp_path, monkeypatch):
    """A run whose frames lost 3 of 16 directions, fitted on the speech that it is read on."""
    monkeypatch.setattr(ablate, "ERASED", {"1 directions erased": 1, "3 directions erased": 3})
    monkeypatch.setattr(ablate, "DIRECTIONS", 3)
    run, split = tmp_path / "run", "train-clean-100"  # six speakers: each phone needs four
    prepare_librispeech(librispeech, run / "manifest", [split])
    manifest = (run / "manifest" / f"{split}.csv").read_text()
    (run / "manifest" / "dev-clean.csv").write_text(manifest)
    valid = {"masked_accuracy": 0.1, "retrieval_accuracy": 0.2}
    (run / "metrics.json").write_text(json.dumps({"figures": {"valid": valid}}))
    rows = read_manifest(run / "manifest" / f"{split}.csv")
    write_ctm({row["ID"]: sounds(float(row["duration"])) for row in rows}, tmp_path / "dev.ctm")
    torch.manual_seed(0)
    encoders = {
        "frame_encoder": FrameEncoder("fbank", 16, d_model=16, num_layers=1, nhead=2, d_ffn=32),
        "utterance_encoder": UtteranceEncoder("tdnn", channels=8, embedding_dim=12),
    }
    for encoder in encoders.values():
        encoder.eval()
    moments = moments_of_rows(*encoders.values(), rows_of_run(run, split, librispeech))
    encoders["frame_encoder"].erase(3, *moments[:4])
    save_model(run / "model", encoders)
    return argparse.Namespace(
        read=run,
        data_folder=librispeech,
        alignments=tmp_path,
        output_folder=tmp_path / "B",
        name=ablate.CONTROL,
    )


def sounds(seconds):
    """Return an alignment of a synthetic voice, whose sounds last 0.2 s: two phones in turn."""
    edges = np.append(np.arange(0, seconds - 0.1, 0.2), seconds).tolist()
    return [(a, b, "ab"[i % 2]) for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False))]


@pytest.mark.long
def test_frames_are_changed_as_the_run_changed_its_own(erased_run):
    found = dict(ablate.changed_frames(erased_run))
    _, encoded = encode_run(erased_run.read, "dev-clean", erased_run.data_folder)
    own = arrays(encoded)
    for name, same in {"3 directions erased": True, "1 directions erased": False}.items():
        for one, other in zip(own[:2], found[name][:2], strict=True):
            assert np.allclose(one, other, atol=0.01) == same
    assert list(found) == [*ablate.CLOSED, *ablate.ERASED]
    ranks = {
        name: np.linalg.matrix_rank(np.cov(found[name][0].T), tol=1e-4) for name in ablate.ERASED
    }
    assert ranks == {"1 directions erased": 14, "3 directions erased": 12}
    means, _, whole = found[CENTRED]
    assert np.allclose(means, 0, atol=1e-5)
    assert np.allclose([x.astype(np.float32).mean(0) for x in whole], 0, atol=1e-3)


@pytest.mark.long
def test_a_setting_is_read_as_it_is_and_has_no_rivals(erased_run):
    erased_run.name = "both encoders"
    ablate.read_run(erased_run)
    found = json.loads((erased_run.output_folder / "dev.json").read_text())["figures"]
    assert found.keys() == {*ablate.PROBED.values(), *ablate.UNPROBED.values(), "layers"}
    assert len(found["layers"]) == 2  # the input of the layer, and its output
    for name in ablate.PROBED.values():
        assert 0 <= found[name]["value"] <= 1 and len(found[name]["scores"]) == 6
