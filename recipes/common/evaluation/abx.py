"""Triphone ABX: how often a stretch of speech lies nearer to another phone than to its own.

An item is a stretch of frames that realises a triphone: a centre phone with the phones before and
after it. For centre phones p and q in the same context, A and X realise p, and B realises q. A
triple counts 1 where d(A, X) > d(B, X), 0.5 where they are equal, else 0: labels give 0, what knows
nothing 0.5. Within speakers, one speaker speaks A, B and X; across speakers, A and B are one
speaker's and X another's. See Schatz et al., Interspeech 2013, and the ZeroSpeech 2021 benchmark
(Nguyen et al., 2020); the averages are those of Libri-light's evaluation (Kahn et al., ICASSP
2020), in its order, as `abx` says.
"""

import math

import numpy as np
import torch

from recipes.common.data.seeding import derive_rng
from recipes.common.evaluation.grouping import group_by

MODES = ("within", "across")
DISTANCES = ("cosine", "angular")
GRID = 2**40  # frame distances are whole numbers of 1 / GRID
LENGTH_BITS = 10
MAX_FRAMES = 2 ** (LENGTH_BITS - 1)  # two items' path then fits into the bits of its length
FAR = 2**62
FRAME_PAIRS_AT_ONCE = 2**16


def abx(features, items, mode, distance, seed, max_items=10, max_speakers=5):
    """Return the ABX error of frame representations on triphones.

    The error is averaged in the order of Libri-light's evaluation. (1) Over all triples of a cell:
    ordered pair of phones (p, q), context, speaker of A and B and, across, speaker of X. (2) Over
    the contexts, and across over the speakers of X at once, of a pair and a speaker of A and B.
    (3) Over these speakers. (4) Over ordered pairs. Each part counts alike in every average.

    The distance of two items is the cost of the cheapest path of dynamic time warping, with steps
    (1, 0), (0, 1) and (1, 1), divided by the number of frame pairs on it. Of equally cheap paths,
    the shortest counts, so that the distance is symmetric. Frame distances are rounded to 2**-40:
    sums are then exact, and rounding decides no tie.

    Arguments
    ---------
    features : dict
        The array or tensor (frames, dim) of each utterance; each is asked for once.
    items : iterable of recipes.common.annotations.triphones.Item
        Of at most 512 frames each.
    mode : str
        "within" or "across" speakers.
    distance : str
        Of frames: "cosine", 1 - cos in [0, 2], or "angular", arccos(cos) / pi in [0, 1].
    seed : int
        Seed of the draws, which do not depend on the order of the items.
    max_items : int
        How many items of a context, phone and speaker to draw, at most.
    max_speakers : int
        Across: how many speakers of X to draw for each context, phone and speaker of A, at most.

    Returns
    -------
    dict
        `error`: in [0, 1]. `num_triples`: what was counted. `speakers`: names of the speakers of A
        and B, an array. `speaker_errors`: an array of the same length, each speaker's mean over the
        pairs that they have; its mean is not `error`, where speakers have different pairs.

    Raises
    ------
    ValueError
        Where there is no triple; an item lies beyond its utterance's frames or has more than 512;
        features are not finite or zero (names the utterance); or a limit is below 1.

    Example
    -------
    >>> from recipes.common.annotations.triphones import Item
    >>> rng = np.random.default_rng(0)
    >>> features = {"a": rng.normal(size=(12, 8))}
    >>> features["b"] = features["a"] + 0.1 * rng.normal(size=(12, 8))
    >>> spans = [("p", 0, 5), ("q", 6, 12)]
    >>> items = [Item(u, u, ("t", "s"), phone, *span) for u in features for phone, *span in spans]
    >>> result = abx(features, items, "across", "angular", seed=0)
    >>> result["error"], result["num_triples"]
    (0.0, 4)
    """
    for name, value in (("max_items", max_items), ("max_speakers", max_speakers)):
        if value < 1:
            raise ValueError(f"{name} is {value}: expected at least 1.")
    groups = _draw_groups(items, seed, max_items)
    cells = list(_list_cells(groups, mode, seed, max_speakers))
    if not cells:
        raise ValueError(
            f"The {len(groups)} kinds of item (context, phone, speaker) give no triple {mode} "
            "speakers: it needs two phones of one speaker in the same context, and another item of "
            f"{'that' if mode == 'within' else 'another'} speaker."
        )
    distances = _group_distances(features, groups, cells, distance)
    errors, counts = np.empty(len(cells)), np.empty(len(cells), int)
    for place, (a, b, x) in enumerate(cells):
        errors[place], counts[place] = _cell_error(distances[x, a], distances[x, b], x == a)
    return _average(cells, errors, counts)


