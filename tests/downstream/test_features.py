"""Features: frozen stays frozen, random is fresh, the cache holds what the upstream makes."""

import json
import pickle

import numpy as np
import pytest
import soundfile
import torch

from lobes.states import FbankStates
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.exported import save_model
from recipes.common.data.seeding import Clock
from recipes.common.downstream import features
from recipes.common.downstream.features import (
    StateCache,
    Upstream,
    add_features,
    load_encoder,
    load_upstream,
    open_cache,
    write_states,
)
from tests.made_datasets import made_dataset


@pytest.fixture
def dataset(tmp_path):
    data = {}
    for number, seconds in enumerate((1.0, 0.5, 2.0)):
        path = tmp_path / f"{number}.wav"
        rng = np.random.default_rng(number)
        soundfile.write(path, 0.1 * rng.normal(size=round(16000 * seconds)), 16000)
        data[f"u{number}"] = {"wav": str(path), "duration": seconds}
    return made_dataset(tmp_path / "made.csv", data)


def hparams(model, **changes):
    given = {"features": str(model), "representation": "frames", "upstream": "frozen", "seed": 1}
    given |= {"max_seconds": 1.0, "crop": True, "cache_folder": None, "output_folder": "out"}
    return {**given, **changes}


def test_a_frozen_upstream_stays_in_evaluation_mode_without_gradient(model):
    upstream = load_upstream(hparams(model))
    parent = torch.nn.ModuleList([upstream]).train()
    assert not any(module.training for module in upstream.modules())
    assert parent.training and not any(p.requires_grad for p in upstream.parameters())
    states, _ = upstream(torch.randn(1, 8000).requires_grad_())
    assert not states.requires_grad


def test_an_upstream_that_is_fine_tuned_learns(model):
    upstream = load_upstream(hparams(model, upstream="finetune"))
    assert all(module.training for module in upstream.modules())
    states, _ = upstream(torch.randn(2, 8000))
    states.square().sum().backward()
    gradients = [p.grad for p in upstream.states.encoder.front_end.parameters()]
    assert all(grad is not None and grad.any() for grad in gradients)
    assert torch.is_grad_enabled()
    assert not upstream.eval().training


@pytest.mark.parametrize("representation", ["frames", "utterance"])
def test_random_features_are_the_architecture_with_weights_of_the_seed(model, representation):
    given = hparams(model, representation=representation)
    trained = load_upstream(given)
    first, again, other = (
        load_upstream({**given, "features": f"random:{model}", "seed": seed}) for seed in (1, 1, 2)
    )
    assert first.states.dim == trained.states.dim and first.kind == trained.kind
    assert first.digest() == again.digest()
    assert len({first.digest(), other.digest(), trained.digest()}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"representation": "words"}, "representation is 'words'"),
        ({"upstream": "thawed"}, "upstream is 'thawed'"),
        ({"features": "fbank", "upstream": "finetune"}, "fbank has no weights"),
    ],
)
def test_wrong_options_are_refused(model, changes, message):
    with pytest.raises(ValueError, match=message):
        load_upstream(hparams(model, **changes))


def test_a_folder_without_the_encoder_names_what_it_holds(tmp_path):
    save_model(tmp_path / "u", {"utterance_encoder": UtteranceEncoder("tdnn", channels=8)})
    with pytest.raises(ValueError, match="no frame_encoder, only utterance_encoder.*utterance"):
        load_upstream(hparams(tmp_path / "u"))
    with pytest.raises(ValueError, match="model: .*u holds no frame_encoder"):
        load_encoder(tmp_path / "u", "frames", "model")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_upstream(hparams(tmp_path / "nowhere"))


@pytest.mark.parametrize("features", ["model", "fbank"])
@pytest.mark.parametrize("representation", ["frames", "utterance"])
def test_the_cache_holds_what_the_upstream_makes(
    model, dataset, tmp_path, features, representation
):
    given = hparams(model, representation=representation, cache_folder=tmp_path / "cache")
    if features == "fbank":
        given["features"] = "fbank"
    upstream = load_upstream(given)
    cache = open_cache(given, upstream, {"train": dataset})
    with dataset.output_keys_as(["id", "wav"]):
        for row in dataset:
            wav, _ = soundfile.read(row["wav"], dtype="float32")
            states, lens = upstream(torch.from_numpy(wav)[None])
            assert cache[row["id"]].shape == states[0].shape and lens == states.shape[1]
            torch.testing.assert_close(cache[row["id"]], states[0], rtol=2e-3, atol=2e-3)


