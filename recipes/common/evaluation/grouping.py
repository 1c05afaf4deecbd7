"""Lists of what has the same key, in the order in which keys and items come."""


def group_by(items, key):
    """Return lists of items by their key.

    Arguments
    ---------
    items : iterable
    key : callable
        Returns the key of an item.

    Returns
    -------
    dict
        Key: the items that have it, in their order.

    Example
    -------
    >>> group_by(["a", "bc", "d"], len)
    {1: ['a', 'd'], 2: ['bc']}
    """
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
