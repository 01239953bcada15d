"""The README's answer, in words and as a table, from the stored reference (benchmarks.documents writes both)."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean

from benchmarks.differences import COMPARED, changes
from softadv._decimals import decimal
from softadv.claims.stats import Estimate, estimate
from softadv.experiments.reference import REFERENCE as FOLDER
from softadv.experiments.runs import all_series, read_entries
from softadv.experiments.spec_text import Series, by_setting, fraction
from softadv.report.comparisons import compare_methods
from softadv.report.intervals import ends_text, signed

REFERENCE = Path(__file__).parents[1] / "expected_results" / FOLDER
_GRIDS = ("cifar10", "paper-short", "mnist")  # of the paper's own settings, the most telling first
_HEADS = (
    "setting", "epochs", "seeds", "natural training", "adversarial", "soft", "soft − adversarial", "that under PGD",
)  # fmt: skip
_ON_SOME = ("autoattack_accuracy", "certified_accuracy")
_ONE_SEED = "(one seed, which decides nothing)"


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A setting with adversarial training. Differences are in points of natural accuracy; None without such runs.

    means: natural accuracy in % after natural, adversarial and soft training; None for one that was not run. The last
        two are of the seeds that both have, as their difference is; so is the first, where it has such seeds.
    cost: natural − adversarial training. gain: soft − adversarial training. under_pgd: that of adversarial accuracy;
        beside: of the accuracies that were measured on some of the test images, by their names.
    """

    dataset: str
    eps: str
    epochs: int
    seeds: int
    means: tuple[float | None, float | None, float | None]
    cost: Estimate | None
    gain: Estimate | None
    under_pgd: Estimate | None
    beside: Mapping[str, Estimate] = field(default_factory=dict)


def answers() -> list[Answered]:
    """The settings of the reference that have adversarial training, grid by grid.

    Natural training knows no radius, so that of another setting of the grid stands in for one that has none.
    """
    found = []
    for grid in _GRIDS:
        entries = read_entries(REFERENCE / grid)
        runs = [run for run in all_series(entries) if run.result]
        changed = changes(entries, "soft", "adversarial")
        naturals = [run for run in runs if run.trial.method == "natural"]
        for its_runs in by_setting(runs).values():
            run = its_runs[0]
            adversarial, soft = _accuracies(its_runs, "adversarial"), _accuracies(its_runs, "soft")
            if not adversarial:
                continue
            both = (adversarial.keys() & soft.keys()) or adversarial.keys()
            natural = next((one for one in naturals if one.trial.setting == run.trial.setting), (naturals or [run])[0])
            of_natural = _accuracies([one for one in runs if one.trial.setting == natural.trial.setting], "natural")
            change = compare_methods(entries, run)
            lost = compare_methods(entries, run, "adversarial", "natural", base=natural).natural
            found.append(
                Answered(
                    dataset=run.names.dataset_title,
                    eps=fraction(run.trial.eps),
                    epochs=run.trial.epochs,
                    seeds=len(both),
                    means=(
                        _mean(_of(of_natural, both) or of_natural.values()),
                        _mean(_of(adversarial, both)),
                        _mean(_of(soft, both)),
                    ),
                    cost=lost and estimate([-value for value in lost.values], label="", unit=lost.unit),
                    gain=change.natural,
                    under_pgd=change.adversarial,
                    beside={
                        COMPARED[figure]: made
                        for figure, made in changed.get(run.trial.setting, {}).items()
                        if figure in _ON_SOME
                    },
                )
            )
    return found


def table(found: Sequence[Answered]) -> str:
    """A row a setting: natural accuracies in %, and what soft training changes, in points."""
    rows = [
        (
            f"{it.dataset} at ε {it.eps}", str(it.epochs), str(it.seeds),
            *("not run" if mean is None else decimal(mean) for mean in it.means),
            *map(difference, (it.gain, it.under_pgd)),
        )
        for it in found
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (_HEADS, ("---",) * len(_HEADS), *rows))


