"""Estimates how long trials will take, from the recorded costs of such trials in their folder or the reference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import zip_longest
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
    paced: whether costs of the reference were adapted to the pace of the epochs in the folder.
    """

    left: int
    known: int
    seconds: float
    longest: float
    machines: tuple[str, ...]
    paced: bool

    def spread(self, slots: int) -> float:
        """Seconds on the clock with so many trials side by side, if none slows another down."""
        return max(self.seconds / slots, self.longest)


def estimate_time(
    trials: Sequence[Trial], *, folder: Path, records: Iterable[Record], anew: Set[str] = frozenset()
) -> TimeEstimate:
    """Add up the stored costs of the trials that have not finished in a folder.

    anew: the names of trials that start over, whatever is in the folder.

    A trial costs what its epochs still to come and its final evaluation took, as a mean over the seeds that finished
    in the folder itself, else over those of the reference. The reference's machine may have been slower, or busy: what
    epochs in the folder took, of trials finished or not, in proportion to the same epochs of the reference, is the
    pace by which the reference's costs are multiplied. A trial that takes another's weights costs its end alone.
    """
    begun = [found for trial in trials if (found := _begun(folder, trial)) is not None]
    own = [(trial, epochs, result) for trial, epochs, result in begun if result is not None]
    here, stored = _costs(own), _costs((record.trial, record.epochs, record.result) for record in records)
    done = {trial for trial, _, _ in own if trial.name not in anew}
    left = [trial for trial in trials if trial not in done]
    finished_epochs = {trial: len(epochs) for trial, epochs, _ in begun if trial.name not in anew}
    paces = _paces(begun, stored)
    seconds, machines, paced = [], set(), False
    for trial in left:
        training, before = training_of(trial), finished_epochs.get(trial, 0)
        cost, pace = here.get(training), 1.0
        if cost is None:
            cost, pace = stored.get(training), paces.get(training, paces[None])
            paced = paced or (cost is not None and pace != 1.0)
        if cost is None:
            continue
        takes_weights = not before and trained_by(trial, trials) is not None
        seconds.append(pace * (cost.end + (0.0 if takes_weights else sum(cost.epochs[before:]))))
        machines.add(cost.machine)
    return TimeEstimate(
        len(left), len(seconds), sum(seconds), max(seconds, default=0.0), tuple(sorted(machines - {""})), paced
    )


def end_seconds(result: Result) -> float:
    """The seconds of certifying and attacking with the final weights."""
    attacked = result.autoattack.seconds if result.autoattack else 0.0
    return sum(certified.seconds for certified in result.certified) + attacked


_Begun = tuple[Trial, Sequence[EpochMetrics], Result | None]


@dataclass(frozen=True)
class _Cost:
    """A training's mean seconds: of each epoch, and of the end. machine: where they were measured."""

    epochs: tuple[float, ...]
    end: float
    machine: str


def _costs(finished: Iterable[tuple[Trial, Sequence[EpochMetrics], Result]]) -> dict[Trial, _Cost]:
    """What each training costs, over its seeds."""
    alike: dict[Trial, list[tuple[Sequence[EpochMetrics], Result]]] = {}
    for trial, epochs, result in finished:
        alike.setdefault(training_of(trial), []).append((epochs, result))
    return {
        training: _Cost(
            # Seeds that stopped early have fewer.
            tuple(
                fmean(epoch.seconds for epoch in same if epoch is not None)
                for same in zip_longest(*(epochs for epochs, _ in runs))
            ),
            fmean(end_seconds(result) for _, result in runs),
            runs[0][1].environment.get("device", ""),
        )
        for training, runs in alike.items()
    }


def _paces(begun: Iterable[_Begun], stored: Mapping[Trial, _Cost]) -> dict[Trial | None, float]:
    """How long epochs took for each second that the same ones are stored with: of each training, and of all (None)."""
    here: dict[Trial | None, float] = defaultdict(float)
    there: dict[Trial | None, float] = defaultdict(float)
    for trial, epochs, _ in begun:
        training = training_of(trial)
        for epoch, cost in zip(epochs, stored[training].epochs if training in stored else (), strict=False):
            for key in (training, None):
                here[key] += epoch.seconds
                there[key] += cost
    return {None: 1.0} | {key: here[key] / seconds for key, seconds in there.items() if seconds > 0 and here[key] > 0}


def _begun(folder: Path, trial: Trial) -> _Begun | None:
    try:
        recorded, epochs, result = RunFolder(folder / trial.name).read()
    except SoftadvError:  # missing or damaged: no source of costs
        return None
    return (trial, epochs, result) if recorded == trial else None
