"""The base class of controls that attack as many images per epoch as another run, but choose other ones."""

from __future__ import annotations

from dataclasses import dataclass

from softadv._ranges import MOST_IMAGES, check_count, check_real, shown
from softadv.errors import SoftadvError
from softadv.training.methods.base import EpochStart, Method


@dataclass(frozen=True, kw_only=True)
class Replaying(Method):
    """counts: how many images to attack in each epoch, from the first on. share: instead, a fraction for every epoch.

    A grid sets neither: the counts come from the soft trial of the same setting and seed.
    Raises SoftadvError if both are given, and for numbers out of range.
    """

    replays = "soft"
    counts: tuple[int, ...] | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if self.counts is not None and self.share is not None:
            raise SoftadvError("counts, share: only one of them can be given")
        if self.counts is not None:
            if not isinstance(self.counts, tuple | list):
                raise SoftadvError(f"counts: expected a list of whole numbers, got {shown(self.counts)}")
            counts = tuple(check_count(count, key="counts", most=MOST_IMAGES) for count in self.counts)
            object.__setattr__(self, "counts", counts)
        if self.share is not None:
            object.__setattr__(self, "share", check_real(self.share, key="share"))
            if not 0 <= self.share <= 1:
                raise SoftadvError(f"share: must be in [0, 1], got {self.share:g}")

    def count(self, epoch: EpochStart) -> int:
        """How many images this epoch attacks. Raises SoftadvError where neither counts nor share says so."""
        if self.share is not None:
            return round(self.share * len(epoch.y))
        if self.counts is None or epoch.number > len(self.counts):
            stopped = 0 if self.counts is None else len(self.counts)
            known = f"those of a training that stopped after {stopped} epochs" if stopped else "none"
            raise SoftadvError(
                f"counts: how many images to attack in epoch {epoch.number} is not known (given: {known}); "
                "give counts or share, or a soft trial of the same setting and seed"
            )
        count = self.counts[epoch.number - 1]
        if count > len(epoch.y):
            raise SoftadvError(f"counts: {count} images to attack in epoch {epoch.number}, of {len(epoch.y)}")
        return count
