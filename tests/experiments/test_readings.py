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


def drawn(rows):
    """Return four phones of each utterance, in turns."""
    return np.array([["a", "b", "a", "b"]] * len(rows), object)
