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

from lobes.frame_encoder import FrameEncoder
from lobes.states import FrameStates, UtteranceStates
from lobes.utterance_encoder import UtteranceEncoder
from pretrained import SpeakerVerifier
from pretrained.exported import save_model
from recipes.common.data.manifest import fingerprint, read_manifest, write_manifest
from recipes.common.downstream.features import fresh
from recipes.common.evaluation.metrics import eer
from recipes.common.evaluation.verification import (
    FbankStatistics,
    MeanState,
    as_norm,
    centre,
    choose_scorings,
    cohort_means,
    embed,
    score_trials,
    standardise,
    trial_figures,
    verify,
)
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from recipes.VoxCeleb.voxceleb_prepare import prepare_voxceleb, read_trials, trials_path

RATE = 16000
RECIPE = Path(__file__).parents[2] / "recipes" / "VoxCeleb" / "SpeakerRec"


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
    """An encoder that knows the speaker from the pitch."""

    def forward(self, wavs):
        spectrum = torch.fft.rfft(wavs, 16 * RATE).abs()[0]
        pitches = 16 * (90 + 12 * torch.arange(6))
        found = torch.stack([spectrum[p - 80 : p + 80].square().sum() for p in pitches]).argmax()
        return torch.eye(6)[found][None] + 0.01


class Noise(nn.Module):
    """An encoder that knows nothing."""

    def forward(self, wavs):
        return torch.randn(1, 8, generator=torch.Generator().manual_seed(len(wavs[0])))


def systems_of(encoder, seed=1):
    """Return an utterance encoder and its baselines."""
    return {
        "utterance": MeanState(UtteranceStates(encoder)),
        "fbank": FbankStatistics(),
        "random": MeanState(UtteranceStates(fresh(encoder, seed))),
    }


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
    systems = {"utterance": Speaker(), "fbank": FbankStatistics(), "random": Noise()}
    figures, curves = verify(systems, {"test": (manifest, trials)}, root, seed=1)
    assert figures["scoring"] == dict.fromkeys(systems, "plain")
    figures = figures["test"]
    found = {name: values["eer"] for name, values in figures["systems"].items()}
    assert (figures["trials"], figures["utterances"], figures["speakers"]) == (276, 24, 6)
    assert found["utterance"] < 0.05 < found["fbank"]
    assert 0.3 < found["random"] < 0.7
    assert {name: eer(*pair) for name, pair in curves["test"].items()} == found
    assert 0.3 < figures["eer_shuffled_labels"] < 0.7
    assert set(figures["ratio"]) == {"fbank", "random"}
    ratio = figures["ratio"]["random"]
    assert ratio["value"] == found["utterance"] / found["random"]
    assert ratio["interval"][0] <= ratio["value"] <= ratio["interval"][1] < 1


def test_shuffled_labels_are_at_chance(corpus):
    manifest, trials, root = corpus
    scores = score_trials(embed(Speaker(), read_manifest(manifest), root), trials)
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
        return verify(systems_of(encoder), lists, root, seed=1, reference=(manifest, root))[0]

    first = figures(test)
    upside_down = figures([(1 - label, *pair) for label, *pair in test])
    assert first["scoring"] == upside_down["scoring"]
    assert first["dev_eer_by_scoring"] == upside_down["dev_eer_by_scoring"]
    for system, by_scoring in first["dev_eer_by_scoring"].items():
        assert set(by_scoring) == {"plain", "centred", "standardised"}
        assert first["dev"]["systems"][system]["eer"] == min(by_scoring.values())
        assert by_scoring[first["scoring"][system]] == min(by_scoring.values())


def test_the_chosen_scoring_is_that_of_the_test_trials(corpus):
    manifest, trials, root = corpus
    lists = {"dev": (manifest, trials), "test": (manifest, trials[::2])}
    systems = {"utterance": Speaker(), "fbank": FbankStatistics()}
    figures, _ = verify(systems, lists, root, seed=1, reference=(manifest, root))
    rows = read_manifest(manifest)
    embeddings = embed(FbankStatistics(), rows, root)
    change = {"plain": lambda e, _: e, "centred": centre, "standardised": standardise}
    rates = {}
    for name in change:
        scores = score_trials(change[name](embeddings, embeddings), trials[::2])
        rates[name] = eer(scores, [label for label, _, _ in trials[::2]])
    assert len(set(rates.values())) == 3
    found = figures["test"]["systems"]["fbank"]["eer"]
    assert found == pytest.approx(rates[figures["scoring"]["fbank"]])


def test_of_equal_scorings_the_plain_one_is_chosen():
    same = {"plain": [0.1, 0.2, 0.3], "centred": [1, 2, 3], "standardised": [3, 2, 1]}
    assert choose_scorings({"fbank": same}, [0, 1, 1]) == {"fbank": "plain"}
    assert choose_scorings({"fbank": same}, [1, 0, 0]) == {"fbank": "standardised"}


def test_figures_follow_from_the_seed(corpus, encoder):
    manifest, trials, root = corpus
    systems, lists = systems_of(encoder), {"test": (manifest, trials)}
    first, again, other = (verify(systems, lists, root, seed)[0] for seed in (1, 1, 2))
    assert first == again != other
    for name in systems:
        found = [figures["test"]["systems"][name]["eer"] for figures in (first, other)]
        assert found[0] == found[1]


