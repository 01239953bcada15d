"""A part of a grid: trials are assigned by name, so that several commands can share a grid independently."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from softadv._ranges import shown
from softadv.errors import SoftadvError
from softadv.experiments.shared_training import trains_alike
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
        """Its trials, in their order: every trial is in one part.

        One that replays another is in that one's part. Trials that share a training are in one part, too.
        """
        leads = _leads(trials)
        dealt = sorted(set(leads.values()))[self.number - 1 :: self.parts]
        return tuple(trial for trial in trials if leads[trial] in dealt)


def _leads(trials: Sequence[Trial]) -> dict[Trial, str]:
    """For each trial the name by which it is dealt: of those that belong together it is the same."""
    names = {trial.name for trial in trials}
    shared: dict[Trial, str] = {}
    for trial in trials:
        alike = trains_alike(trial)
        if alike is not None:
            shared[alike] = min(trial.name, shared.get(alike, trial.name))  # whatever the order of the trials
    leads = {}
    for trial in trials:
        replayed, alike = replayed_by(trial), trains_alike(trial)
        if replayed is not None and replayed.name in names:
            leads[trial] = replayed.name
        else:
            leads[trial] = trial.name if alike is None else shared[alike]
    return leads


def parse_shard(text: str) -> Shard:
    """A Shard from a text such as 2/8. Raises SoftadvError for another text."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if found is None:
        raise SoftadvError(f"--shard: expected K/N such as 2/8, got {shown(text)}")
    return Shard(int(found[1]), int(found[2]))
