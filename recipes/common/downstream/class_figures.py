"""Figures of a classification of utterances, with intervals, and tables of what became of each."""

from collections import Counter

import numpy as np

from recipes.common.evaluation.bootstrap import bootstrap_groups, group_scores


def class_figures(labels, predicted):
    """Return the accuracy, its complement, and the recall averaged over classes.

    Arguments
    ---------
    labels, predicted : array_like
        Shape (utterances,), the class of each and what it was taken for.

    Returns
    -------
    dict
        `accuracy`, `error` and `macro_recall` in [0, 1]. The last, also known as the unweighted
        average recall or balanced accuracy, averages over the classes that `labels` has.

    Example
    -------
    >>> class_figures(["a", "a", "a", "b"], ["a", "a", "a", "a"])
    {'accuracy': 0.75, 'error': 0.25, 'macro_recall': 0.5}
    """
    right = np.asarray(labels) == np.asarray(predicted)
    _, classes = np.unique(labels, return_inverse=True)
    accuracy = float(right.mean())
    recalls = np.bincount(classes, right) / np.bincount(classes)
    return {"accuracy": accuracy, "error": 1 - accuracy, "macro_recall": float(recalls.mean())}


def class_intervals(labels, predicted, speakers, seed):
    """Return 95 % intervals of the accuracy and of the macro-averaged recall.

    Arguments
    ---------
    labels, predicted : array_like
        Shape (utterances,).
    speakers : array_like
        Shape (utterances,). Speakers are drawn with replacement where each class has two or more of
        them, and they are fewer than utterances. Otherwise utterances are drawn: where each counts
        as a speaker because none is known, and where the speakers are the classes.
    seed : int
        Seed of the 2000 draws.

    Returns
    -------
    dict
        `accuracy_interval`, `macro_recall_interval`, [low, high] in [0, 1], or None of a single
        utterance; and `interval_over`, "speakers" or "utterances".

    Example
    -------
    >>> found = class_intervals(list("aabb") * 5, list("aaba") * 5, list("1234") * 5, seed=0)
    >>> found["interval_over"]
    'speakers'
    """
    right = np.asarray(labels) == np.asarray(predicted)
    names, groups = np.unique(speakers, return_inverse=True)
    _, classes = np.unique(labels, return_inverse=True)
    pairs = np.unique(np.stack([classes, groups]), axis=1)
    over_speakers = len(names) < len(right) and np.bincount(pairs[0]).min() > 1
    if not over_speakers:
        groups = np.arange(len(right))
    whole, found = np.zeros(len(right), int), {}
    for name, strata in (("accuracy", whole), ("macro_recall", classes)):
        interval = None
        if len(right) > 1:
            scores = group_scores(right, np.ones(len(right)), strata, groups)
            interval = np.clip(bootstrap_groups(scores[None], seed, paired_use=1.0), 0, 1).tolist()
        found[f"{name}_interval"] = interval
    return {**found, "interval_over": "speakers" if over_speakers else "utterances"}


def chance_accuracy(training_labels, labels):
    """Return the accuracy of always naming the class that is most frequent in training.

    Of equally frequent ones, the first by name counts.

    Arguments
    ---------
    training_labels, labels : iterable of str
        Of the training split, and of the split that is judged.

    Returns
    -------
    float
        In [0, 1].

    Example
    -------
    >>> chance_accuracy(["a", "a", "b"], ["a", "b", "b", "b"])
    0.25
    """
    counts = Counter(training_labels)
    majority = min(counts, key=lambda name: (-counts[name], name))
    return float(np.mean([label == majority for label in labels]))


def confusion_rows(classes, labels, predicted):
    """Return how often each class was taken for each: a row of a table for each class.

    Arguments
    ---------
    classes : list of str
        In the table's order.
    labels, predicted : iterable of str

    Returns
    -------
    list of list
        The header, and for each class its name and the count of each prediction.

    Example
    -------
    >>> confusion_rows(["a", "b"], ["a", "a", "b"], ["a", "b", "b"])
    [['label', 'a', 'b'], ['a', 1, 1], ['b', 0, 1]]
    """
    counts = Counter(zip(labels, predicted, strict=True))
    rows = [[label, *(counts[label, other] for other in classes)] for label in classes]
    return [["label", *classes], *rows]