def _draw_groups(items, seed, max_items):
    """Return the items to use by (context, phone, speaker)."""
    groups = group_by(sorted(items), lambda item: (item.context, item.phone, item.speaker))
    return {
        (context, phone, speaker): _draw(own, max_items, seed, "items", *context, phone, speaker)
        for (context, phone, speaker), own in groups.items()
    }


def _draw(values, most, *parts):
    """Return at most so many of the values, in their order."""
    if len(values) <= most:
        return values
    drawn = derive_rng(*parts).choice(len(values), most, replace=False)
    return [values[place] for place in sorted(drawn)]


def _list_cells(groups, mode, seed, max_speakers):
    """Yield the groups of A, B and X of each cell."""
    of_one_speaker = group_by(sorted(groups), lambda group: (group[0], group[2]))
    of_one_phone = group_by(sorted(groups), lambda group: group[:2])
    for own in of_one_speaker.values():
        for a in own if len(own) > 1 else ():
            context, phone, speaker = a
            if mode == "across":
                others = [x for x in of_one_phone[context, phone] if x != a]
                others = _draw(others, max_speakers, seed, "speakers", *context, phone, speaker)
            else:
                others = [a] if len(groups[a]) > 1 else []
            for x in others:
                yield from ((a, b, x) for b in own if b != a)


def _group_distances(features, groups, cells, distance):
    """Return the distances (items, items) of X's group and A's or B's, by both groups."""
    used = sorted({group for cell in cells for group in cell})
    items = [item for group in used for item in groups[group]]
    stops = np.cumsum([len(groups[group]) for group in used])
    places = {g: np.arange(e - len(groups[g]), e) for g, e in zip(used, stops, strict=True)}
    pairs = {}
    for x, other in {(x, other) for a, b, x in cells for other in (a, b)}:
        first, second = places[x][:, None], places[other]
        # One number for a pair and for its mirror image.
        pairs[x, other] = np.minimum(first, second) * len(items) + np.maximum(first, second)
    needed = np.unique(np.concatenate([own.ravel() for own in pairs.values()]))
    values = _item_distances(features, items, np.divmod(needed, len(items)), distance)
    return {block: values[np.searchsorted(needed, own)] for block, own in pairs.items()}


