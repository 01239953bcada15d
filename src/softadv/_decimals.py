"""Formatting of numbers in the terminal, the report and the documents, with one rule of rounding."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal


def decimal(value: float, *, places: int = 2, sign: bool = False) -> str:
    """A number with `places` decimals, halves rounded away from zero. sign: write a plus, too. Never "-0.00".

    The value is first rounded to nine decimals: accuracies are quotients of whole numbers, and their last bits must
    not decide a half.
    """
    if not math.isfinite(value):
        return f"{value:{'+' if sign else ''}}"
    rounded = Decimal(repr(round(value, 9))).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    return f"{abs(rounded) if rounded == 0 else rounded:{'+' if sign and rounded else ''}f}"


def percent(fraction: float) -> str:
    """A fraction in %, such as "57.87%"."""
    return f"{decimal(100 * fraction)}%"


def spread(fractions: Sequence[float]) -> str:
    """Mean ± sample standard deviation of fractions in %, without the % sign: "57.87 ± 1.00"; for one value, itself.

    Computed from unrounded fractions, since rounding twice can give another last digit.
    """
    percents = [100 * fraction for fraction in fractions]
    deviation = f" ± {decimal(statistics.stdev(percents))}" if len(percents) > 1 else ""
    return decimal(statistics.fmean(percents)) + deviation
