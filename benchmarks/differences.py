"""What one method changes in each accuracy of another, in the stored reference."""

from __future__ import annotations

from collections.abc import Sequence

from softadv.claims.stats import Estimate, estimate
from softadv.experiments.runs import Entry, NotRun, Run, finished_runs, value_of

# The figures that are compared, with their names in the documents.
COMPARED = {
    "natural_accuracy": "natural accuracy",
    "adversarial_accuracy": "accuracy under PGD",
    "autoattack_accuracy": "accuracy under AutoAttack",
    "certified_accuracy": "certified accuracy",
}


def changes(entries: Sequence[Entry], method: str, other: str) -> dict[str, dict[str, Estimate]]:
    """method - other in points, paired by seed: by the name of the setting, then by figure.

    Settings without a seed of both are left out, and so are figures that were not measured.
    """
    runs = finished_runs(entries)
    found = {}
    for setting in dict.fromkeys(run.result.trial.setting for run in runs):
        ones, others = (
            {run.result.trial.seed: run for run in runs if _is(run, setting, name)} for name in (method, other)
        )
        pairs = [(ones[seed], others[seed]) for seed in sorted(ones.keys() & others.keys())]
        if pairs:
            found[setting] = {figure: made for figure in COMPARED if (made := _change(pairs, figure)) is not None}
    return found


def _is(run: Run, setting: str, method: str) -> bool:
    return (run.result.trial.setting, run.result.trial.method) == (setting, method)


def _change(pairs: Sequence[tuple[Run, Run]], figure: str) -> Estimate | None:
    try:
        values = [round(100 * (value_of(one, figure) - value_of(other, figure)), 9) for one, other in pairs]
    except NotRun:
        return None
    return estimate(values, label=figure, unit="points")
