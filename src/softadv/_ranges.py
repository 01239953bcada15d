"""Checks of numbers and their ranges, shared by the library, grid files and commands.

Every check raises SoftadvError with one short line that shows the value; long values are cut.
"""

from __future__ import annotations

import math
import numbers
import re

from softadv.errors import SoftadvError

# The smallest and the largest pixel value.
Clip = tuple[float, float]
UNIT: Clip = (0.0, 1.0)

# More than anyone can wait for; the attack kernel counts steps in 32 bits.
MOST_STEPS = MOST_EPOCHS = 10**6
# The seeds that every generator takes, Torchattacks' too.
MOST_SEED = 2**31 - 1
# Of images, and of what is counted in images.
MOST_IMAGES = 2**31 - 1
# Of seeds that one command runs: more trials than a folder can well hold.
MOST_SEEDS = 10**4

_LONGEST = 60
_LEVELS = 255  # steps of 8 bits from black to white: papers give radii as so many of them
_FRACTION = re.compile(r"([+-]?\d{1,15})/(\d{1,15})")


def number(value: object, *, key: str) -> float:
    """A finite number, or a text with one or with a fraction such as "8/255", as a float."""
    if isinstance(value, str):
        text = value.replace(" ", "")
        fraction = _FRACTION.fullmatch(text)
        if fraction and int(fraction[2]):
            # Both are below 2**53, so the quotient is rounded only once.
            return int(fraction[1]) / int(fraction[2])
        found = _plain(text)
    else:
        found = _real(value)
    if found is None or not math.isfinite(found):
        raise SoftadvError(f"{key}: expected a number or a fraction such as 8/255, got {shown(value)}")
    return found


def check_radius(value: object, *, key: str = "eps", clip: Clip = UNIT) -> float:
    """A radius or a step size, in the units of the pixels: from 0 to the width of their range.

    value: a number, or a tensor or array with one and no dimension.
    """
    dimensions = getattr(value, "ndim", 0)
    if dimensions:
        raise SoftadvError(f"{key}: one number for all pixels is expected, got a tensor of {dimensions} dimensions")
    found = check_real(value.item() if hasattr(value, "item") else value, key=key)
    if not 0 <= found < math.inf:
        raise SoftadvError(f"{key}: must be 0 or more and finite, got {shown(value)}")
    if found > clip[1] - clip[0]:
        levels = clip == UNIT and found <= _LEVELS and found == int(found)
        hint = f"; did you mean {found:g}/{_LEVELS}?" if levels else ""
        raise SoftadvError(
            f"{key}: {found:g} is more than the width of the pixels' range [{clip[0]:g}, {clip[1]:g}]{hint}"
        )
    return found


def check_real(value: object, *, key: str) -> float:
    """A real number of any kind as a float; NaN and infinity are numbers here."""
    found = _real(value)
    if found is None:
        raise SoftadvError(f"{key}: expected a number, got {shown(value)}")
    return found


def check_clip(clip: object) -> Clip:
    """The range of the pixels: two numbers, the lower one first; infinity is one here."""
    pair = [_real(value) for value in clip] if isinstance(clip, tuple | list) else []
    if len(pair) != 2 or pair[0] is None or pair[1] is None or not pair[0] < pair[1]:
        raise SoftadvError(f"clip: expected the lowest and the highest pixel, such as (0.0, 1.0), got {shown(clip)}")
    return pair[0], pair[1]


def check_count(value: object, *, key: str, least: int = 0, most: int) -> int:
    """A whole number from `least` to `most`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise SoftadvError(f"{key}: expected a whole number, got {shown(value)}")
    count = int(value)
    if count < least:
        raise SoftadvError(f"{key}: must be at least {least}, got {shown(count)}")
    if count > most:
        raise SoftadvError(f"{key}: must be at most {most:,}, got {shown(count)}")
    return count


def shown(value: object) -> str:
    """A value as an error message shows it, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number that has more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _real(value: object) -> float | None:
    """A number of any kind as a float, infinite where it is too large for one; None for what is no number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _plain(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