def test_the_mean_state_of_frames_is_the_mean_of_the_encoders_output():
    torch.manual_seed(0)
    encoder = FrameEncoder("fbank", 16, d_model=16, num_layers=2, nhead=2, d_ffn=32).eval()
    wav = torch.randn(1, 9000)
    expected = encoder(wav)[0].mean(0)
    torch.testing.assert_close(MeanState(FrameStates(encoder))(wav)[0], expected)


def slow_as_norm(embeddings, trials, cohort, top):
    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    scores = []
    for _, enrol, test in trials:
        own, sides = cosine(embeddings[enrol], embeddings[test]), []
        for name in (enrol, test):
            best = sorted((cosine(embeddings[name], c) for c in cohort.values()), reverse=True)
            best = best[:top]
            mean = sum(best) / len(best)
            deviation = (sum((b - mean) ** 2 for b in best) / len(best)) ** 0.5
            sides.append((own - mean) / deviation)
        scores.append(sum(sides) / 2)
    return scores


@pytest.mark.parametrize("top", [2, 5, 100])
def test_as_norm_agrees_with_the_slow_one(top):
    rng = np.random.default_rng(0)
    embeddings = {name: rng.normal(size=6) for name in "abcd"}
    cohort = {number: rng.normal(size=6) for number in range(9)}
    trials = [(1, "a", "b"), (0, "c", "d"), (1, "b", "d")]
    expected = slow_as_norm(embeddings, trials, cohort, top)
    np.testing.assert_allclose(as_norm(embeddings, trials, cohort, top), expected, atol=1e-12)
    swapped = [(label, test, enrol) for label, enrol, test in trials]
    np.testing.assert_allclose(as_norm(embeddings, swapped, cohort, top), expected, atol=1e-12)


def test_as_norm_needs_a_cohort():
    with pytest.raises(ValueError, match="2 cohort speakers; there are 1"):
        as_norm({"a": np.ones(2)}, [(1, "a", "a")], {"x": np.ones(2)}, top=5)


def test_as_norm_undoes_a_session_that_is_near_to_everyone():
    rng = np.random.default_rng(0)
    speakers = rng.normal(size=(40, 16))
    common = 3 * rng.normal(size=16)
    trials, labels, embeddings = [], [], {}
    for number in range(200):
        label, speaker = number % 2, number % 20
        other = speaker if label else (speaker + 1 + number // 20) % 20
        odd = common if number % 3 == 0 else 0 * common
        for side, own in (("e", speaker), ("t", other)):
            embeddings[f"{side}{number}"] = speakers[own] + odd + 0.7 * rng.normal(size=16)
        trials.append((label, f"e{number}", f"t{number}"))
        labels.append(label)
    cohort = {n: speakers[n] + (common if n % 3 == 0 else 0 * common) for n in range(20, 40)}
    plain = eer(score_trials(embeddings, trials), labels)
    assert eer(as_norm(embeddings, trials, cohort, top=7), labels) < 0.8 * plain


def test_the_cohort_is_the_speakers_mean_directions():
    embeddings = {"a": np.array([3.0, 0.0]), "b": np.array([0.0, 0.5]), "c": np.array([1.0, 1.0])}
    means = cohort_means(embeddings, {"a": "x", "b": "x", "c": "y"})
    np.testing.assert_allclose(means["x"], [0.5, 0.5])
    np.testing.assert_allclose(means["y"], [0.5**0.5, 0.5**0.5])


def test_trial_figures_hold_rates_costs_and_intervals():
    rng = np.random.default_rng(0)
    speakers = rng.integers(12, size=(600, 2))
    speakers[::2, 1] = speakers[::2, 0]
    labels = speakers[:, 0] == speakers[:, 1]
    figures = trial_figures(2 * labels + rng.normal(size=600), labels, speakers, seed=1)
    assert set(figures) == {"eer", "eer_interval", "min_dcf_0.01", "min_dcf_0.05"}
    low, high = figures["eer_interval"]
    assert 0 < low < figures["eer"] < high < 0.5
    assert 0 < figures["min_dcf_0.05"] < figures["min_dcf_0.01"] <= 1


def test_too_few_trials_give_no_interval(corpus, encoder):
    manifest, _, root = corpus
    few = [(1, "0-0", "0-0"), (0, "0-0", "1-0")]
    figures = verify(systems_of(encoder), {"test": (manifest, few)}, root, seed=1)[0]["test"]
    assert figures["systems"]["fbank"]["eer"] == 0.0
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


def test_fbank_statistics_on_real_speech(real_speech, tmp_path):
    """Log-mel statistics tell speakers of one session each apart far better than chance."""
    root = real_speech / "voxceleb1"
    prepare_voxceleb(root, tmp_path, ["veri_dev"])
    trials = read_trials(trials_path(root, "veri_dev"))
    rows = read_manifest(tmp_path / "veri_dev.csv")
    scores = score_trials(embed(FbankStatistics(), rows, root), trials)
    assert 0.05 < eer(scores, [label for label, _, _ in trials]) < 0.2
