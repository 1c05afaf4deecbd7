"""Error rates by one loop for each threshold, in fractions: slow, and plain enough to trust."""

import math
from fractions import Fraction


def slow_rates(scores, labels):
    """Return (threshold, misses, false acceptances) in fractions: one loop for each threshold."""
    targets = [s for s, label in zip(scores, labels, strict=True) if label]
    others = [s for s, label in zip(scores, labels, strict=True) if not label]
    rates = []
    for threshold in [*sorted(set(scores)), math.inf]:
        missed = Fraction(sum(s < threshold for s in targets), len(targets))
        accepted = Fraction(sum(s >= threshold for s in others), len(others))
        rates.append((threshold, missed, accepted))
    return rates


def slow_eer(scores, labels):
    """Return the mean of both rates where they are nearest, and the threshold: the first of all."""
    threshold, missed, accepted = min(slow_rates(scores, labels), key=lambda r: abs(r[1] - r[2]))
    return float((missed + accepted) / 2), threshold