def words(found: Sequence[Answered]) -> str:
    """A line a data set and number of epochs: what adversarial training costs, and what soft training keeps of it."""
    lines = []
    for (dataset, epochs), same in groupby(found, key=lambda it: (it.dataset, it.epochs)):
        told = list(same)
        said = f"- {dataset}, {epochs} epochs: {' '.join(filter(None, (_costs(told), _gains(told), *_prices(told))))}"
        lines.append(textwrap.fill(said, width=120, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines)


def at_random() -> str:
    """A line on the control that attacks as many images as soft training, chosen at random; "" without both."""
    entries = read_entries(REFERENCE / "controls")
    runs = [run for run in all_series(entries) if run.result]
    told = []
    for its_runs in by_setting(runs).values():
        gain = compare_methods(entries, its_runs[0], "random", "soft").natural
        if gain is not None:
            told.append((its_runs[0], gain))
    if not told:
        return ""
    parts = [f"{_tenths(gain.mean)} points at ε {fraction(run.trial.eps)}{_ends(gain)}" for run, gain in told]
    first = told[0][0]
    said = (
        f"- {first.names.dataset_title}, {first.trial.epochs} epochs, with as many images attacked, but chosen at "
        f"random instead of by the certifier: natural accuracy differs from soft training's by {_listed(parts)}."
    )
    return textwrap.fill(said, width=120, subsequent_indent="  ", break_on_hyphens=False)


def difference(found: Estimate | None) -> str:
    """A difference in points with its 95% interval, which one seed does not have."""
    if found is None:
        return "not run"
    ends = ends_text(found)
    return f"{signed(found.mean)} ({ends})" if ends else signed(found.mean)


def _costs(told: Sequence[Answered]) -> str:
    """What adversarial training costs, setting by setting, in a sentence; "" where that was not measured."""
    measured = [(it, it.cost) for it in told if it.cost]
    single = [f"{_apart(cost)} natural training{_where([it], told)}" for it, cost in measured if cost.low is None]
    unclear = [
        f"{_where([it], told)}{_ends(cost)}".lstrip() for it, cost in measured if cost.low is not None and cost.low <= 0
    ]
    clear = [(it, cost) for it, cost in measured if _costs_some(cost)]
    units = [" points of natural accuracy", *[""] * len(clear)]  # said once
    costs = [
        f"{decimal(cost.mean, places=1)}{unit}{_where([it], told)}{_ends(cost)}"
        for (it, cost), unit in zip(clear, units, strict=False)
    ]
    parts = [
        *([f"costs {_listed(costs)}"] if costs else []),
        *([f"ends {_listed(single)} {_ONE_SEED}"] if single else []),
        *([f"shows no clear cost in natural accuracy {_listed(unclear)}"] if unclear else []),
    ]
    return f"adversarial training {_listed(parts)}." if parts else ""


def _costs_some(cost: Estimate | None) -> bool:
    """Whether the interval lies above zero."""
    return cost is not None and cost.low is not None and cost.low > 0


def _apart(cost: Estimate) -> str:
    return f"{decimal(abs(cost.mean), places=1)} points {'below' if cost.mean > 0 else 'above'}"


def _gains(told: Sequence[Answered]) -> str:
    """What soft training ends with, setting by setting, in a sentence; "" where it was not run."""
    if not any(it.gain for it in told):
        return "Soft training has not finished."
    single = [
        f"{decimal(abs(it.gain.mean), places=1)} points {'behind' if it.gain.mean < 0 else 'ahead'}{_where([it], told)}"
        for it in told
        if it.gain and it.gain.seeds == 1
    ]
    parts = [*_shown(told), *([f"is {_listed(single)} {_ONE_SEED}"] if single else [])]
    return f"Soft training {_listed(parts)}."


def _prices(told: Sequence[Answered]) -> Iterator[str]:
    """What soft training changes in robustness, where an interval excludes zero; a sentence a setting."""
    for it in told:
        parts = [
            f"{decimal(abs(found.mean), places=1)} points {'less' if found.mean < 0 else 'more'} {name}{_ends(found)}"
            for name, found in it.beside.items()
            if found.low is not None and found.high is not None and not found.low <= 0 <= found.high
        ]
        if parts:
            yield f"{(_where([it], told) + ' it').strip().capitalize()} has {_listed(parts)}."


def _shown(told: Sequence[Answered]) -> Iterator[str]:
    """What the intervals say of each setting with several seeds."""
    for it in told:
        if it.gain is None or it.gain.low is None or it.gain.high is None:
            continue
        size, where = decimal(abs(it.gain.mean), places=1), _where([it], told)
        costly = _costs_some(it.cost)
        if it.gain.low > 0:
            said = f"keeps {size} of them{where}" if costly else f"is {size} points ahead{where}"
        elif it.gain.high < 0:
            said = f"loses {size} more{where}" if costly else f"is {size} points behind{where}"
        else:
            said = f"shows no clear difference from it{where}"
        yield f"{said}{_ends(it.gain)}"


def _ends(found: Estimate) -> str:
    """The interval in brackets, and that it is of two seeds, which makes it wide; "" where one seed gives none."""
    if found.low is None or found.high is None:
        return ""
    return f" ({'two seeds: ' if found.seeds == 2 else ''}{_tenths(found.low)} to {_tenths(found.high)})"


def _tenths(value: float) -> str:
    return decimal(value, places=1, sign=True).replace("-", "\N{MINUS SIGN}")


def _where(these: Sequence[Answered], told: Sequence[Answered]) -> str:
    """Which of the settings; "" where there is one alone."""
    return "" if len(told) == 1 else f" at ε {_listed([it.eps for it in these])}"


def _accuracies(runs: Sequence[Series], method: str) -> dict[int, float]:
    """Natural accuracies in %, by seed."""
    return {
        run.trial.seed: 100 * run.result.natural_accuracy for run in runs if run.result and run.trial.method == method
    }


def _of(accuracies: Mapping[int, float], seeds: Set[int]) -> list[float]:
    return [accuracy for seed, accuracy in accuracies.items() if seed in seeds]


def _mean(accuracies: Collection[float]) -> float | None:
    return fmean(accuracies) if accuracies else None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
