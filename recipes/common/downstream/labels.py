"""What the labels of all downstream tasks share: a control, and the manifests they come from."""

from recipes.common.data.seeding import derive_rng
from recipes.common.training.run import manifest_paths


def deal(labels, hparams):
    """Return the labels of training utterances, dealt out at random where `shuffle_labels` is set.

    Arguments
    ---------
    labels : dict
        By utterance.
    hparams : dict
        `shuffle_labels`, a control that leaves nothing to learn, and `seed`.

    Returns
    -------
    dict
        Likewise.

    Example
    -------
    >>> deal({"a": 1, "b": 2}, {"shuffle_labels": False, "seed": 0})
    {'a': 1, 'b': 2}
    """
    if not hparams["shuffle_labels"]:
        return labels
    order = derive_rng(hparams["seed"], "shuffled labels").permutation(len(labels))
    values = list(labels.values())
    return {name: values[place] for name, place in zip(labels, order, strict=True)}


def manifests_of(hparams, split):
    """Return the manifests of a split as one str, for messages."""
    return ", ".join(map(str, manifest_paths(hparams)[split]))
