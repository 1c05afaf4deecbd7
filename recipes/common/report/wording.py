"""How the numbers and the measures of a report are written."""

from recipes.common.evaluation.verdict import UNITS

NONE = "\u2013"


def number(value, unit):
    """Return a value as text; shares, of which the unit is "%", in per cent.

    Example
    -------
    >>> number(0.1234, "%"), number(-0.7099, "nats"), number(0.417, ""), number(None, "%")
    ('12.3\\xa0%', '\u22120.71\\xa0nats', '0.42', '\u2013')
    """
    if value is None:
        return NONE
    value, decimals = (100 * value, 1) if unit == "%" else (value, 2)
    if unit not in ("%", ""):
        decimals = sum(abs(value) < limit for limit in (99.5, 9.95, 0.0995))
    text = f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "\u2212")
    return f"{text}\u00a0{unit}" if unit else text


def bare(value, unit):
    """Return a value as `number` does, without the unit.

    Example
    -------
    >>> bare(0.1234, "%")
    '12.3'
    """
    return number(value, unit).removesuffix(unit).rstrip("\u00a0")


def signed(value, unit):
    """Return a difference as `number` does, with its sign.

    Example
    -------
    >>> signed(0.1234, "%"), signed(-0.1234, "%")
    ('+12.3\\xa0%', '\u221212.3\\xa0%')
    """
    return ("+" if value is not None and value > 0 else "") + number(value, unit)


def span(interval, unit):
    """Return an interval as text, without the unit.

    Example
    -------
    >>> span([0.1, 0.25], "%"), span(None, "%")
    ('10.0\\xa0to\\xa025.0', '\u2013')
    """
    return "\u00a0to\u00a0".join(bare(end, unit) for end in interval) if interval else NONE


def unit_of(measure):
    """Return the unit of a measure of which only the name is told.

    Example
    -------
    >>> unit_of("EER"), unit_of("CLUB")
    ('%', 'nats')
    """
    return UNITS.get(measure, "%")


def named(measure, *more):
    """Return the name of a measure, and its unit or its probe if there is one.

    Example
    -------
    >>> named("EER", "%"), named("R2", "", None)
    ('EER, %', 'R\u00b2')
    """
    return ", ".join(["R\u00b2" if measure == "R2" else measure, *filter(None, more)])


def is_error(measure):
    """Return whether a measure is the lower, the more is told.

    Example
    -------
    >>> is_error("ABX error within, cosine"), is_error("R2")
    (True, False)
    """
    return "EER" in measure or "error" in measure
