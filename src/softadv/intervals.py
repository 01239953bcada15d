"""Estimates as small bars with their text: where the point, the interval and the claimed range lie on a scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from softadv.estimates import Estimate

WIDTH, HEIGHT = 160.0, 18.0  # of a bar, in the units of its SVG
_MARGIN = 6.0  # room for the point at either end
_LEAST_SPAN = 1.0  # points or %: a narrower scale would make much of little


@dataclass(frozen=True, kw_only=True)
class Bar:
    """An estimate and its places on a scale from 0 to WIDTH."""

    estimate: Estimate
    text: str
    point: float
    ends: tuple[float, float] | None  # of the interval; None from one seed
    claimed: tuple[float, float] | None
    zero: float | None  # where it is on the scale


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
        estimate=estimate, text=text_of(estimate), point=place(estimate.mean), ends=ends, claimed=claimed, zero=zero
    )


def text_of(estimate: Estimate) -> str:
    """The figures of an estimate in words: "+1.62 points (+1.10 to +2.14), 5 seeds; claimed: above 0"."""
    text = f"{_amount(estimate.mean, estimate.unit)} {estimate.unit}".replace(" %", "%")
    if estimate.low is not None and estimate.high is not None:
        text += f" ({_amount(estimate.low, estimate.unit)} to {_amount(estimate.high, estimate.unit)})"
    text += f", {estimate.seeds} seeds" if estimate.seeds != 1 else ", 1 seed"
    if estimate.claimed is not None and not all(map(math.isinf, estimate.claimed)):
        text += f"; claimed: {_range(estimate.claimed, estimate.unit)}"
    return text


def signed(value: float) -> str:
    """A difference in points with its sign and two decimals."""
    text = f"{value:+.2f}"
    return ("0.00" if float(text) == 0 else text).replace("-", "\N{MINUS SIGN}")


def _amount(value: float, unit: str) -> str:
    return signed(value) if unit == "points" else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _range(claimed: tuple[float, float], unit: str) -> str:
    low, high = (_short(end, unit) for end in claimed)
    if math.isinf(claimed[1]):
        return f"at least {low}"
    return f"at most {high}" if math.isinf(claimed[0]) else f"{low} to {high}"


def _short(value: float, unit: str) -> str:
    text = f"{value:+g}" if unit == "points" and value else f"{value:g}"
    return text.replace("-", "\N{MINUS SIGN}") + ("%" if unit == "%" else "")
