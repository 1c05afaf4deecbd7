"""Elements of HTML and SVG whose text is escaped, and plots that are drawn with them."""

import html
from collections.abc import Callable
from dataclasses import dataclass, field

from matplotlib.ticker import MaxNLocator

VOID = ("meta",)  # elements without an end tag
# By name: the way of the pen from a mark's centre, the width of its line and the line's ends.
SHAPES = {
    "circle": ("h0", 8, "round"),
    "square": ("m-3.5-3.5h7v7h-7z", 0, "butt"),
    "triangle": ("m0-5.5l5 9h-10z", 0, "butt"),
    "diamond": ("m0-5.5l5.5 5.5-5.5 5.5-5.5-5.5z", 0, "butt"),
    "down": ("m0 5.5l5-9h-10z", 0, "butt"),
    "plus": ("m-5 0h10m-5-5v10", 2.5, "butt"),
    "cross": ("m-4-4l8 8m0-8l-8 8", 2.5, "butt"),
    "ring": ("m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z", 1.5, "butt"),
    "right": ("m-3-5l8 5-8 5z", 0, "butt"),
    "left": ("m3-5l-8 5 8 5z", 0, "butt"),
}
HOLLOW = ("plus", "cross", "ring")
RULE, GRID = "#7b838d", "#e6e9ed"
RIGHT, BOTTOM = 14, 40  # margins of a panel, in pixels
TOP, LEFT = {True: 26, False: 6}, {True: 40, False: 12}  # with and without label and ticks


class Markup(str):
    """Text that is markup: `element` does not escape it."""

    __slots__ = ()


def element(tag, *children, **attributes):
    """Return an element of HTML or SVG.

    Arguments
    ---------
    tag : str
        Its name.
    *children : Markup or object
        What it holds. All but Markup is turned into text and escaped.
    **attributes : object
        None is left out, numbers are rounded to a tenth. An underscore at the end of a name is
        dropped, others are hyphens.

    Returns
    -------
    Markup

    Example
    -------
    >>> element("p", "a < b", element("b", 2), class_="note", id=None)
    '<p class="note">a &lt; b<b>2</b></p>'
    """
    pairs = [
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    ]
    start = f"<{tag}{''.join(pairs)}>"
    return Markup(start if tag in VOID else f"{start}{joined(*children)}</{tag}>")


def joined(*children):
    """Return children, as `element` takes them, one after another.

    Example
    -------
    >>> joined("a & b", element("b", "c"))
    'a &amp; b<b>c</b>'
    """
    return Markup("".join(c if isinstance(c, Markup) else html.escape(str(c)) for c in children))


def listed(entries, class_=None):
    """Return a list of entries.

    Example
    -------
    >>> listed(["a", "b"], class_="key")
    '<ul class="key"><li>a</li><li>b</li></ul>'
    """
    return element("ul", *(element("li", entry) for entry in entries), class_=class_)


def under(text, small):
    """Return a text with a small one below it, if there is any.

    Example
    -------
    >>> under("EER", ""), under("EER", "%")
    ('EER', 'EER<small>%</small>')
    """
    return joined(text, element("small", small)) if small else text


def scrolling(table, label):
    """Return a table in a box that scrolls sideways where the page is narrow; a label names it.

    Example
    -------
    >>> scrolling(element("table"), "Figures").count("aria-label")
    1
    """
    return element("div", table, class_="scroll", role="region", aria_label=label, tabindex=0)


def captioned(caption, *drawing):
    """Return a figure with a caption above it.

    Example
    -------
    >>> captioned("EER", "12 %")
    '<figure><figcaption>EER</figcaption>12 %</figure>'
    """
    return element("figure", element("figcaption", caption), *drawing)


