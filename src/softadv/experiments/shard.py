"""A part of a grid: trials are assigned by name, so that several commands can share a grid independently."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from softadv._ranges import shown
from softadv.errors import SoftadvError
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import replayed_by


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `parts`. Raises SoftadvError where there is no such part."""

    number: int
    parts: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.parts:
            raise SoftadvError(f"--shard {self}: the parts are numbered 1 to {self.parts}")

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"

    def of(self, trials: Sequence[Trial]) -> tuple[Trial, ...]:
        """Its trials, in their order: every trial is in one part. One that replays another is in that one's part."""
        names = {trial.name for trial in trials}
        leads = {}
        for trial in trials:
            first = replayed_by(trial)
            leads[trial] = first.name if first is not None and first.name in names else trial.name
        dealt = sorted(set(leads.values()))[self.number - 1 :: self.parts]
        return tuple(trial for trial in trials if leads[trial] in dealt)


def parse_shard(text: str) -> Shard:
    """A Shard from a text such as 2/8. Raises SoftadvError for another text."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if found is None:
        raise SoftadvError(f"--shard: expected K/N such as 2/8, got {shown(text)}")
    return Shard(int(found[1]), int(found[2]))
