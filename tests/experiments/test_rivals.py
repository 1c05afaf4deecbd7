"""Rivals in closed form: what is made of a run, what is read of it again, what is refused."""

import shutil

import numpy as np
import pytest
import torch

from lobes.frame_encoder import FrameEncoder
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.audio import read_speech
from pretrained.exported import load_model, save_model
from recipes.common.closed_forms.rival_models import RIVALS, find_encoders
from recipes.common.data.table import read_manifest
from recipes.common.report.representations import load_systems
from recipes.common.report.rival_systems import add_rivals
from recipes.experiments import rivals
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech

SPLIT = "train-clean-100"


def encoders_of(**changes):
    """Return tiny encoders with random weights."""
    torch.manual_seed(0)
    frames = FrameEncoder("fbank", 16, 16, 1, 2, 32, pos_conv_kernel=4, **changes)
    utterance = UtteranceEncoder("tdnn", channels=8, embedding_dim=6)
    return {"frame_encoder": frames.eval(), "utterance_encoder": utterance.eval()}


@pytest.fixture(scope="module")
def run(librispeech, tmp_path_factory):
    """A run: its manifest of 36 utterances of six speakers, its settings, its model."""
    run = tmp_path_factory.mktemp("rivals") / "joint"
    prepare_librispeech(librispeech, run / "manifest", [SPLIT], num_workers=1)
    (run / "hyperparams.yaml").write_text(f"train_splits: [{SPLIT}]\n")
    save_model(run / "model", encoders_of())
    return run


@pytest.fixture(scope="module")
def made(run, librispeech, tmp_path_factory):
    """The folder that the command writes all rivals to."""
    folder = tmp_path_factory.mktemp("made")
    rivals.main(arguments_of(run / "model", librispeech, folder))
    return folder


def arguments_of(model, data_folder, folder, *more):
    given = ("--model", model, "--data_folder", data_folder, "--output_folder", folder, *more)
    return [*map(str, given)]


def rows_of(run, librispeech):
    rows = read_manifest(run / "manifest" / f"{SPLIT}.csv")
    return [{**row, "wav": librispeech / row["wav"].removeprefix("$data_root/")} for row in rows]


@torch.no_grad()
def frames_of(folder, rows):
    encoder = load_model(folder)["frame_encoder"]
    return [encoder(read_speech(row["wav"])[None])[0] for row in rows]


@pytest.mark.long
def test_each_rival_is_a_model_that_does_what_it_is_called(run, made, librispeech):
    rows = rows_of(run, librispeech)[:4]
    plain = frames_of(run / "model", rows)
    found = {name: frames_of(made / name / "model", rows) for name in RIVALS}
    assert all(map(torch.equal, plain, found["plain"]))
    for name in ("mean", "mean_std"):
        assert all(x.mean(0).abs().max() < 1e-5 for x in found[name])
    assert all((x.std(0, correction=0) - 1).abs().max() < 0.05 for x in found["mean_std"])
    for name in ("least_squares", "least_squares_shuffled"):
        offsets = [x - y for x, y in zip(plain, found[name], strict=True)]
        assert all(x.std(0).max() < 1e-5 and x.abs().max() > 0.01 for x in offsets)
    for name, most in (("collapsed_speakers", 5), ("leace", 4), ("leace_speakers", 4)):
        taken = torch.cat(plain) - torch.cat(found[name])
        assert 1 <= torch.linalg.matrix_rank(taken - taken.mean(0), atol=1e-3) <= most


@pytest.mark.long
def test_the_control_of_other_embeddings_is_another_rival(run, made, librispeech):
    rows = rows_of(run, librispeech)[:2]
    own, shuffled = (frames_of(made / f"leace{end}" / "model", rows) for end in ("", "_shuffled"))
    assert not torch.allclose(own[0], shuffled[0], atol=1e-3)


