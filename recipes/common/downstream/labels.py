"""What the labels of all downstream tasks share: classes as numbers, a control, their places."""

from functools import partial

import numpy as np

from pretrained.facts import is_line
from recipes.common.data.files import CorpusError
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


def column_of(dataset, column):
    """Return a manifest's column as a dict by utterance ID; CorpusError where there is none."""
    return dict(zip(dataset.data_ids, dataset.column(column), strict=True))


def distinct(labels):
    """Return the labels that there are, sorted."""
    return sorted(set(labels))


def add_classes(hparams, datasets, column, list_classes=distinct):
    """Give each utterance the item `class_number`: its class's among those of training, or -1.

    Arguments
    ---------
    hparams : dict
        `shuffle_labels`: deal the training utterances' classes out at random, as a control; `seed`.
    datasets : dict
        By split: Utterances; changed in place.
    column : str
        The manifests' column that names the class.
    list_classes : callable
        Takes the labels of the training split and returns the names of the classes, in order.

    Returns
    -------
    dict
        The number of each class by its name, in order.

    Raises
    ------
    CorpusError
        Where a manifest has no such column.
    """
    labels = column_of(datasets["train"], column)
    classes = {name: number for number, name in enumerate(list_classes(labels.values()))}
    dealt = deal(labels, hparams) if hparams["shuffle_labels"] else {}
    number = partial(class_number, classes, dealt)
    for dataset in datasets.values():
        dataset.add_dynamic_item(number, takes=["id", column], provides="class_number")
    return classes


def class_number(classes, dealt, utterance, label):
    """Return the number of an utterance's class, -1 for one that is not trained on.

    Arguments
    ---------
    classes : dict
        The number of each training class.
    dealt : dict
        The class of each training utterance whose own does not count, as `deal` has it.
    utterance, label : str
        The utterance's ID, and its own class.

    Returns
    -------
    int

    Example
    -------
    >>> class_number({"no": 0, "yes": 1}, {"a": "yes"}, "a", "no")
    1
    """
    return classes.get(dealt.get(utterance, label), -1)


def class_weights(dataset):
    """Return a weight of each utterance by which all classes are drawn equally often.

    Arguments
    ---------
    dataset : Utterances
        With the item `class_number`.

    Returns
    -------
    numpy.ndarray
        Shape (utterances,), the reciprocal of the number of utterances of its class.
    """
    with dataset.output_keys_as(["class_number"]):
        numbers = np.array([row["class_number"] for row in dataset])
    return 1 / np.bincount(numbers)[numbers]


def check_classes(hparams, datasets, column, classes):
    """Raise CorpusError unless classes can be learned and each one in valid and test is trained on.

    Arguments
    ---------
    hparams : dict
        The manifests' keys, for messages.
    datasets : dict
        By split: Utterances.
    column : str
        The manifests' column that names the class.
    classes : dict
        The number of each class of the training split.
    """
    for split, dataset in datasets.items():
        for name, label in column_of(dataset, column).items():
            where = f"{manifests_of(hparams, split)}: {name}"
            if not is_line(label):
                raise CorpusError(f"{where}: {column} is {label!r}: expected a line of text.")
            if label not in classes:
                raise CorpusError(
                    f"{where}: {column} {label} has no utterance in the training split, so that "
                    "nothing can tell it: move one there in the split's list, or leave it out."
                )
    if len(classes) < 2:
        raise CorpusError(
            f"{manifests_of(hparams, 'train')}: all utterances have the {column} {[*classes][0]}: "
            "a classifier needs two classes or more."
        )
