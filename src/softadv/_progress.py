"""Progress reports from running code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Report(Protocol):
    """Called with the name of the running part, and how much more work is done."""

    def __call__(self, what: str, work: float, *, before: bool = False, note: str = "") -> None:
        """work: in attack steps on one image. before: the work was done by an earlier run and takes no time now.

        note: changing numbers to show beside it.
        """


def silent(what: str, work: float, *, before: bool = False, note: str = "") -> None:
    """A Report that does nothing."""


# Rough costs of one image, in attack steps on it, for the estimate of the remaining time.
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
