"""How running code says what it is doing and how much of it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Report(Protocol):
    """Told what is running, and how much more work has been done."""

    def __call__(self, what: str, work: float, *, before: bool = False, note: str = "") -> None:
        """work: in attack steps on one image. before: it was done by an earlier run, in no time now.

        note: figures to show beside it, which change from call to call.
        """


def silent(what: str, work: float, *, before: bool = False, note: str = "") -> None:
    """A Report that tells nobody."""


# Rough costs of one image, in attack steps on it: they steer the time that is said to be left.
ATTACK_COST = 20  # where the number of steps is not known
UPDATE_COST = 4
AUTOATTACK_COST = 10_000
CERTIFICATION_COST = {"deeppoly": 60, "deepzono": 60, "box": 6}


def stage(report: Report, what: str, *, cost: float) -> Callable[[int], None]:
    """A callback that takes the number of images done so far, and reports the work since the last call."""
    seen = 0

    def done(count: int) -> None:
        nonlocal seen
        report(what, cost * (count - seen))
        seen = count

    return done
