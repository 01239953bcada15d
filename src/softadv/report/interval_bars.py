"""Estimates as small bars with their text: where the point, the interval and the claimed range lie on a scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from softadv._decimals import decimal
from softadv.claims.stats import Estimate

WIDTH, HEIGHT = 160.0, 18.0  # of a bar, in the units of its SVG
_MARGIN = 6.0  # room for the point at either end
_LEAST_SPAN = 1.0  # points or %: a narrower scale would make much of little


@dataclass(frozen=True, kw_only=True)
class Bar:
    """An estimate and its places on a scale from 0 to WIDTH."""

    estimate: Estimate
    name: str  # of what it was measured on: a setting, as a rule
    text: str  # "+1.62 points (+1.10 to +2.14)"
    seeds: str
    point: float
    ends: tuple[float, float] | None  # of the interval; None from one seed
    claimed: tuple[float, float] | None
    zero: float | None  # where it is on the scale


@dataclass(frozen=True, kw_only=True)
class BarGroup:
    """Estimates of one quantity, on one scale."""

    quantity: str
    claimed: str  # the range in which the claim holds, in words; empty where the claim says nothing of it
    bars: tuple[Bar, ...]


def bar_groups(estimates: Sequence[Estimate]) -> list[BarGroup]:
    """The estimates of a verdict, by what was measured; a label is as a rule "setting: quantity"."""
    together: dict[tuple[str, str, tuple[float, float] | None], list[Estimate]] = {}
    for estimate in estimates:
        _, quantity = _parts(estimate)
        together.setdefault((quantity, estimate.unit, estimate.claimed), []).append(estimate)
    return [
        BarGroup(
            quantity=quantity,
            claimed="" if claimed is None else in_range(claimed, unit=unit),
            bars=tuple(bar for bar in bars(same) if bar is not None),
        )
        for (quantity, unit, claimed), same in together.items()
    ]


def _parts(estimate: Estimate) -> tuple[str, str]:
    """What it was measured on, and what was measured."""
    name, colon, quantity = estimate.label.partition(": ")
    return (name, quantity) if colon else ("", name)


def bars(estimates: Sequence[Estimate | None]) -> list[Bar | None]:
    """A bar for each estimate; those of the same unit share their scale."""
    there = [estimate for estimate in estimates if estimate is not None]
    scales = {unit: _scale([e for e in there if e.unit == unit]) for unit in {e.unit for e in there}}
    return [None if estimate is None else _bar(estimate, scales[estimate.unit]) for estimate in estimates]


def _scale(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """From where to where a scale goes: all that is finite, and zero for differences."""
    shown = [e.mean for e in estimates]
    shown += [end for e in estimates for end in (e.low, e.high, *(e.claimed or ())) if end is not None]
    if any(e.unit == "points" for e in estimates):
        shown.append(0.0)
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    room = max(0.06 * (high - low), (_LEAST_SPAN - (high - low)) / 2)
    return low - room, high + room


def _bar(estimate: Estimate, scale: tuple[float, float]) -> Bar:
    low, high = scale

    def place(value: float) -> float:
        share = min(max((value - low) / (high - low), 0.0), 1.0)  # an infinite end is at the edge
        return round(_MARGIN + share * (WIDTH - 2 * _MARGIN), 2)

    ends = None
    if estimate.low is not None and estimate.high is not None:
        ends = place(estimate.low), place(estimate.high)
    claimed = None
    if estimate.claimed is not None:
        first, last = estimate.claimed
        claimed = 0.0 if math.isinf(first) else place(first), WIDTH if math.isinf(last) else place(last)
    zero = place(0.0) if low <= 0 <= high else None
    return Bar(
        estimate=estimate,
        name=_parts(estimate)[0],
        text=_text(estimate),
        seeds=f"{estimate.seeds} seed{'s' if estimate.seeds != 1 else ''}",
        point=place(estimate.mean),
        ends=ends,
        claimed=claimed,
        zero=zero,
    )


def _text(estimate: Estimate) -> str:
    unit = estimate.unit
    text = f"{_amount(estimate.mean, unit)} {unit}".replace(" %", "%")
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({_amount(estimate.low, unit)} to {_amount(estimate.high, unit)})"


def signed(value: float) -> str:
    """A difference in points with its sign and two decimals."""
    return decimal(value, sign=True).replace("-", "\N{MINUS SIGN}")


def _amount(value: float, unit: str) -> str:
    return signed(value) if unit == "points" else decimal(value).replace("-", "\N{MINUS SIGN}")


def in_range(claimed: tuple[float, float], *, unit: str) -> str:
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
