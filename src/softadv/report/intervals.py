"""Plots of estimates: means with intervals above an axis, with the zero line and the claimed range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from softadv._decimals import decimal
from softadv.claims.stats import Estimate
from softadv.experiments.spec_text import DOMAIN_TITLES
from softadv.report.figures.svg import LETTER, AxisScale, Panel, around, hit, shortened, tag, text, tick_text
from softadv.report.words import capital, in_words

_ROW = 33.0  # pixels of an estimate: its name and its mean, and the interval below
_HEAD = 18.0  # of a heading
_AXIS = 24.0
_SIDE = 10.0

Limits = tuple[float, float]


def shared_scale(estimates: Sequence[Estimate]) -> Limits:
    """The ends of an axis for these estimates: all that is finite of them, and zero for differences."""
    shown = [e.mean for e in estimates]
    shown += [end for e in estimates for end in (e.low, e.high, *(e.claimed or ())) if end is not None]
    if any(e.unit == "points" for e in estimates):
        shown.append(0.0)
    return around(shown, room=0.06, least=1.0)


def kind_of(estimate: Estimate) -> tuple[str, str]:
    """What an estimate is compared with on one scale: its unit, and what its label says it is a difference of."""
    name, quantity = _parts(estimate)
    if " to " in name:
        return estimate.unit, "radii"
    return estimate.unit, "domains" if any(domain in quantity for domain in DOMAIN_TITLES) else "methods"


def interval_plot(
    estimates: Sequence[Estimate],
    *,
    limits: Limits,
    words: Mapping[str, str],
    names: Sequence[str] | None = None,
    title: str = "",
) -> str:
    """One plot, as SVG, of estimates that share their unit and their scale.

    limits: the ends of the axis, which other plots share. words: what the settings are called. names: of the
    estimates, else their labels say them, with a heading for each quantity. title: stands above all.
    """
    panel = Panel("", left=_SIDE, right=_SIDE, top=0, bottom=_AXIS)
    x, unit = panel.across(*limits), estimates[0].unit
    rows, y, heading = list[Callable[[], None]](), 2.0, ""
    if title:
        panel.title(title)
        y += _HEAD
    for place, estimate in enumerate(estimates):
        name, quantity = (in_words(part, words) for part in _parts(estimate))
        name = _step(name)
        if names is not None:
            name = names[place]
        elif quantity != heading:
            rows.append(_heading(panel, quantity, y))
            y, heading = y + _HEAD, quantity
        rows.append(_row(panel, estimate, x, y, name=name))
        y += _ROW
    panel.height = y + _AXIS
    for draw in rows:
        draw()
    _axis(panel, x, y, unit)
    panel.said = "; ".join(f"{in_words(e.label, words)}: {amount_text(e)}" for e in estimates)
    return panel.svg()


def _heading(panel: Panel, quantity: str, y: float) -> Callable[[], None]:
    return lambda: panel.add(text(shortened(capital(quantity), panel.width - 2), 0, y + 12, class_="soft small"))


def _row(panel: Panel, found: Estimate, x: AxisScale, y: float, *, name: str) -> Callable[[], None]:
    def draw() -> None:
        line = y + _ROW - 9
        if x.low <= 0 <= x.high:
            panel.add(tag("line", x1=x(0.0), x2=x(0.0), y1=line - 8, y2=line + 9, class_="zero dotted"))
        if found.claimed is not None:
            ends = [x.start - _SIDE if math.isinf(found.claimed[0]) else x(found.claimed[0]),
                    x.end + _SIDE if math.isinf(found.claimed[1]) else x(found.claimed[1])]  # fmt: skip
            width = max(ends[1] - ends[0], 1.0)
            panel.add(tag("rect", x=ends[0], y=line - 6, width=width, height=12, class_="claimed"))
        if found.low is not None and found.high is not None:
            low, high = x(found.low), x(found.high)
            panel.add(tag("path", d=f"M{low:g} {line:g}H{high:g}M{low:g} {line - 4:g}v8M{high:g} {line - 4:g}v8",
                          class_="range"))  # fmt: skip
        panel.add(tag("circle", cx=x(found.mean), cy=line, r=4, class_="point"))
        if name:
            mean = _amount(found.mean, found.unit)
            panel.add(text(shortened(name, panel.width - LETTER * (len(mean) + 2)), 0, y + 11))
            panel.add(text(mean, panel.width, y + 11, anchor="end"))
        said = f"{name + ': ' if name else ''}{amount_text(found)}"
        panel.add(hit(said, 0, y, panel.width, _ROW))

    return draw


def _axis(panel: Panel, x: AxisScale, y: float, unit: str) -> None:
    panel.add(tag("line", x1=0, x2=panel.width, y1=y, y2=y, class_="axis"))
    ticks = x.ticks(5)
    named = 0.0 if 0.0 in ticks else ticks[len(ticks) // 2]  # the tick that says the unit
    for value in ticks:
        panel.add(tag("line", x1=x(value), x2=x(value), y1=y, y2=y + 4, class_="axis"))
        said = ("+" if unit == "points" and value > 0 else "") + tick_text(value) + ("%" if unit == "%" else "")
        said += f" {unit}" if value == named and unit != "%" else ""
        half = LETTER * len(said) / 2
        at = min(max(x(value), half), panel.width - half)
        panel.add(text(said, at, y + 16, anchor="middle", class_="soft small"))


def _step(name: str) -> str:
    """ "CIFAR-10, ε 4/255 to CIFAR-10, ε 8/255" as "CIFAR-10, ε 4/255 to 8/255"; a setting minus its base likewise."""
    varied, _, base = name.partition(" \N{MINUS SIGN} ")
    if base and varied.startswith(f"{base}, "):
        return f"{base}: {varied.removeprefix(f'{base}, ')} \N{MINUS SIGN} base"
    one, to, other = name.partition(" to ")
    shared = one[: one.rfind("ε ") + 2] if "ε " in one else ""
    return f"{one} to {other.removeprefix(shared)}" if to else name


def _parts(estimate: Estimate) -> tuple[str, str]:
    """What it was measured on, and what was measured: a label is as a rule "setting: quantity"."""
    name, colon, quantity = estimate.label.partition(": ")
    return (name, quantity) if colon else ("", name)


def amount_text(estimate: Estimate) -> str:
    """An estimate in words: "+1.62 points (+1.10 to +2.14), 5 seeds"."""
    said = f"{_amount(estimate.mean, estimate.unit)} {estimate.unit}".replace(" %", "%")
    ends = ends_text(estimate)
    return f"{said}{f' ({ends})' if ends else ''}, {estimate.seeds} seed{'s' * (estimate.seeds != 1)}"


def ends_text(estimate: Estimate) -> str:
    """The interval in words: "+1.10 to +2.14"; "" where one seed gives none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{_amount(estimate.low, estimate.unit)} to {_amount(estimate.high, estimate.unit)}"


def signed(value: float) -> str:
    """A difference in points with its sign and two decimals."""
    return decimal(value, sign=True).replace("-", "\N{MINUS SIGN}")


def _amount(value: float, unit: str) -> str:
    return signed(value) if unit == "points" else decimal(value).replace("-", "\N{MINUS SIGN}")


def in_range(claimed: Limits, *, unit: str) -> str:
    """A range in words, such as "up to 2"; whether its ends count is not said."""
    if all(map(math.isinf, claimed)):
        return ""
    low, high = (_short(end, unit) for end in claimed)
    if math.isinf(claimed[1]):
        return f"from {low} up"
    return f"up to {high}" if math.isinf(claimed[0]) else f"{low} to {high}"


def _short(value: float, unit: str) -> str:
    text = f"{value:+g}" if unit == "points" and value else f"{value:g}"
    return text.replace("-", "\N{MINUS SIGN}") + ("%" if unit == "%" else "")