def _plain(value):
    """Return an attribute's text."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Look:
    """How a thing is drawn wherever it appears: a colour, dashes (or None) and one of `SHAPES`."""

    colour: str
    dash: str | None
    shape: str


@dataclass(frozen=True)
class Axis:
    """An axis of a plot.

    Arguments
    ---------
    label : str
        What it shows, and the unit.
    low, high : float
        Its ends.
    ticks : dict
        The text at each value that is marked.
    warp : callable
        A rising function; what it returns is spread evenly.
    reverse : bool
        Whether high is to the left, or at the bottom.

    Example
    -------
    >>> Axis("layer", 0, 4).place(1), Axis("layer", 0, 4, reverse=True).place(9)
    (0.25, 0.0)
    """

    label: str
    low: float
    high: float
    ticks: dict = field(default_factory=dict)
    warp: Callable = float
    reverse: bool = False

    def place(self, value):
        """Return where a value is between the ends, in [0, 1]; values beyond are at the ends."""
        low, high = self.warp(self.low), self.warp(self.high)
        share = (self.warp(min(max(value, self.low), self.high)) - low) / (high - low)
        return 1 - share if self.reverse else share


def round_axis(label, values, scale=1, reverse=False):
    """Return an axis with round ticks that holds all values.

    Arguments
    ---------
    label : str
        What it shows.
    values : iterable of float
        What is to fit in.
    scale : float
        Ticks show values times this: 100 for per cent.
    reverse : bool
        As `Axis` takes it.

    Returns
    -------
    Axis

    Example
    -------
    >>> axis = round_axis("error, %", [0.031, 0.38], scale=100)
    >>> axis.low, axis.high, list(axis.ticks.values())
    (0.0, 0.4, ['0', '10', '20', '30', '40'])
    """
    values = [scale * value for value in values]
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(min(values), max(values))
    texts = {float(tick) / scale: f"{tick + 0.0:.6g}".replace("-", "\u2212") for tick in ticks}
    return Axis(label, min(texts), max(texts), texts, reverse=reverse)


def marks(points, shape, colour):
    """Return marks of one shape and colour, as a single path.

    Arguments
    ---------
    points : iterable of (float, float)
        Centres, in pixels.
    shape : str
        One of `SHAPES`; each is about 9 pixels wide.
    colour : str
        Its colour.

    Returns
    -------
    Markup

    Example
    -------
    >>> marks([(1, 2), (3, 4.25)], "circle", "#000000").split('"')[1]
    'M1 2h0M3 4.2h0'
    """
    way, width, ends = SHAPES[shape]
    return element(
        "path",
        d="".join(f"M{_plain(float(x))} {_plain(float(y))}{way}" for x, y in points),
        fill="none" if shape in HOLLOW else colour,
        stroke=colour,
        stroke_width=width,
        stroke_linecap=ends,
    )


def swatch(look):
    """Return a small drawing of a look, for the key of a figure.

    Example
    -------
    >>> swatch(Look("#0072B2", "6 3", "circle")).count("<path")
    2
    """
    line = element(
        "path", d="M1 7h30", stroke=look.colour, stroke_width=2, stroke_dasharray=look.dash
    )
    mark = marks([(16, 7)], look.shape, look.colour)
    return element("svg", line, mark, class_="swatch", viewBox="0 0 32 14", aria_hidden="true")


def dot(look):
    """Return a look's mark alone, for the key of a figure.

    Example
    -------
    >>> dot(Look("#0072B2", None, "circle")).count("<path")
    1
    """
    mark = marks([(7, 7)], look.shape, look.colour)
    return element("svg", mark, class_="dot", viewBox="0 0 14 14", aria_hidden="true")


class Panel:
    """A plot with two axes. What is added later is drawn on top.

    Arguments
    ---------
    title : str
        What is read out, or shown under a pointer, in the drawing's place.
    x, y : Axis
        The axes.
    width, height : float
        Size in pixels of all, of which CSS may make another.

    Example
    -------
    >>> panel = Panel("Errors fall", Axis("layer", 0, 4), Axis("error, %", 0, 100))
    >>> panel.line([(0, 80), (4, 20)], Look("#0072B2", None, "circle"))
    >>> panel.draw().count("<svg")
    1
    """

    def __init__(self, title, x, y, width=340, height=250):
        self.title, self.x, self.y, self.width, self.height = title, x, y, width, height
        self.top, self.left = TOP[bool(y.label)], LEFT[bool(y.ticks)]
        self.parts = []

    def at(self, x, y):
        """Return where a pair of values is, in pixels from the left and from the top."""
        width, height = self.width - self.left - RIGHT, self.height - self.top - BOTTOM
        return self.left + width * self.x.place(x), self.top + height * (1 - self.y.place(y))

    def line(self, points, look, width=2):
        """Add a line through points, in the colour and the dashes of a look."""
        self.parts.append(
            element(
                "path",
                d=_way(self.at(*point) for point in points),
                fill="none",
                stroke=look.colour,
                stroke_width=width,
                stroke_dasharray=look.dash,
                stroke_linejoin="round",
            )
        )

    def band(self, x, intervals, colour):
        """Add what lies between the ends, (low, high), of an interval at each x."""
        lows = [(place, low) for place, (low, _) in zip(x, intervals, strict=True)]
        highs = [(place, high) for place, (_, high) in zip(x, intervals, strict=True)]
        way = _way(self.at(*point) for point in lows + highs[::-1])
        self.parts.append(element("path", d=way + "z", fill=colour, fill_opacity="0.15"))

    def mark(self, points, look):
        """Add a look's mark at points."""
        self.parts.append(marks([self.at(*point) for point in points], look.shape, look.colour))

    def text(self, x, y, text, **attributes):
        """Add text at a place in pixels."""
        self.parts.append(element("text", text, x=float(x), y=float(y), **attributes))

    def draw(self):
        """Return the plot, as Markup."""
        title = element("title", self.title)
        view = f"0 0 {self.width} {self.height}"
        parts = [title, *self._frame(), *self.parts]
        most = f"max-width:{1.25 * self.width:.0f}px"
        return element("svg", *parts, viewBox=view, role="img", style=most)

    def _frame(self):
        """Yield the grid, the ticks and the labels of the axes."""
        left, bottom = self.at(*(a.high if a.reverse else a.low for a in (self.x, self.y)))
        right, top = self.at(*(a.low if a.reverse else a.high for a in (self.x, self.y)))
        grid = ""
        for value, text in self.x.ticks.items():
            x, _ = self.at(value, self.y.low)
            grid += f"M{x:.1f} {top:.1f}V{bottom:.1f}"
            yield element("text", text, x=x, y=bottom + 15, text_anchor="middle")
        for value, text in self.y.ticks.items():
            _, y = self.at(self.x.low, value)
            grid += f"M{left:.1f} {y:.1f}H{right:.1f}"
            yield element("text", text, x=left - 6, y=y + 4, text_anchor="end")
        yield element("path", d=grid, stroke=GRID, fill="none")
        yield element("path", d=f"M{left} {bottom}H{right}", stroke=RULE)
        yield element("text", self.y.label, x=2, y=12, class_="label")
        yield element(
            "text", self.x.label, x=right, y=self.height - 7, text_anchor="end", class_="label"
        )


def _way(points):
    """Return the way of a pen along points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
