"""Labels that are dealt out."""

from recipes.common.downstream.labels import deal


def test_dealing_keeps_what_is_dealt():
    labels = {f"u{i}": i % 7 for i in range(50)}
    assert deal(labels, {"shuffle_labels": False, "seed": 1}) == labels
    dealt = deal(labels, {"shuffle_labels": True, "seed": 1})
    assert list(dealt) == list(labels) and sorted(dealt.values()) == sorted(labels.values())
    assert sum(dealt[name] == labels[name] for name in labels) < 20
    assert dealt == deal(labels, {"shuffle_labels": True, "seed": 1})
    assert dealt != deal(labels, {"shuffle_labels": True, "seed": 2})
