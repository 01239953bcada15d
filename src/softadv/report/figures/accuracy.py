"""Natural and adversarial accuracy against epochs: a figure per setting, a panel per method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from softadv.experiments.spec_text import METHOD_TITLES, Series, by_method, per_epoch, setting_title
from softadv.report.figures.page_figure import (
    RUN_COLUMNS,
    FigureInput,
    PageFigure,
    csv_text,
    has_seeds,
    page_figure,
    percent_text,
    run_cells,
    settings_in_order,
)
from softadv.report.figures.style import (
    METHOD_COLOURS,
    SOFT_INK,
    epoch_axis,
    legend,
    new_figure,
    style,
    suptitle,
    within_percent,
)


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    """A figure for each setting."""
    for setting, runs, variation in settings_in_order(source.shown, source.families):
        yield page_figure(
            "accuracy",
            f"accuracy-{setting}",
            draw(runs),
            runs,
            caption=_caption(runs),
            csv=_csv(runs),
            variation=variation,
        )


def draw(runs: Sequence[Series]) -> Figure:
    """Natural and adversarial accuracy against epochs, one panel per method, for the runs of one setting."""
    methods = by_method(runs)
    figure = new_figure(width=max(3.3 * len(methods), 4.8), height=3.6)
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, (method, its_runs) in zip(panels, methods.items(), strict=True):
        style(axes)
        _draw_curves(axes, its_runs, colour=METHOD_COLOURS[method])
        axes.set_title(METHOD_TITLES[method], fontsize=10, color=METHOD_COLOURS[method], fontweight="bold")
        epoch_axis(axes, runs)
    panels[0].set_ylabel("Accuracy on test images (%)")
    panels[0].set_ylim(*within_percent(panels[0].get_ylim()))
    for axes in panels:
        _label_ends(axes)
    suptitle(figure, setting_title(runs[0].trial))
    styles = {"Natural accuracy": "-", "Adversarial accuracy": (0, (4, 2))}
    legend(figure, [Line2D([], [], color=SOFT_INK, lw=2, ls=ls, label=label) for label, ls in styles.items()])
    return figure


def _draw_curves(axes: Axes, runs: Sequence[Series], *, colour: str) -> None:
    curves = [
        (per_epoch(runs, lambda m: 100 * m.natural_accuracy), "-"),
        (per_epoch(runs, lambda m: 100 * m.adversarial_accuracy), (0, (4, 2))),
    ]
    for curve, dashes in curves:
        epochs = range(1, len(curve) + 1)
        means = [mean for mean, _ in curve]
        deviations = [deviation or 0.0 for _, deviation in curve]
        axes.plot(epochs, means, color=colour, lw=2, ls=dashes, marker="o" if len(curve) == 1 else None, ms=4)
        if any(deviations):
            low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
            high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
            axes.fill_between(epochs, low, high, color=colour, alpha=0.18, lw=0)


def _label_ends(axes: Axes) -> None:
    """Write the last value beside each curve, apart where two would touch."""
    low, high = axes.get_ylim()
    ends = [(x[-1], y[-1]) for x, y in (np.asarray(curve.get_data()) for curve in axes.lines)]
    near = abs(ends[0][1] - ends[1][1]) < 0.07 * (high - low)
    for (x, y), side, curve in zip(ends, ("bottom", "top"), axes.lines, strict=True):
        axes.annotate(
            f"{y:.1f}",
            (x, y),
            xytext=(4, 0),
            textcoords="offset points",
            va=side if near else "center",
            color=curve.get_color(),
            fontsize=9,
            annotation_clip=False,
        )


def _caption(runs: Sequence[Series]) -> str:
    parts = []
    for method, same in by_method(runs).items():
        natural, adversarial = (
            per_epoch(same, value)[-1][0]
            for value in (lambda m: 100 * m.natural_accuracy, lambda m: 100 * m.adversarial_accuracy)
        )
        parts.append(f"{METHOD_TITLES[method].lower()} {natural:.1f}% and {adversarial:.1f}%")
    caption = f"Natural and adversarial accuracy after the last epoch: {'; '.join(parts)}."
    if has_seeds(runs):
        return f"{caption} Lines and bands: mean ± standard deviation over the seeds."
    return f"{caption} One seed."


def _csv(runs: Sequence[Series]) -> str:
    """Accuracies on the test images after every epoch, in %."""
    rows = [
        (*run_cells(run), m.epoch, percent_text(m.natural_accuracy), percent_text(m.adversarial_accuracy))
        for run in runs
        for m in run.epochs
    ]
    return csv_text((*RUN_COLUMNS, "epoch", "natural_accuracy_percent", "adversarial_accuracy_percent"), rows)
