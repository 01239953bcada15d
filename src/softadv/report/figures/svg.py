"""Panels of a figure as SVG: axes, lines, bands, markers, and labels that keep out of one another's way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from softadv.report.figures.colors import fill, stroke

WIDTH, HEIGHT = 340.0, 246.0  # of a panel, in CSS pixels: what a telephone has room for
LETTER = 6.4  # the width of a letter of a figure's text, on average and generously
LINE = 15.0  # from one line of text to the next
DASHES = ("", "6 3", "2 2.5", "9 3 2 3", "12 4")
MARKERS = ("circle", "square", "diamond", "up", "down", "plus", "left", "right", "cross")

Point = tuple[float, float]


def tag(name: str, *children: str, **attributes: object) -> str:
    """An element. Attributes: None leaves one out, "class_" is "class", an underscore is a hyphen. Children are SVG."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_number(value) if isinstance(value, float) else escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(children)}</{name}>" if children else f"<{name}{written}/>"


def text(content: str, x: float, y: float, *, anchor: str | None = None, class_: str | None = None) -> str:
    """A line of text that begins at (x, y), or ends or has its middle there; y is its base line."""
    return tag("text", escape(content), x=x, y=y, text_anchor=anchor, class_=class_)


def hit(said: str, x: float, y: float, width: float, height: float) -> str:
    """A place of the panel that says its values when it is pointed at, or reached by the arrow keys."""
    return tag(
        "g", tag("title", escape(said)), tag("rect", x=x, y=y, width=width, height=height), class_="hit"
    )  # fmt: skip


def marker(kind: str, x: float, y: float, size: float, **attributes: object) -> str:
    """One of MARKERS, about twice `size` wide."""
    if kind == "circle":
        return tag("circle", cx=x, cy=y, r=size, **attributes)
    shapes = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "up": [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        "down": [(0, 1.15), (1.1, -0.85), (-1.1, -0.85)],
        "left": [(-1.15, 0), (0.85, 1.1), (0.85, -1.1)],
        "right": [(1.15, 0), (-0.85, 1.1), (-0.85, -1.1)],
    }
    arm = [(-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4), (0.4, 1.2), (-0.4, 1.2),
           (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)]  # fmt: skip
    half = math.sqrt(0.5)
    shapes["plus"], shapes["cross"] = arm, [(half * (a - b), half * (a + b)) for a, b in arm]
    return tag("path", d=path([(x + size * a, y + size * b) for a, b in shapes[kind]]) + "Z", **attributes)


def path(points: Sequence[Point]) -> str:
    """The d of a path through these points."""
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


@dataclass(frozen=True)
class AxisScale:
    """Values from low to high, drawn from `start` to `end` pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies; an infinite one, or one beyond the scale, at its end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 6, *, whole: bool = False) -> list[float]:
        """Round values on the scale, about so many."""
        step = _step((self.high - self.low) / count)
        step = max(round(step), 1) if whole else step
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 10) for index in range(first, last + 1)]


def around(values: Sequence[float], *, room: float = 0.06, least: float = 1.0) -> tuple[float, float]:
    """Limits with some room around the finite values, at least so far apart."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    more = max(room * (high - low), (least - (high - low)) / 2)
    return low - more, high + more


