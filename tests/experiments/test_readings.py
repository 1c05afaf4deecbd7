"""What is read of a run's frames: arrays changed in closed form."""

import numpy as np

from recipes.experiments import readings


def test_centring_takes_the_mean_of_each_utterance_off():
    whole = [np.random.default_rng(n).normal(n, 1, (20 + n, 3)).astype(np.float16) for n in (1, 2)]
    means = np.stack([x.astype(np.float32).mean(0) for x in whole])
    frames = np.stack([x[:4] for x in whole]).astype(np.float32)
    nothing, drawn, rest = readings.centred(means, frames, whole)
    assert nothing is None and all(abs(x.mean(0)).max() < 1e-5 for x in rest)
    assert np.allclose(drawn[1], rest[1][:4], atol=1e-6)


def test_erased_directions_tell_nothing_of_embeddings_and_the_others_stay():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(300, 3))
    offsets = embeddings @ rng.normal(size=(3, 8))
    whole = [rng.normal(size=(20 + n % 7, 8)) + x for n, x in enumerate(offsets)]
    means = np.stack([x.mean(0) for x in whole])
    erased = readings.eraser(whole, embeddings, 3)(means)
    explained = [
        1 - np.linalg.lstsq(embeddings, x - x.mean(0))[1].sum() / x.var(0).sum() / len(x)
        for x in (means, erased)
    ]
    assert explained[0] > 0.8 and explained[1] < 0.02
    moved = np.linalg.svd(erased - means, compute_uv=False)
    assert (moved > 1e-4).sum() == 3