def _item_distances(features, items, pairs, distance):
    """Return the distance of each of the pairs of places in a list of items, float64."""
    frames, starts, lengths = _gather_frames(features, items)
    first, second = pairs
    shapes = lengths[first] * (MAX_FRAMES + 1) + lengths[second]
    order = np.argsort(shapes, kind="stable")
    values = np.empty(len(shapes))
    for same in np.split(order, np.flatnonzero(np.diff(shapes[order])) + 1):
        n, m = lengths[first[same[0]]], lengths[second[same[0]]]
        batch = max(1, FRAME_PAIRS_AT_ONCE // (n * m))
        for part in np.split(same, range(batch, len(same), batch)):
            one = _unit_frames(frames, starts[first[part]], n)
            other = _unit_frames(frames, starts[second[part]], m)
            values[part] = dtw(one, other, distance).numpy()
    return values


def _unit_frames(frames, starts, length):
    """Return stretches (starts, length, dim), float64, of frames scaled to length 1."""
    own = frames[torch.from_numpy(starts[:, None] + np.arange(length))].double()
    return own.div_(own.norm(dim=2, keepdim=True))


def _gather_frames(features, items):
    """Return all frames (frames, dim) of the items' utterances, and the items' starts, lengths."""
    own = group_by(range(len(items)), lambda place: items[place].utterance)
    parts, starts, total = [], np.empty(len(items), int), 0
    for utterance, places in own.items():
        frames = torch.as_tensor(features[utterance])
        norms = frames.double().norm(dim=1)
        for place in places:
            _check_item(items[place], norms)
            starts[place] = total + items[place].start
        parts.append(frames)
        total += len(frames)
    return torch.cat(parts), starts, np.array([item.stop - item.start for item in items])


def _check_item(item, norms):
    """Refuse an item that its utterance, whose frames have these lengths, does not fit."""
    if not 0 <= item.start < item.stop <= len(norms):
        raise ValueError(
            f"An item of {item.utterance} has the frames from {item.start} to {item.stop}, but the "
            f"utterance has {len(norms)}: are alignments and features of the same audio, at the "
            "same rate?"
        )
    if item.stop - item.start > MAX_FRAMES:
        raise ValueError(
            f"An item of {item.utterance} has {item.stop - item.start} frames, more than the "
            f"{MAX_FRAMES} that one may have."
        )
    own = norms[item.start : item.stop]
    bad = ~(own.isfinite() & (own > 0))
    if bad.any():
        place = int(bad.nonzero()[0])
        raise ValueError(
            f"Frame {item.start + place} of {item.utterance} has length {float(own[place])}: no "
            "angle to it is defined."
        )


def dtw(first, second, distance):
    """Return the distance of pairs of stretches, as `abx` defines it.

    Arguments
    ---------
    first, second : torch.Tensor
        Shapes (pairs, n, dim) and (pairs, m, dim), float64, frames of length 1; n and m at most
        512.
    distance : str
        Of frames: "cosine" or "angular".

    Returns
    -------
    torch.Tensor
        Shape (pairs,), float64, in [0, 2] or [0, 1].

    Example
    -------
    >>> x, y = torch.eye(2, dtype=torch.float64)
    >>> dtw(torch.stack([x, x, y])[None], torch.stack([x, y, x])[None], "cosine")
    tensor([0.2500], dtype=torch.float64)
    """
    if first.shape[1] > second.shape[1]:
        first, second = second, first
    cosines = torch.bmm(first, second.transpose(1, 2)).permute(1, 2, 0).contiguous()
    # Rounded before the arc cosine too, whose slope at 1 has no bound.
    cosines.mul_(GRID).round_().div_(GRID).clamp_(-1, 1)
    costs = 1 - cosines if distance == "cosine" else cosines.acos_().div_(math.pi)
    # A whole number holds the cost and, in its lowest bits, the length: one minimum minds both.
    steps = costs.mul_(GRID).round_().long().mul_(2**LENGTH_BITS).add_(1)
    totals = _cheapest_paths(steps)
    lengths = totals % 2**LENGTH_BITS
    return (totals // 2**LENGTH_BITS).double() / GRID / lengths


def _cheapest_paths(steps):
    """Return the least sum of steps (n, m, pairs) over paths from corner to corner, n <= m."""
    n, m, pairs = steps.shape
    flat = steps.view(n * m, pairs)
    # Sums on an antidiagonal by row, after one for no row; what is not reached is FAR.
    last, before, here = (torch.full((n + 1, pairs), FAR) for _ in range(3))
    last[1] = flat[0]
    for column in range(1, n + m - 1):  # of the antidiagonal in row 0
        low, high = max(0, column - m + 1), min(n, column + 1)
        sums = here[low + 1 : high + 1]
        torch.minimum(last[low:high], last[low + 1 : high + 1], out=sums)
        torch.minimum(sums, before[low:high], out=sums)
        sums += flat[column + low * (m - 1) : column + (high - 1) * (m - 1) + 1 : max(m - 1, 1)]
        last, before, here = here, last, before
    return last[n]


def _cell_error(to_a, to_b, within):
    """Return the error of distances (X, A) and (X, B), and how many triples there are."""
    if within:
        to_a = to_a[~np.eye(len(to_a), dtype=bool)].reshape(len(to_a), -1)
    to_a, to_b = to_a[:, :, None], to_b[:, None, :]
    wrong, equal = np.count_nonzero(to_a > to_b), np.count_nonzero(to_a == to_b)
    triples = to_a.size * to_b.shape[2]
    return (wrong + 0.5 * equal) / triples, triples


def _average(cells, errors, counts):
    """Return the result of `abx` from the error and the number of triples of each cell."""
    phones = [(a[1], b[1]) for a, b, _ in cells]
    pairs, rows = np.unique(phones, axis=0, return_inverse=True)
    speakers, columns = np.unique([a[2] for a, _, _ in cells], return_inverse=True)
    rows = rows.ravel()  # numpy 2.0 gives it two dimensions
    sums, sizes = np.zeros((2, len(pairs), len(speakers)))
    np.add.at(sums, (rows, columns), errors)
    np.add.at(sizes, (rows, columns), 1)
    values = np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=sizes > 0)
    return {
        "error": float(np.nanmean(values, axis=1).mean()),
        "num_triples": int(counts.sum()),
        "speakers": speakers,
        "speaker_errors": np.nanmean(values, axis=0),
    }
