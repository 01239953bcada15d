"""How figures are written, in the terminal, the report and the documents alike: by one rule of rounding."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal


def decimal(value: float, *, places: int = 2, sign: bool = False) -> str:
    """A number with so many decimals, a half rounded away from zero; sign: also a plus. Never "-0.00".

    Halves are those of the ninth decimal: accuracies are quotients of whole numbers, whose last bits are no figures.
    """
    if not math.isfinite(value):
        return f"{value:{'+' if sign else ''}}"
    rounded = Decimal(repr(round(value, 9))).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    return f"{abs(rounded) if rounded == 0 else rounded:{'+' if sign and rounded else ''}f}"


def percent(fraction: float) -> str:
    """A fraction in %, such as "57.87%"."""
    return f"{decimal(100 * fraction)}%"


def spread(fractions: Sequence[float]) -> str:
    """Mean ± sample deviation of fractions in %, without the sign: "57.87 ± 1.00"; the mean alone of one.

    From the fractions themselves: rounded twice, 1.595007 is 1.59 by way of 1.595.
    """
    percents = [100 * fraction for fraction in fractions]
    deviation = f" ± {decimal(statistics.stdev(percents))}" if len(percents) > 1 else ""
    return decimal(statistics.fmean(percents)) + deviation
