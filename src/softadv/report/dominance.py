"""Which methods are dominated: another is at least as accurate on natural images, and as robust, on the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from softadv.claims.selection import mixed
from softadv.claims.stats import interval
from softadv.experiments.spec_text import Series, by_method

RULE = (
    "Dominated: another method's mean is at least as high in both accuracies over the seeds that both have, and one of "
    "the two differences has a 95% interval above zero."
)
AccuracyPair = tuple[float, float]  # natural and robust accuracy of one run, in %


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The finished runs of one setting, by method and seed, on the plane of natural against robust accuracy."""

    under: str  # the robust accuracy is under AutoAttack, where every run has it on as many images, else the training's
    points: Mapping[str, Mapping[int, AccuracyPair]]
    alike: bool = True  # whether the runs are one comparison

    def dominated(self) -> dict[str, list[str]]:
        """The methods that are dominated, each with those that dominate it."""
        found = {
            method: [other for other in self.points if other != method and self._dominates(other, method)]
            for method in self.points
        }
        return {method: others for method, others in found.items() if others}

    @property
    def compares(self) -> bool:
        """Whether any two methods have two seeds in common, run alike, so that something can be said."""
        seeds = [set(its) for its in self.points.values()]
        return self.alike and any(len(one & other) > 1 for place, one in enumerate(seeds) for other in seeds[:place])

    def _dominates(self, one: str, other: str) -> bool:
        seeds = self.points[one].keys() & self.points[other].keys()
        differences = [
            # Rounded as in the claims, so that equal differences of fractions are equal numbers.
            [round(self.points[one][seed][axis] - self.points[other][seed][axis], 9) for seed in sorted(seeds)]
            for axis in (0, 1)
        ]
        if len(seeds) < 2 or any(fmean(values) < 0 for values in differences):
            return False
        return any(ends is not None and ends[0] > 0 for ends in map(interval, differences))


def plane(runs: Sequence[Series], *, beside: Sequence[Series] = ()) -> Plane | None:
    """The plane of the finished runs of one setting; None where there is none.

    beside: runs on another plane that this one is held against: what counts is an accuracy that all of them have.
    """
    finished = [(run, run.result) for run in runs if run.result]
    if not finished:
        return None
    every = [*finished, *((run, run.result) for run in beside if run.result)]
    attacked = {result.autoattack.images if result.autoattack else None for _, result in every}
    autoattacked = len(attacked) == 1 and None not in attacked
    pgd = all(run.trial.attack == "pgd" for run, _ in every)
    points: dict[str, dict[int, AccuracyPair]] = {
        method: {} for method in by_method([run for run, _ in finished])
    }  # fmt: skip
    for run, result in finished:
        robust = result.autoattack.accuracy if autoattacked and result.autoattack else result.adversarial_accuracy
        points[run.trial.method][run.trial.seed] = 100 * result.natural_accuracy, 100 * robust
    under = "AutoAttack" if autoattacked else "PGD" if pgd else "attack"
    return Plane(under=under, points=points, alike=mixed([result for _, result in finished]) is None)
