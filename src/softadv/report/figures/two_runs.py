"""Natural against robust accuracy in two run folders: a panel per setting, a line from mean to mean per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from softadv.experiments.names import Names
from softadv.experiments.spec_text import Series, by_setting
from softadv.report.dominance import AccuracyPair, plane
from softadv.report.figures.colors import fill, stroke
from softadv.report.figures.labels import Crowd
from softadv.report.figures.page_figure import (
    ACCURACY_COLUMNS,
    RUN_COLUMNS,
    PageFigure,
    accuracy_cells,
    csv_text,
    page_figure,
    run_cells,
)
from softadv.report.figures.svg import Panel, around, hit, marker, path, shortened, tag, within_percent
from softadv.report.words import method_label


def two_runs_figure(
    first: Sequence[Series], second: Sequence[Series], *, names: tuple[str, str], words: Mapping[str, str]
) -> PageFigure | None:
    """The figure of the settings and methods that both have finished, on equally many test images.

    None where there is none. names: of the two.
    """
    others = by_setting(second)
    found = {
        setting: both
        for setting, runs in by_setting(first).items()
        if (both := _compared(runs, others.get(setting, ()))) is not None
    }
    if not found:
        return None
    panels = [_panel(both, title=words.get(setting, setting), names=names) for setting, both in found.items()]
    over = _OVER[frozenset(bool(a.keys() & b.keys()) for both in found.values() for a, b in both.points.values())]
    where = f"Hollow: {names[0]}; filled: {names[1]}."
    caption = f"Means after the last epoch, {over}. {where} Further right and up is better."
    rows = [
        (name, *run_cells(run), *accuracy_cells(run))
        for name, runs in zip(names, (first, second), strict=True)
        for run in runs
        if run.result
    ]
    csv = csv_text(("runs", *RUN_COLUMNS, *ACCURACY_COLUMNS), rows)
    return page_figure("compare", "compare", panels, [*first, *second], caption=caption, csv=csv,
                       title="Natural against robust accuracy in two runs")  # fmt: skip


# What the means are over, by whether the runs of a method have seeds in common.
_OVER = {
    frozenset({True}): "over the seeds that both have",
    frozenset({False}): "each over its own seeds, none of which the other has",
    frozenset({True, False}): "over the seeds that both have, or each over its own where they share none",
}


@dataclass(frozen=True)
class _Compared:
    """One setting. under: the attack; points: of each method's runs in the first and in the second, by seed."""

    under: str
    points: Mapping[str, tuple[Mapping[int, AccuracyPair], Mapping[int, AccuracyPair]]]
    called: Mapping[str, Names]


def _compared(first: Sequence[Series], second: Sequence[Series]) -> _Compared | None:
    """The methods that both have finished; None where there are none, or they are of other counts of test images."""
    methods = set[str].intersection(*({run.trial.method for run in runs if run.result} for runs in (first, second)))
    ones, others = ([run for run in runs if run.result and run.trial.method in methods] for runs in (first, second))
    images = {run.result.test_images for run in (*ones, *others) if run.result}
    one, other = plane(ones, beside=others), plane(others, beside=ones)
    if one is None or other is None or len(images) > 1:
        return None
    points = {method: (found, other.points[method]) for method, found in one.points.items()}
    return _Compared(one.under, points, {run.trial.method: run.names for run in ones})


def _panel(both: _Compared, *, title: str, names: tuple[str, str]) -> Panel:
    under, called = both.under, both.called
    means = {method: _means(*points) for method, points in both.points.items()}
    said = "; ".join(
        f"{method_label(method, called[method])} from {a[0]:.1f} and {a[1]:.1f} to {b[0]:.1f} and {b[1]:.1f}"
        for method, (a, b) in means.items()
    )
    panel = Panel(f"{title}: natural accuracy and accuracy under {under}, in %: {said}", height=280, left=36)
    x, y = (
        scale(*within_percent(around([pair[axis] for ends in means.values() for pair in ends], room=0.14, least=2)))
        for axis, scale in ((0, panel.across), (1, panel.upward))
    )
    panel.title(title)
    panel.axes(x, y, x_name="Natural accuracy (%)", y_name=f"Accuracy under {under} (%)")
    crowd = Crowd(panel)
    for method, ends in means.items():
        color, label = called[method].method_color, shortened(method_label(method, called[method]), 150)
        (from_x, from_y), (to_x, to_y) = ((x(a), y(b)) for a, b in ends)
        panel.add(tag("path", d=path([(from_x, from_y), (to_x, to_y)]), class_=f"link {stroke(color)}"))
        panel.add(marker("circle", from_x, from_y, 4, class_=f"seed {stroke(color)}"))
        panel.add(marker("circle", to_x, to_y, 5, class_=f"point {fill(color)}"))
        crowd.marks += [(a - 6, b - 6, a + 6, b + 6) for a, b in ((from_x, from_y), (to_x, to_y))]
        values = "; ".join(f"{name} {a:.2f}% and {b:.2f}%" for name, (a, b) in zip(names, ends, strict=True))
        panel.add(hit(f"{label}: {values}", to_x - 9, to_y - 9, 18, 18))
    for method, (_, (a, b)) in means.items():
        crowd.label(shortened(method_label(method, called[method]), 150), x(a), y(b))
    return panel


def _means(one: Mapping[int, AccuracyPair], other: Mapping[int, AccuracyPair]) -> tuple[AccuracyPair, AccuracyPair]:
    """The means over the seeds that both have; over each one's own where there are none."""
    both = one.keys() & other.keys()
    first, second = ([pair for seed, pair in points.items() if seed in both or not both] for points in (one, other))
    return _mean(first), _mean(second)


def _mean(points: Sequence[AccuracyPair]) -> AccuracyPair:
    return fmean(a for a, _ in points), fmean(b for _, b in points)
