"""What is read of a run's frames: who speaks is found where it is, and nowhere else."""

import numpy as np
import pytest

from recipes.common.evaluation import probe_fitting
from recipes.experiments import readings

SPEAKERS, EACH, DIM = 5, 8, 4


@pytest.mark.long
@pytest.mark.parametrize("place", ["means", "deviations", "shapes"])
def test_what_tells_the_speaker_is_found_where_it_is(place, monkeypatch):
    monkeypatch.setattr(probe_fitting, "MAX_STEPS", 60)
    monkeypatch.setattr(readings, "FRAMES", 4)
    monkeypatch.setattr(readings, "drawn_phones", lambda rows, *_: drawn(rows))
    rng, rows, whole = np.random.default_rng(0), [], []
    for speaker in range(SPEAKERS):
        voice = rng.normal(size=DIM)
        for number in range(EACH):
            rows.append({"ID": f"{speaker}-{number}", "spk_id": speaker})
            x = rng.normal(size=(200, DIM))
            if place == "shapes":  # skewed to one side or the other
                x = np.exp(x) * np.sign(voice)
            x = (x - x.mean(0)) / x.std(0)
            whole.append(
                {"means": x + 3 * voice, "deviations": x * np.exp(voice), "shapes": x}[place]
            )
    means = np.stack([x.mean(0) for x in whole])
    frames = np.stack([x[:4] for x in whole])
    found = readings.read_frames(means, frames, whole, rows, {})
    values = {name: found[name]["value"] for name in found}
    own = {"means": "speaker_pooled", "deviations": "speaker_deviations"}.get(place)
    for name in ("speaker_pooled", "speaker_deviations"):
        assert values[name] > 0.8 if name == own else values[name] < 0.5
    assert values["speaker_both"] > 0.8 if own else values["speaker_both"] < 0.5
    assert values["speaker_random"] > 0.8


@pytest.mark.long
def test_each_layer_is_read_by_itself(monkeypatch):
    monkeypatch.setattr(probe_fitting, "MAX_STEPS", 60)
    monkeypatch.setattr(readings, "FRAMES", 20)
    phones = np.array([["a", "b"] * 10] * SPEAKERS * EACH, object)
    monkeypatch.setattr(readings, "drawn_phones", lambda *_: phones)
    rng = np.random.default_rng(0)
    rows = [{"ID": f"{n}", "spk_id": f"{n // EACH}"} for n in range(SPEAKERS * EACH)]
    voices = rng.normal(size=(SPEAKERS, 1, DIM)).repeat(EACH, 0)
    sounds = np.where(phones == "a", 1.0, -1.0)[..., None] * rng.normal(size=DIM)
    noise = rng.normal(size=(2, *sounds.shape))
    layers = np.stack([noise[0] + 3 * voices, noise[1] + 3 * sounds], 2)
    first, second = readings.read_layers(layers, rows, {})
    assert first["speaker_random"]["value"] > 0.8 > 0.5 > second["speaker_random"]["value"]
    assert second["phone_frames"]["value"] > 0.9 > 0.6 > first["phone_frames"]["value"]


def drawn(rows):
    """Return four phones of each utterance, in turns."""
    return np.array([["a", "b", "a", "b"]] * len(rows), object)