def test_what_a_model_erases_is_put_back_first(run, librispeech, tmp_path):
    encoders = encoders_of()
    encoders["frame_encoder"].add_erasure(3)
    encoders["frame_encoder"].erasure.collapse(torch.randn(9, 16))
    save_model(tmp_path / "model", encoders)
    rows = rows_of(run, librispeech)[:1]
    plain = find_encoders(tmp_path / "model")[0]
    with torch.no_grad():
        found = plain(read_speech(rows[0]["wav"])[None])[0]
    assert torch.equal(found, frames_of(run / "model", rows)[0])
    assert not torch.equal(found, frames_of(tmp_path / "model", rows)[0])


@pytest.mark.parametrize(
    ("changes", "parts", "message"),
    [
        ({"frame_norm": "mean"}, 2, "lose their utterance's mean already .frame_norm"),
        ({}, 1, "holds no utterance_encoder, which rivals in closed form are made with"),
        ({}, 2, "does not hold the settings and the manifests of a run"),
    ],
)
def test_what_cannot_have_rivals_is_refused(changes, parts, message, librispeech, tmp_path):
    encoders = dict(list(encoders_of(**changes).items())[:parts])
    save_model(tmp_path / "run" / "model", encoders)
    with pytest.raises(SystemExit, match=message):
        rivals.main(arguments_of(tmp_path / "run" / "model", librispeech, tmp_path / "R"))
    assert not (tmp_path / "R").exists()


@pytest.mark.long
def test_another_model_gives_the_embeddings_and_too_many_directions_are_refused(
    run, librispeech, tmp_path
):
    folder = shutil.copytree(run, tmp_path / "frame")
    save_model(folder / "model", {"frame_encoder": encoders_of()["frame_encoder"]})
    given = ("--utterance", run / "model", "--only", "mean")
    with pytest.raises(SystemExit, match="17: expected an integer from 0 to 16"):
        arguments = arguments_of(folder / "model", librispeech, tmp_path / "R", *given)
        rivals.main([*arguments, "--directions", "17"])
    rivals.main(arguments)
    assert list(load_model(tmp_path / "R" / "mean" / "model")) == [
        "frame_encoder",
        "utterance_encoder",
    ]


@pytest.mark.long
def test_a_report_has_the_rivals_of_each_model_and_goes_on_with_them(
    run, made, librispeech, tmp_path, monkeypatch
):
    rows = rows_of(run, librispeech)
    systems = load_systems([run / "model"], controls=True, seed=0)
    for system in systems[:1]:
        system.name = "joint"
    found, missing = add_rivals(systems, rows, tmp_path, seed=2407)
    names = [system.name for system in found]
    assert names[0] == "joint" and names[-2:] == ["FBANK", "random weights"] and not missing
    assert names[1:-2] == [f"joint: {RIVALS[n]}" for n in RIVALS if n != "plain"]
    assert {s.rival_of for s in found if s.kind == "rival"} == {"joint"}
    least = next(s for s in found if s.name.endswith(RIVALS["least_squares"]))
    wav = read_speech(rows[0]["wav"])[None]
    expected = frames_of(made / "least_squares" / "model", rows[:1])[0]
    np.testing.assert_allclose(least.frames(wav)[0][0, :, -1], expected, atol=1e-5)
    monkeypatch.setattr("recipes.common.report.rival_systems.gather_evidence", None)
    again, _ = add_rivals(systems, rows, tmp_path, seed=2407)
    assert [s.digest() for s in again] == [s.digest() for s in found]


def test_a_model_without_rivals_is_told_of(tmp_path):
    save_model(tmp_path / "frame" / "model", {"frame_encoder": encoders_of()["frame_encoder"]})
    systems = load_systems([tmp_path / "frame" / "model"], controls=False, seed=0)
    found, [entry] = add_rivals(systems, [], tmp_path, seed=1)
    assert found == systems and entry["what"] == "frame: rivals in closed form"
    assert "holds no utterance_encoder" in entry["why"]