def within_percent(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits of an axis of percentages, without the room below 0 and above 100."""
    return max(limits[0], 0.0), min(limits[1], 100.0)


def apart(places: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """The places moved as little as it takes to be a gap apart, and between low and high where they fit."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved: list[float] = []
    for index in order:
        moved.append(max([places[index], low, *(last + gap for last in moved[-1:])]))
    highest = high
    for rank in reversed(range(len(moved))):  # those that were pushed beyond the end come back
        moved[rank] = min(moved[rank], highest)
        highest = moved[rank] - gap
    found = [0.0] * len(places)
    for rank, index in enumerate(order):
        found[index] = moved[rank]
    return found


def tick_text(value: float) -> str:
    """A number on an axis."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


@dataclass
class Panel:
    """A drawing under way: what is drawn stands in the order in which it is added. Pixels go down and to the right.

    said: what the panel shows, for whom it is read to. unit: ends the labels of the y axis.
    """

    said: str
    width: float = WIDTH
    height: float = HEIGHT
    left: float = 42.0
    right: float = 12.0
    top: float = 42.0
    bottom: float = 36.0
    parts: list[str] = field(default_factory=list)

    def add(self, *parts: str) -> None:
        """Draw on top of what is there."""
        self.parts += parts

    def across(self, low: float, high: float) -> AxisScale:
        """The scale of the x axis."""
        return AxisScale(low, high, self.left, self.width - self.right)

    def upward(self, low: float, high: float) -> AxisScale:
        """The scale of the y axis."""
        return AxisScale(low, high, self.height - self.bottom, self.top)

    def title(self, content: str) -> None:
        """The panel's title, cut where it has no room."""
        self.add(text(shortened(content, self.width - 4), 2, 13, class_="title"))

    def axes(self, x: AxisScale, y: AxisScale, *, x_name: str, y_name: str = "", whole: bool = False) -> None:
        """Both axes with a grid, and their names: that of y above it."""
        foot = self.height - self.bottom
        for value in y.ticks():
            self.add(tag("line", x1=self.left, x2=self.width - self.right, y1=y(value), y2=y(value), class_="thin"))
            self.add(text(tick_text(value), self.left - 6, y(value) + 4, anchor="end", class_="soft small"))
        for value in x.ticks(whole=whole):
            self.add(tag("line", x1=x(value), x2=x(value), y1=foot, y2=foot + 4, class_="axis"))
            self.add(text(tick_text(value), x(value), foot + 16, anchor="middle", class_="soft small"))
        self.add(tag("line", x1=self.left, x2=self.width - self.right, y1=foot, y2=foot, class_="axis"))
        self.add(text(x_name, self.width - self.right, foot + 31, anchor="end", class_="soft small"))
        if y_name:
            self.add(text(y_name, 2, self.top - 13, class_="soft small"))

    def line(self, points: Sequence[Point], color: str, *, dashes: str = "") -> None:
        """A line; of one point, a dot."""
        if len(points) == 1:
            self.add(marker("circle", *points[0], 3.5, class_=fill(color)))
        else:
            self.add(tag("path", d=path(points), class_=f"line {stroke(color)}", stroke_dasharray=dashes or None))

    def shade(self, upper: Sequence[Point], lower: Sequence[Point], color: str) -> None:
        """The area between two lines, lightly."""
        self.add(tag("path", d=path([*upper, *reversed(lower)]) + "Z", class_=f"shade {fill(color)}"))

    def end_labels(self, labels: Sequence[tuple[str, float, str]]) -> None:
        """A label at the end of each line: what it says, the height of the end, and the colour."""
        places = apart([y for _, y, _ in labels], gap=LINE - 1, low=self.top, high=self.height - self.bottom)
        x = self.width - self.right
        for (said, y, color), place in zip(labels, places, strict=True):
            self.add(tag("path", d=path([(x + 1, y), (x + 8, place)]), class_=f"link {stroke(color)}"))
            self.add(text(said, x + 11, place + 4))

    def svg(self) -> str:
        """The panel as an element of a page."""
        return tag(
            "svg",
            *self.parts,
            class_="figure",
            viewBox=f"0 0 {_number(self.width)} {_number(self.height)}",
            role="img",
            aria_label=self.said,
            tabindex=0,
        )


def shortened(content: str, width: float) -> str:
    """A text that fits so many pixels."""
    room = int(width / LETTER)
    return content if len(content) <= room else f"{content[: room - 1].rstrip()}…"


def label_width(labels: Sequence[str]) -> float:
    """The room that labels need at the ends of lines."""
    return 14 + LETTER * max(map(len, labels), default=0)


def _step(least: float) -> float:
    """1, 2 or 5 times a power of ten, at least so large."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _number(value: float) -> str:
    """A coordinate, to a hundredth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"
