"""Verification: cosine scores, baselines on the same trials, and encoders left as they were."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from lobes.utterance_encoder import UtteranceEncoder
from pretrained.exported import save_model
from recipes.common.manifest import fingerprint, read_manifest, write_manifest
from recipes.common.metrics import eer
from recipes.common.verification import (
    FbankStatistics,
    centre,
    choose_scorings,
    embed,
    score_trials,
    standardise,
    verify,
)
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from recipes.VoxCeleb.voxceleb_prepare import prepare_voxceleb1, read_trials, trials_path

RATE = 16000
RECIPE = Path(__file__).parent.parent / "recipes" / "VoxCeleb" / "SpeakerRec"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_voice):
    """Return the manifest, the trials and the folder of 6 voices of 4 utterances each."""
    root = tmp_path_factory.mktemp("voices")
    rows = []
    for speaker, number in itertools.product(range(6), range(4)):
        audio = make_voice(speaker, seed=number)
        name = f"{speaker}-{number}"
        soundfile.write(root / f"{name}.wav", audio, RATE)
        wav, seconds = f"$data_root/{name}.wav", len(audio) / RATE
        rows.append({"ID": name, "duration": seconds, "wav": wav, "spk_id": str(speaker)})
    write_manifest(rows, root / "trials.csv")
    pairs = itertools.combinations(rows, 2)
    trials = [(int(a["spk_id"] == b["spk_id"]), a["ID"], b["ID"]) for a, b in pairs]
    return root / "trials.csv", trials, root


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return UtteranceEncoder("tdnn", channels=16, embedding_dim=12, attention_channels=8)


class Speaker(nn.Module):
    """An encoder that knows the speaker from the pitch, or nothing where its weight is random."""

    def __init__(self, known=False):
        super().__init__()
        self.config = {}
        self.direction = nn.Parameter(torch.randn(6, 8))
        self.known = known

    def forward(self, wavs):
        if not self.known:
            return torch.randn(1, 8)
        spectrum = torch.fft.rfft(wavs, 16 * RATE).abs()[0]
        pitches = 16 * (90 + 12 * torch.arange(6))
        found = torch.stack([spectrum[p - 80 : p + 80].square().sum() for p in pitches]).argmax()
        return torch.eye(6)[found][None] + 0.01


def test_scores_are_cosines_whatever_the_level():
    rng = np.random.default_rng(0)
    embeddings = {name: rng.normal(size=5).astype(np.float32) for name in "abc"}
    trials = [(1, "a", "b"), (0, "b", "c"), (1, "a", "a")]
    scores = score_trials(embeddings, trials)
    for score, (_, x, y) in zip(scores, trials, strict=True):
        x, y = torch.tensor(embeddings[x]), torch.tensor(embeddings[y])
        assert score == pytest.approx(torch.cosine_similarity(x, y, dim=0).item(), abs=1e-6)
    louder = {name: 3 * value for name, value in embeddings.items()}
    np.testing.assert_allclose(score_trials(louder, trials), scores, atol=1e-6)


def test_scores_name_what_is_wrong():
    embeddings = {"a": np.ones(2), "b": np.zeros(2), "c": np.array([1.0, np.nan])}
    with pytest.raises(ValueError, match="embedding of b"):
        score_trials({name: embeddings[name] for name in "ab"}, [(1, "a", "b")])
    with pytest.raises(ValueError, match="embedding of c"):
        score_trials({name: embeddings[name] for name in "ac"}, [(1, "a", "c")])
    with pytest.raises(ValueError, match="1 utterance.* d first"):
        score_trials({"a": np.ones(2)}, [(1, "a", "d")])


def test_fbank_statistics_are_the_mean_and_deviation_over_time():
    statistics = FbankStatistics()
    wav = torch.randn(1, RATE, generator=torch.Generator().manual_seed(7))
    bands = statistics.fbank(wav)[0]
    expected = torch.cat([bands.mean(0), (bands - bands.mean(0)).square().mean(0).sqrt()])
    torch.testing.assert_close(statistics(wav)[0], expected, rtol=0.01, atol=0.01)
    louder = statistics(10 * wav)[0] - statistics(wav)[0]
    expected = torch.cat([torch.full((80,), 20.0), torch.zeros(80)])
    torch.testing.assert_close(louder, expected, rtol=0, atol=0.01)


def test_embedding_is_in_eval_mode_and_leaves_the_mode(corpus, encoder):
    manifest, _, root = corpus
    rows = read_manifest(manifest)[:5]
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    for training in (True, False):
        encoder.train(training)
        embeddings = embed(encoder, rows, root)
        assert encoder.training == training == encoder.backbone.training
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert list(embeddings) == [row["ID"] for row in rows]
    wav, _ = soundfile.read(root / "0-3.wav", dtype="float32")
    expected = encoder.eval()(torch.from_numpy(wav)[None])[0]
    torch.testing.assert_close(torch.from_numpy(embeddings["0-3"]), expected)


def test_standardised_data_has_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    data = {str(i): np.append(rng.normal(3, 2, size=4), 7.0) for i in range(50)}
    values = np.stack(list(standardise(data, data).values()))
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(values.std(0), [1, 1, 1, 1, 0], atol=1e-9)
    values = np.stack(list(centre(data, data).values()))
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(values.std(0), np.stack(list(data.values())).std(0))


def test_an_encoder_that_knows_the_speaker_beats_its_baselines(corpus):
    manifest, trials, root = corpus
    torch.manual_seed(0)
    figures = verify(Speaker(known=True), {"test": (manifest, trials)}, root, seed=1)
    assert figures["scoring"] == dict.fromkeys(["utterance", "fbank", "random"], "plain")
    figures = figures["test"]
    assert (figures["trials"], figures["utterances"], figures["speakers"]) == (276, 24, 6)
    assert figures["eer"]["utterance"] < 0.05 < figures["eer"]["fbank"]
    assert 0.3 < figures["eer"]["random"] < 0.7
    assert 0.3 < figures["eer_shuffled_labels"] < 0.7
    assert set(figures["ratio"]) == {"fbank", "random"}
    ratio = figures["ratio"]["random"]
    assert ratio["value"] == figures["eer"]["utterance"] / figures["eer"]["random"]
    assert ratio["interval"][0] <= ratio["value"] <= ratio["interval"][1] < 1


def test_shuffled_labels_are_at_chance(corpus):
    manifest, trials, root = corpus
    scores = score_trials(embed(Speaker(known=True), read_manifest(manifest), root), trials)
    labels = [label for label, _, _ in trials]
    rng = np.random.default_rng(0)
    assert eer(scores, labels) < 0.05
    shuffled = [eer(scores, rng.permutation(labels)) for _ in range(50)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.03)


def test_the_scoring_is_chosen_on_the_development_trials_alone(corpus, encoder):
    manifest, trials, root = corpus
    dev = [trial for trial in trials if trial[1][0] in "012" and trial[2][0] in "012"]
    test = [trial for trial in trials if trial[1][0] in "345" and trial[2][0] in "345"]

    def figures(test):
        lists = {"dev": (manifest, dev), "test": (manifest, test)}
        return verify(encoder, lists, root, seed=1, reference=(manifest, root))

    first = figures(test)
    upside_down = figures([(1 - label, *pair) for label, *pair in test])
    assert first["scoring"] == upside_down["scoring"]
    assert first["dev_eer_by_scoring"] == upside_down["dev_eer_by_scoring"]
    for system, by_scoring in first["dev_eer_by_scoring"].items():
        assert set(by_scoring) == {"plain", "centred", "standardised"}
        assert first["dev"]["eer"][system] == min(by_scoring.values())
        assert by_scoring[first["scoring"][system]] == min(by_scoring.values())


def test_the_chosen_scoring_is_that_of_the_test_trials(corpus):
    manifest, trials, root = corpus
    lists = {"dev": (manifest, trials), "test": (manifest, trials[::2])}
    figures = verify(Speaker(known=True), lists, root, seed=1, reference=(manifest, root))
    rows = read_manifest(manifest)
    embeddings = embed(FbankStatistics(), rows, root)
    change = {"plain": lambda e, _: e, "centred": centre, "standardised": standardise}
    rates = {}
    for name in change:
        scores = score_trials(change[name](embeddings, embeddings), trials[::2])
        rates[name] = eer(scores, [label for label, _, _ in trials[::2]])
    assert len(set(rates.values())) == 3
    assert figures["test"]["eer"]["fbank"] == pytest.approx(rates[figures["scoring"]["fbank"]])


def test_of_equal_scorings_the_plain_one_is_chosen():
    same = {"plain": [0.1, 0.2, 0.3], "centred": [1, 2, 3], "standardised": [3, 2, 1]}
    assert choose_scorings({"fbank": same}, [0, 1, 1]) == {"fbank": "plain"}
    assert choose_scorings({"fbank": same}, [1, 0, 0]) == {"fbank": "standardised"}


def test_baselines_follow_from_the_seed_and_leave_the_generator(corpus, encoder):
    manifest, trials, root = corpus
    lists = {"test": (manifest, trials)}
    state = torch.get_rng_state()
    first, again, other = (verify(encoder, lists, root, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert first["test"]["eer"]["random"] != other["test"]["eer"]["random"]
    for name in ("utterance", "fbank"):
        assert first["test"]["eer"][name] == other["test"]["eer"][name]


def test_too_few_trials_give_no_interval(corpus, encoder):
    manifest, _, root = corpus
    few = [(1, "0-0", "0-0"), (0, "0-0", "1-0")]
    figures = verify(encoder, {"test": (manifest, few)}, root, seed=1)["test"]
    assert figures["eer"]["fbank"] == 0.0
    assert figures["ratio"]["fbank"] == {"value": None, "interval": None}


@pytest.fixture
def run_verify(encoder, voxceleb1_copy, tmp_path):
    """Return a function that runs the recipe with options: its metrics.json and its stderr."""
    save_model(tmp_path / "model", {"utterance_encoder": encoder})

    def run(*options):
        given = {"data_folder": voxceleb1_copy, "output_folder": tmp_path / "out"}
        given["model"] = tmp_path / "model"
        command = [sys.executable, "verify.py", "hparams/verify.yaml", *options]
        for name, value in given.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, cwd=RECIPE, capture_output=True, text=True)
        path = tmp_path / "out" / "metrics.json"
        metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return metrics, done.stderr

    return run


@pytest.mark.recipe
def test_the_recipe_writes_both_lists(run_verify, librispeech, tmp_path):
    prepare_librispeech(librispeech, tmp_path, ["train-clean-100"], num_workers=1)
    reference = tmp_path / "train-clean-100.csv"
    options = ("--reference_manifest", str(reference), "--reference_folder", str(librispeech))
    metrics, _ = run_verify(*options)
    figures = metrics["figures"]
    manifests = [tmp_path / "out" / "manifest" / f"{n}.csv" for n in ("veri_dev", "veri_test2")]
    assert metrics["data"] == fingerprint([*manifests, reference])
    for part, manifest in zip(("dev", "test"), manifests, strict=True):
        assert figures[part]["utterances"] == len(read_manifest(manifest))
        assert set(figures[part]["eer"]) == {"utterance", "fbank", "random"}
    assert set(figures["dev_eer_by_scoring"]["fbank"]) == {"plain", "centred", "standardised"}


@pytest.mark.recipe
def test_the_recipe_leaves_out_trials_of_bad_audio(run_verify, voxceleb1_copy):
    bad = sorted((voxceleb1_copy / "wav").glob("*/*/*.wav"))[0]
    bad.write_bytes(b"no audio")
    metrics, _ = run_verify("--skip_bad", "True")
    counts = {part: metrics["figures"][part]["utterances"] for part in ("dev", "test")}
    assert sorted(counts.values()) == [17, 18]


@pytest.mark.recipe
def test_the_recipe_does_without_development_trials(run_verify, voxceleb1_copy):
    (voxceleb1_copy / "meta" / "veri_dev.txt").unlink()
    figures = run_verify("--dev_trials", "null")[0]["figures"]
    assert set(figures) == {"scoring", "test"} and set(figures["scoring"].values()) == {"plain"}


@pytest.mark.recipe
def test_the_recipe_refuses_lists_that_share_speakers(run_verify, voxceleb1_copy):
    meta = voxceleb1_copy / "meta"
    lines = (meta / "veri_dev.txt").read_text().splitlines()
    (meta / "veri_test2.txt").write_text("\n".join(lines[:9]) + "\n")
    metrics, error = run_verify()
    assert metrics is None and "veri_test2.csv: ID id" in error


def test_fbank_statistics_on_real_speech(real_speech, tmp_path):
    """Log-mel statistics tell speakers of one session each apart far better than chance."""
    root = real_speech / "voxceleb1"
    prepare_voxceleb1(root, tmp_path, ["veri_dev"])
    trials = read_trials(trials_path(root, "veri_dev"))
    rows = read_manifest(tmp_path / "veri_dev.csv")
    scores = score_trials(embed(FbankStatistics(), rows, root), trials)
    assert 0.05 < eer(scores, [label for label, _, _ in trials]) < 0.2
