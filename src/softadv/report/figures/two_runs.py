"""Natural against robust accuracy in two run folders: a panel per setting, a line from mean to mean per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from softadv.experiments.spec_text import Series, by_setting
from softadv.report.dominance import AccuracyPair, plane
from softadv.report.figures.colors import fill, stroke
from softadv.report.figures.labels import Crowd
from softadv.report.figures.page_figure import RUN_COLUMNS, PageFigure, csv_text, page_figure, percent_text, run_cells
from softadv.report.figures.svg import Panel, around, hit, marker, path, shortened, tag, within_percent
from softadv.report.words import method_label


def two_runs_figure(
    first: Sequence[Series], second: Sequence[Series], *, names: tuple[str, str], words: Mapping[str, str]
) -> PageFigure | None:
    """The figure of the settings that both have; None where there is none. names: of the two."""
    others = by_setting(second)
    panels = [
        panel
        for setting, runs in by_setting(first).items()
        if setting in others
        and (panel := _panel(runs, others[setting], title=words.get(setting, setting), names=names))
    ]
    if not panels:
        return None
    where = f"Hollow: {names[0]}; filled: {names[1]}."
    caption = f"Means after the last epoch, over the seeds that both have. {where} Further right and up is better."
    rows = [
        (name, *run_cells(run), *map(percent_text, run.accuracies or ()))
        for name, runs in zip(names, (first, second), strict=True)
        for run in runs
        if run.result
    ]
    csv = csv_text(("runs", *RUN_COLUMNS, "natural_accuracy_percent", "adversarial_accuracy_percent"), rows)
    return page_figure("compare", "compare", panels, [*first, *second], caption=caption, csv=csv,
                       title="Natural against robust accuracy in two runs")  # fmt: skip


def _panel(first: Sequence[Series], second: Sequence[Series], *, title: str, names: tuple[str, str]) -> Panel | None:
    one, other = plane(first), plane(second)
    if one is None or other is None:
        return None
    called = {run.trial.method: run.names for run in first}
    means = {
        method: _means(one.points[method], other.points[method]) for method in one.points if method in other.points
    }
    if not means:
        return None
    under = one.under if one.under == other.under else f"{one.under} and {other.under}"
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
