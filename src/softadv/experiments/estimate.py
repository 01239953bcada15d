"""Estimates how long trials will take, from the recorded costs of such trials in their folder or the reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from softadv.errors import SoftadvError
from softadv.experiments.records import Result
from softadv.experiments.reference import Record, training_of
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.shared_training import trained_by
from softadv.experiments.spec import Trial
from softadv.training.records import EpochMetrics


@dataclass(frozen=True)
class TimeEstimate:
    """seconds: of the trials of which costs are stored, together; longest: of one of them.

    known: how many these are. left: how many there are to run. machines: where the costs were measured.
    """

    left: int
    known: int
    seconds: float
    longest: float
    machines: tuple[str, ...]

    def spread(self, slots: int) -> float:
        """Seconds on the clock with so many trials side by side, if none slows another down."""
        return max(self.seconds / slots, self.longest)


def estimate_time(
    trials: Sequence[Trial], *, folder: Path, records: Iterable[Record], anew: Set[str] = frozenset()
) -> TimeEstimate:
    """Add up the stored costs of the trials that have not finished in a folder.

    anew: the names of trials that start over, whatever is in the folder.

    A trial costs what its epochs still to come and its final evaluation took, as a mean over the seeds that finished
    in the folder itself, else over those of the reference. One that takes another's weights costs its end alone.
    """
    own = [found for trial in trials if (found := _finished(folder, trial)) is not None]
    costs = _costs((record.trial, record.epochs, record.result) for record in records) | _costs(own)
    done = {trial for trial, _, _ in own if trial.name not in anew}
    left = [trial for trial in trials if trial not in done]
    known = {trial: costs[training_of(trial)] for trial in left if training_of(trial) in costs}
    seconds = []
    for trial, (epoch, end, _) in known.items():
        begun = 0 if trial.name in anew else _epochs(folder, trial)
        epochs = 0 if not begun and trained_by(trial, trials) else trial.epochs - begun
        seconds.append(epoch * max(epochs, 0) + end)
    machines = tuple(sorted({machine for _, _, machine in known.values() if machine}))
    return TimeEstimate(len(left), len(known), sum(seconds), max(seconds, default=0.0), machines)


def epoch_seconds(epoch: EpochMetrics) -> float:
    """An epoch's total seconds."""
    return epoch.attack_seconds + epoch.certification_seconds + epoch.update_seconds + epoch.evaluation_seconds


def end_seconds(result: Result) -> float:
    """The seconds of certifying and attacking with the final weights."""
    attacked = result.autoattack.seconds if result.autoattack else 0.0
    return sum(certified.seconds for certified in result.certified) + attacked


_Finished = tuple[Trial, Sequence[EpochMetrics], Result]


def _costs(finished: Iterable[_Finished]) -> dict[Trial, tuple[float, float, str]]:
    """For each training the mean seconds of an epoch and of the end, and the machine."""
    alike: dict[Trial, list[_Finished]] = {}
    for one in finished:
        alike.setdefault(training_of(one[0]), []).append(one)
    return {
        training: (
            fmean(epoch_seconds(epoch) for _, epochs, _ in runs for epoch in epochs),
            fmean(end_seconds(result) for _, _, result in runs),
            runs[0][2].environment.get("device", ""),
        )
        for training, runs in alike.items()
    }


def _finished(folder: Path, trial: Trial) -> _Finished | None:
    try:
        recorded, epochs, result = RunFolder(folder / trial.name).read()
    except SoftadvError:  # missing or damaged: no source of costs
        return None
    return None if result is None or recorded != trial else (trial, epochs, result)


def _epochs(folder: Path, trial: Trial) -> int:
    try:
        return len(RunFolder(folder / trial.name).metrics())
    except SoftadvError:
        return 0
