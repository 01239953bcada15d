"""Seconds of the parts of an epoch: a stacked bar per method, a panel per setting."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from softadv.experiments.spec_text import Series, by_method, by_setting, setting_title
from softadv.report.costs import PARTS
from softadv.report.figures.page_figure import (
    RUN_COLUMNS,
    FigureInput,
    PageFigure,
    csv_text,
    of_settings,
    page_figure,
    run_cells,
    with_variations,
)
from softadv.report.figures.style import INK, PART_COLOURS, SOFT_INK, legend, new_figure, style, swatch, wrapped

_LABEL = 2.0  # inches that a method's title may take before it is broken


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    """One figure for all settings as the paper has them, then one for each that varies its assumptions."""
    runs = source.shown
    caption = "Mean over epochs and seeds, wall-clock; comparable between bars that were timed on the same machine."
    bases = of_settings(runs, [family.base.trial.setting for family in source.families])
    if bases:
        yield page_figure("time", "time", draw(bases), bases, caption=caption,
                       csv=_csv(bases))  # fmt: skip
    for family, its_runs in with_variations(runs, source.families):
        yield page_figure(
            "time", f"time-variations-{family.base.trial.setting}", draw(its_runs), its_runs,
            caption=caption, csv=_csv(its_runs), variation=True,
        )  # fmt: skip


def draw(runs: Sequence[Series]) -> Figure:
    """Seconds of an epoch's parts, a stacked bar per method, a panel per setting."""
    settings = by_setting(runs)
    counts = [len(by_method(its_runs)) for its_runs in settings.values()]
    figure = new_figure(width=8.2, height=0.36 * sum(counts) + 0.55 * len(counts) + 1.0)
    panels = figure.subplots(len(settings), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    for axes, its_runs in zip(panels, settings.values(), strict=True):
        style(axes)
        axes.grid(visible=False, axis="y")
        _draw_bars(axes, by_method(its_runs))
        title = wrapped(setting_title(its_runs[0]), inches=figure.get_figwidth() - 2, size=9.5)
        axes.set_title(title, fontsize=9.5, loc="left", color=INK)
    panels[-1].set_xlabel("Seconds per epoch")
    panels[-1].margins(x=0.1)
    panels[-1].set_xlim(left=0)
    legend(figure, [swatch(name.capitalize(), colour) for name, colour in PART_COLOURS.items()])
    return figure


def _draw_bars(axes: Axes, methods: Mapping[str, Sequence[Series]]) -> None:
    titles = [wrapped(runs[0].names.method_title, inches=_LABEL, size=9) for runs in methods.values()]
    axes.set_yticks(range(len(methods)), titles)
    axes.set_ylim(len(methods) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0, labelsize=9)
    for row, runs in enumerate(methods.values()):
        left = 0.0
        for part, colour in PART_COLOURS.items():
            seconds = _mean_seconds(runs, part)
            axes.barh(row, seconds, 0.66, left=left, color=colour, edgecolor=SOFT_INK, lw=0.5)
            left += seconds
        axes.annotate(
            f"{left:,.{2 if left < 1 else 1 if left < 100 else 0}f}",
            (left, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )


def _mean_seconds(runs: Sequence[Series], part: str) -> float:
    """Seconds that a part of an epoch took, on average over epochs and runs."""
    return statistics.fmean(getattr(epoch, f"{part}_seconds") for run in runs for epoch in run.epochs)


def _csv(runs: Sequence[Series]) -> str:
    """Seconds of the parts of every epoch, wall-clock."""
    rows = [
        (*run_cells(run), m.epoch, *(f"{getattr(m, f'{part}_seconds'):.4f}" for part in PARTS))
        for run in runs
        for m in run.epochs
    ]
    return csv_text((*RUN_COLUMNS, "epoch", *(f"{part}_seconds" for part in PARTS)), rows)
