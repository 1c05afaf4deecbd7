"""The recipe of speaker verification: its lists, its curves and the verifier that it exports."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lobes.utterance_encoder import UtteranceEncoder
from pretrained import SpeakerVerifier
from pretrained.exported import save_model
from recipes.common.data.manifest import fingerprint
from recipes.common.data.table import read_manifest
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from recipes.VoxCeleb.voxceleb_prepare import prepare_voxceleb

RECIPE = Path(__file__).parents[2] / "recipes" / "VoxCeleb" / "SpeakerRec"


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return UtteranceEncoder("tdnn", channels=16, embedding_dim=12, attention_channels=8)


@pytest.fixture
def run_verify(encoder, voxceleb1_copy, commands, tmp_path):
    """Return a function that runs the recipe with options: its metrics.json and what it said."""
    save_model(tmp_path / "model", {"utterance_encoder": encoder})

    def run(*options):
        given = {"data_folder": voxceleb1_copy, "output_folder": tmp_path / "out"}
        given["model"] = tmp_path / "model"
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        _, said = commands.run(RECIPE / "verify.py", "hparams/verify.yaml", *options, *words)
        path = tmp_path / "out" / "metrics.json"
        metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return metrics, said

    return run


@pytest.mark.long
def test_the_recipe_writes_both_lists(run_verify, librispeech, voxceleb1_copy, tmp_path):
    prepare_librispeech(librispeech, tmp_path, ["train-clean-100"], num_workers=1)
    reference = tmp_path / "train-clean-100.csv"
    options = ("--reference_manifest", str(reference), "--reference_folder", str(librispeech))
    metrics, _ = run_verify(*options)
    figures = metrics["figures"]
    manifests = [tmp_path / "out" / "manifest" / f"{n}.csv" for n in ("veri_dev", "veri_test2")]
    assert metrics["data"] == fingerprint([*manifests, reference])
    for part, manifest in zip(("dev", "test"), manifests, strict=True):
        assert figures[part]["utterances"] == len(read_manifest(manifest))
        assert set(figures[part]["systems"]) == {"utterance", "fbank", "random"}
        assert all("as_norm" in values for values in figures[part]["systems"].values())
        for name in ("det", "scores"):
            assert (tmp_path / "out" / f"{name}_{part}.png").stat().st_size > 5000
    assert set(figures["dev_eer_by_scoring"]["fbank"]) == {"plain", "centred", "standardised"}
    assert_the_verifier_scores_alike(tmp_path / "out", voxceleb1_copy, figures)


def assert_the_verifier_scores_alike(output, corpus, figures):
    """Assert that the exported verifier has the development trials' equal error rate."""
    verifier = SpeakerVerifier.from_pretrained(output / "model")
    wavs, wrong = corpus / "wav", {0: [], 1: []}
    lines = (corpus / "meta" / "veri_dev.txt").read_text().splitlines()
    for label, first, second in map(str.split, lines):
        found = verifier.verify_files(wavs / first, wavs / second)
        wrong[int(label)].append(found.same_speaker != bool(int(label)))
    rates = [np.mean(values) for values in wrong.values()]
    expected = figures["dev"]["systems"]["utterance"]["eer"]
    assert np.mean(rates) == pytest.approx(expected, abs=1e-9)


@pytest.mark.long
def test_the_recipe_leaves_out_trials_of_bad_audio(run_verify, voxceleb1_copy):
    bad = sorted((voxceleb1_copy / "wav").glob("id00017/*/*.wav"))[0]
    bad.write_bytes(b"no audio")
    metrics, _ = run_verify("--skip_bad", "True")
    counts = {part: metrics["figures"][part]["utterances"] for part in ("dev", "test")}
    assert sorted(counts.values()) == [17, 18]
    left_out = [metrics["figures"][part]["trials_left_out"] for part in ("dev", "test")]
    assert sorted(left_out) == [0, 17]


@pytest.mark.long
def test_the_recipe_does_without_development_trials(run_verify, voxceleb1_copy):
    (voxceleb1_copy / "meta" / "veri_dev.txt").unlink()
    figures = run_verify("--dev_trials", "null")[0]["figures"]
    assert set(figures) == {"scoring", "test"} and set(figures["scoring"].values()) == {"plain"}


@pytest.mark.long
def test_the_recipe_refuses_lists_that_share_speakers(run_verify, voxceleb1_copy):
    meta = voxceleb1_copy / "meta"
    lines = (meta / "veri_dev.txt").read_text().splitlines()
    (meta / "veri_test2.txt").write_text("\n".join(lines[:9]) + "\n")
    metrics, error = run_verify()
    assert metrics is None and "veri_test2.csv: ID id" in error


@pytest.mark.long
def test_the_recipe_refuses_a_reference_with_speakers_of_its_trials(run_verify, voxceleb1_copy):
    prepare_voxceleb(voxceleb1_copy, voxceleb1_copy / "manifest", ["veri_test2"])
    manifest = voxceleb1_copy / "manifest" / "veri_test2.csv"
    metrics, error = run_verify("--reference_manifest", str(manifest))
    assert metrics is None and f"{manifest}: ID id" in error and "veri_test2.csv too" in error