def test_a_cache_is_made_once_and_belongs_to_its_features_data_and_code(
    model, dataset, tmp_path, monkeypatch
):
    given = hparams(model, cache_folder=tmp_path / "cache")
    upstream = load_upstream(given)
    open_cache(given, upstream, {"train": dataset})
    (folder,) = (tmp_path / "cache").iterdir()
    before = (folder / "states.f16").stat().st_mtime_ns
    open_cache(given, upstream, {"train": dataset})
    assert (folder / "states.f16").stat().st_mtime_ns == before
    open_cache(given, load_upstream({**given, "features": f"random:{model}"}), {"train": dataset})
    open_cache(given, upstream, {"train": dataset.filtered_sorted(select_n=2)})
    assert len(list((tmp_path / "cache").iterdir())) == 3
    monkeypatch.setattr(features, "digest_code", lambda *places: "other code")
    open_cache(given, upstream, {"train": dataset})
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_an_interrupted_cache_is_not_there(dataset, tmp_path):
    class Stops(FbankStates):
        def forward(self, wavs, wav_lens=None):
            raise KeyboardInterrupt

    rows = [{"id": "u0", "wav": dataset.column("wav")[0]}]
    upstream = Upstream(FbankStates(), frozen=True)
    upstream.states = Stops()
    with pytest.raises(KeyboardInterrupt):
        write_states(upstream, rows, tmp_path / "states")
    assert not list(tmp_path.glob("states*"))


def test_nothing_is_cached_without_a_folder_or_of_what_learns(model, dataset, tmp_path):
    assert open_cache(hparams(model), load_upstream(hparams(model)), {"train": dataset}) is None
    given = hparams(model, upstream="finetune", cache_folder=tmp_path / "cache")
    assert open_cache(given, load_upstream(given), {"train": dataset}) is None


@pytest.mark.parametrize("cached", [True, False])
def test_training_crops_long_utterances_elsewhere_in_each_epoch(model, dataset, tmp_path, cached):
    given = hparams(model, cache_folder=tmp_path / "cache" if cached else None)
    cache = open_cache(given, load_upstream(given), {"train": dataset})
    clock = Clock()
    item = add_features(dataset, given, cache, clock)
    assert item == ("states" if cached else "sig")
    dataset.set_output_keys(["id", item])
    crops = []
    for clock.epoch in (1, 2, 1):
        crops.append({row["id"]: row[item] for row in dataset})
    longest = 49 if cached else 16000
    assert [len(crops[0][f"u{i}"]) for i in range(3)] == [longest, longest // 2, longest]
    assert torch.equal(crops[0]["u2"], crops[2]["u2"])
    assert not torch.equal(crops[0]["u2"], crops[1]["u2"])
    add_features(dataset, given, cache, None)


@pytest.mark.parametrize("crop", [True, False])
def test_held_out_utterances_are_whole(model, dataset, crop):
    item = add_features(dataset, hparams(model, crop=crop), None, None)
    dataset.set_output_keys(["id", item])
    assert [len(row[item]) for row in dataset] == [16000, 8000, 32000]


def test_the_index_of_a_cache_tells_places(model, dataset, tmp_path):
    columns = zip(dataset.data_ids, dataset.column("wav"), strict=True)
    rows = [{"id": name, "wav": path} for name, path in columns]
    write_states(load_upstream(hparams(model)), rows, tmp_path / "states")
    index = json.loads((tmp_path / "states" / "index.json").read_text())
    assert index == {
        "shape": [49 + 24 + 99, 3, 16],
        "places": {"u0": [0, 49], "u1": [49, 24], "u2": [73, 99]},
    }
    assert len(StateCache(tmp_path / "states")["u2"]) == 99


def test_every_rank_waits_for_the_states(model, dataset, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(features, "run_on_main", lambda func, args: calls.append(func(*args)))
    given = hparams(model, cache_folder=tmp_path / "states")
    for count in (1, 2):
        open_cache(given, load_upstream(given), {"train": dataset})
        assert len(calls) == count
    assert len(list((tmp_path / "states").iterdir())) == 1


def test_a_cache_is_pickled_as_its_folder(model, dataset, tmp_path):
    given = hparams(model, cache_folder=tmp_path / "states")
    cache = open_cache(given, load_upstream(given), {"train": dataset})
    packed = pickle.dumps(cache)
    assert len(packed) < 1000 < cache.array.nbytes
    assert torch.equal(pickle.loads(packed)["u1"], cache["u1"])
