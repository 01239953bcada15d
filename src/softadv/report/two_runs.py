"""A page that compares two run folders: every setting and method that both have, by seeds where they share some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from scipy import stats

from softadv._decimals import decimal
from softadv.claims.selection import mixed
from softadv.claims.stats import Estimate, estimate
from softadv.errors import SoftadvError
from softadv.experiments.reference import is_reference, training_difference
from softadv.experiments.run_folder import REPORT
from softadv.experiments.runs import FIGURES, NotRun, Run, all_series, finished_runs, images_of, read_entries, value_of
from softadv.report.figures.two_runs import two_runs_figure
from softadv.report.intervals import interval_plot, shared_scale
from softadv.report.words import method_label, setting_words
from softadv.report.writing import render, write_page


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A figure of one method in both run folders, in %, and the second minus the first, in points."""

    method: str
    figure: str
    first: float
    second: float
    found: Estimate


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A setting that both have. remarks: what a reader must know of it. plots: as SVG, one for each figure."""

    title: str
    remarks: tuple[str, ...]
    rows: tuple[Difference, ...]
    plots: tuple[str, ...]


def write_comparison(first: Path, second: Path, *, names: tuple[str, str], out: Path | None = None) -> Path:
    """Write compare.html on two folders of runs, or references; returns its path.

    names: what to call the two. out: where the page goes, else report/ in the first folder.
    Raises SoftadvError for a folder without trials, for two without a setting and method in common that have finished
    in both, and for a reference as the first without out.
    """
    if out is None and is_reference(first):
        raise SoftadvError(f"{first}: a report is not written into a reference; name a folder with --out")
    entries = read_entries(first), read_entries(second)
    runs = finished_runs(entries[0]), finished_runs(entries[1])
    series = all_series(entries[0]), all_series(entries[1])
    words = setting_words([*series[0], *series[1]])
    shared = _shared(*runs, words=words)
    if not shared:
        raise SoftadvError(f"{first} and {second}: no setting and method has finished in both")
    figure = two_runs_figure(*series, names=names, words=words)
    page = render(
        "compare.html",
        title=f"{names[0]} and {names[1]}",
        names=names,
        answer=_answer(shared, names),
        shared=shared,
        figure=figure,
        alone=[(name, _alone(mine, other, words)) for name, mine, other in zip(names, runs, runs[::-1], strict=True)],
    )
    return write_page(first / REPORT if out is None else out, "compare.html", page, figure.files if figure else {})


def _shared(first: Sequence[Run], second: Sequence[Run], *, words: Mapping[str, str]) -> list[Shared]:
    found: dict[str, tuple[dict[str, list[str]], list[Difference]]] = {}
    for (setting, method), mine in _by_kind(first).items():
        theirs = _by_kind(second).get((setting, method))
        if theirs is None:
            continue
        remarks, rows = found.setdefault(setting, ({}, []))
        label = method_label(method, mine[0].names)
        said = [_remark(mine, theirs)]
        for figure, title in FIGURES.items():
            (one, counts), (other, more) = _values(mine, figure), _values(theirs, figure)
            images = sorted(counts | more)
            if one and other and len(images) > 1:
                said.append(f"{title} is not compared, on {' and '.join(f'{count:,}' for count in images)} images")
            elif one and other:
                rows.append(_difference(one, other, method=label, figure=title, setting=setting))
        for remark in said:
            remarks.setdefault(remark, []).append(label)  # what is said of several methods is said once
    every = [row.found for _, rows in found.values() for row in rows]
    limits = shared_scale(every) if every else (-1.0, 1.0)
    return [
        Shared(
            title=words.get(setting, setting),
            remarks=tuple(f"{', '.join(methods)}: {said}." for said, methods in remarks.items()),
            rows=tuple(rows),
            plots=tuple(_plots(rows, limits, words)),
        )
        for setting, (remarks, rows) in found.items()
    ]


def _plots(rows: Sequence[Difference], limits: tuple[float, float], words: Mapping[str, str]) -> list[str]:
    plots = []
    for figure in dict.fromkeys(row.figure for row in rows):
        its = [row for row in rows if row.figure == figure]
        title = figure[:1].upper() + figure[1:]
        names, estimates = [row.method for row in its], [row.found for row in its]
        plots.append(interval_plot(estimates, limits=limits, words=words, names=names, title=title))
    return plots


def _by_kind(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    kinds: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        kinds.setdefault((run.result.trial.setting, run.result.trial.method), []).append(run)
    return kinds


def _difference(
    one: Mapping[int, float], other: Mapping[int, float], *, method: str, figure: str, setting: str
) -> Difference:
    """The second minus the first. one, other: values in %, by seed."""
    seeds = sorted(one.keys() & other.keys())
    label = f"{setting}: {figure}"
    if seeds:
        # Rounded as in the claims, so that equal differences of fractions are equal numbers.
        found = estimate([round(other[seed] - one[seed], 9) for seed in seeds], label=label, unit="points")
        values = [one[seed] for seed in seeds], [other[seed] for seed in seeds]
    else:
        values = list(one.values()), list(other.values())
        found = _unpaired(*values, label=label)
    return Difference(method=method, figure=figure, first=fmean(values[0]), second=fmean(values[1]), found=found)


def _values(runs: Sequence[Run], figure: str) -> tuple[dict[int, float], set[int]]:
    """A figure in %, by seed, and the numbers of images that it is a share of."""
    found, images = dict[int, float](), set[int]()
    for run in runs:
        if figure == "verified_share" and not run.makes_split:
            continue
        try:
            found[run.result.trial.seed] = 100 * value_of(run, figure)
            images.add(images_of(run, figure))
        except NotRun:
            continue
    return found, images


def _unpaired(first: Sequence[float], second: Sequence[float], *, label: str) -> Estimate:
    """The difference of the means of runs with other seeds; its interval by Welch's t-test, which takes two of each."""
    low = high = None
    if min(len(first), len(second)) > 1 and len({*first}) + len({*second}) > 2:
        ends = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
        low, high = float(ends.low), float(ends.high)
    mean = fmean(second) - fmean(first)
    return Estimate(label=label, unit="points", seeds=min(len(first), len(second)), mean=mean, low=low, high=high)


