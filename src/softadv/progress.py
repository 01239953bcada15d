"""How running code says what it is doing and how much of it is done."""

from __future__ import annotations

from collections.abc import Callable

# Told what is running, and how much more work has been done, in attack steps on one image.
Report = Callable[[str, float], None]

# Rough costs of one image, in attack steps on it: they steer the time that is said to be left.
UPDATE_COST = 4
CERTIFICATION_COST = {"deeppoly": 250, "deepzono": 250, "box": 4}


def stage(report: Report, what: str, *, cost: float) -> Callable[[int], None]:
    """A callback that takes the number of images done so far, and reports the work since the last call."""
    seen = 0

    def done(count: int) -> None:
        nonlocal seen
        report(what, cost * (count - seen))
        seen = count

    return done
