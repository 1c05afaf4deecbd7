"""Content is found in embeddings where it is, by the kind of probe that can find it."""

import numpy as np
import pytest

from recipes.common.evaluation import probe_fitting
from recipes.common.evaluation.attacks import content_attacks as attacks
from recipes.common.report import measures

SPEAKERS, EACH = 8, 20
WORDS = ("ONE", "TWO", "THREE", "FOUR", "FIVE")
SENTENCES = ("ONE TWO", "THREE FOUR", "FIVE")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Make probes quick."""
    monkeypatch.setattr(probe_fitting, "MAX_STEPS", 60)
    monkeypatch.setattr(measures, "MIX_AXES", 1)


def said(seed, embed, texts=None):
    """Return utterances whose embeddings are a function of how often each word is said."""
    rng = np.random.default_rng(seed)
    rows, counts = [], []
    for number in range(SPEAKERS * EACH):
        words = texts[number % len(texts)].split() if texts else list(rng.choice(WORDS, size=8))
        speaker = f"{seed}-{number // EACH}"
        rows.append({"ID": f"{seed}-{number}", "spk_id": speaker, "sentence": " ".join(words)})
        counts.append([words.count(word) / len(words) for word in WORDS])
    phones = {row["ID"]: row["sentence"].lower() for row in rows}
    embeddings = embed(np.array(counts), rng).astype("f4")
    return attacks.Said(rows, embeddings, phones)


def linear(counts, rng):
    return counts + 0.05 * rng.normal(size=counts.shape)


def noise(counts, rng):
    return rng.normal(size=counts.shape)


def values(factor, part):
    return {r["probe"]: (r["value"], r["control"]) for r in attacks.read_factor(factor, part, 1)}


@pytest.mark.parametrize("factor", ["phones", "words"])
def test_a_linear_probe_finds_words_that_lie_open(factor, monkeypatch):
    monkeypatch.setattr(attacks, "HIDDEN", {"linear": 0})
    value, control = values(factor, said(1, linear))["linear"]
    assert value > 0.6 and control < 0.05
    assert values(factor, said(1, noise))["linear"][0] < 0.05


@pytest.mark.long
def test_the_stronger_kind_of_probe_is_chosen_on_development_speakers(monkeypatch):
    monkeypatch.setattr(attacks, "FACTORS", ("sentence",))

    def folded(counts, rng):  # the sign tells nothing, the size does
        sizes = counts @ np.array([1, 1, 3, 3, 5.0])[:, None]
        return np.hstack([sizes * rng.choice([-1, 1], size=sizes.shape), noise(sizes, rng)])

    def open_to_all(counts, rng):
        return np.hstack([noise(counts, rng)[:, :1], counts])

    dev, test = said(1, folded, SENTENCES), said(2, open_to_all, SENTENCES)
    found = attacks.content_attacks(dev, test, seed=1)["sentence"]
    linear_probe, network = (found["attackers"][kind] for kind in ("linear", "mlp"))
    assert network["dev"] > 0.8 > 0.7 > linear_probe["dev"]
    assert found["best"] == "mlp"
    assert linear_probe["test"]["value"] > 0.9
    assert linear_probe["test"]["control"] < 0.55


def test_what_is_not_known_is_left_out():
    part = said(1, noise)
    assert attacks.read_factor("sentence", part, 1) is None, "no sentence is said by four speakers"
    unknown = attacks.Said([{"ID": r["ID"], "spk_id": r["spk_id"]} for r in part.rows], *part[1:])
    assert attacks.read_factor("words", unknown, 1) is None
    assert attacks.content_attacks(part, unknown._replace(phones={}), seed=1) == {}