def _remark(first: Sequence[Run], second: Sequence[Run]) -> str:
    """What tells the two trainings apart, or how their seeds compare where that is not seed by seed."""
    difference = training_difference(first[0].result.trial, second[0].result.trial)
    if difference is not None:
        return f"not trained alike, with {difference}"
    alone = [mixed([run.result for run in runs]) for runs in (first, second)]
    for why in filter(None, alone):
        return f"the seeds of one are not alike, {why}"
    if len({run.result.data_fingerprint for run in (*first, *second)}) > 1:
        return "run on different images"
    mine = {run.result.trial.seed: run.result.weights_sha256 for run in first}
    theirs = {run.result.trial.seed: run.result.weights_sha256 for run in second}
    both = mine.keys() & theirs.keys()
    if not both:
        return f"other seeds, {len(mine)} against {len(theirs)}; the interval is Welch's"
    same = sum(mine[seed] == theirs[seed] for seed in both)
    return f"{same} of {len(both)} shared seeds end{'s' * (same == 1)} with the same weights"


def _answer(shared: Sequence[Shared], names: tuple[str, str]) -> str:
    rows = [row for setting in shared for row in setting.rows]
    if not rows:
        return "Nothing is compared: no figure of the two is a share of equally many images."
    apart = [row for row in rows if _excludes_zero(row.found)]
    largest = max(rows, key=lambda row: abs(row.found.mean))
    if largest.found.mean == 0:
        return f"Every mean is the same, in all {len(rows)} comparisons."
    most = f"The largest is {decimal(abs(largest.found.mean))} points ({largest.method}, {largest.figure})."
    if not apart:
        count = f"None of {len(rows)} differences is shown"
        return f"{count}: every 95% interval contains zero, or one seed gives none. {most}"
    count = f"{len(apart)} of {len(rows)} differences between {names[0]} and {names[1]}"
    return f"{count} have a 95% interval without zero. {most}"


def _excludes_zero(found: Estimate) -> bool:
    return found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)


def _alone(mine: Sequence[Run], other: Sequence[Run], words: Mapping[str, str]) -> list[str]:
    """The settings and methods that one has and the other has not, in words."""
    lacking = _by_kind(mine).keys() - _by_kind(other).keys()
    settings = dict.fromkeys(run.result.trial.setting for run in mine)
    return [
        f"{words.get(setting, setting)} ({', '.join(sorted(method for s, method in lacking if s == setting))})"
        for setting in settings
        if any(s == setting for s, _ in lacking)
    ]
