"""Natural and adversarial accuracy against epochs: a figure per setting, a panel per method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from softadv.experiments.names import within_sentence
from softadv.experiments.spec_text import Series, by_method, per_epoch, setting_title
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
    SOFT_INK,
    epoch_axis,
    legend,
    new_figure,
    style,
    suptitle,
    within_percent,
    wrapped,
)

_MOST_COLUMNS = 3  # of panels, so that they are not too small on a page


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
    rows = -(-len(methods) // _MOST_COLUMNS)
    columns = -(-len(methods) // rows)
    figure = new_figure(width=max(3.3 * columns, 4.8), height=2.7 * rows + 0.9)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    used = panels[: len(methods)]
    for axes, its_runs in zip(used, methods.values(), strict=True):
        style(axes)
        _draw_curves(axes, its_runs)
        names = its_runs[0].names
        title = wrapped(names.method_title, inches=figure.get_figwidth() / columns - 0.3, size=10)
        axes.set_title(title, fontsize=10, color=names.method_color, fontweight="bold")
        epoch_axis(axes, runs)
    for axes in used[::columns]:
        axes.set_ylabel("Accuracy on test images (%)")
    used[0].set_ylim(*within_percent(used[0].get_ylim()))
    for axes in used:
        _label_ends(axes)
    for axes in panels[len(methods) :]:
        axes.set_axis_off()
    suptitle(figure, setting_title(runs[0]))
    styles = {"Natural accuracy": "-", "Adversarial accuracy": (0, (4, 2))}
    legend(figure, [Line2D([], [], color=SOFT_INK, lw=2, ls=ls, label=label) for label, ls in styles.items()])
    return figure


def _draw_curves(axes: Axes, runs: Sequence[Series]) -> None:
    colour = runs[0].names.method_color
    curves = [
        (per_epoch(runs, lambda m: _percent(m.natural_accuracy)), "-"),
        (per_epoch(runs, lambda m: _percent(m.adversarial_accuracy)), (0, (4, 2))),
    ]
    for curve, dashes in curves:
        if not curve:
            continue
        epochs = list(curve)
        means = [mean for mean, _ in curve.values()]
        deviations = [deviation or 0.0 for _, deviation in curve.values()]
        axes.plot(epochs, means, color=colour, lw=2, ls=dashes, marker="o" if len(curve) == 1 else None, ms=4)
        if any(deviations):
            low, high = np.subtract(means, deviations), np.add(means, deviations)
            axes.fill_between(epochs, low, high, color=colour, alpha=0.18, lw=0)


def _percent(accuracy: float | None) -> float | None:
    return None if accuracy is None else 100 * accuracy


def _label_ends(axes: Axes) -> None:
    """Write the last value beside each curve, apart where two would touch."""
    low, high = axes.get_ylim()
    ends = [(x[-1], y[-1]) for x, y in (np.asarray(curve.get_data()) for curve in axes.lines)]
    near = len(ends) > 1 and abs(ends[0][1] - ends[1][1]) < 0.07 * (high - low)
    for (x, y), side, curve in zip(ends, ("bottom", "top"), axes.lines, strict=False):
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
    for same in by_method(runs).values():
        natural = per_epoch(same, lambda m: m.natural_accuracy)
        adversarial = per_epoch(same, lambda m: m.adversarial_accuracy)
        if natural and adversarial:
            ends = [100 * list(curve.values())[-1][0] for curve in (natural, adversarial)]
            parts.append(f"{within_sentence(same[0].names.method_title)} {ends[0]:.1f}% and {ends[1]:.1f}%")
    caption = f"Natural and adversarial accuracy after the last epoch: {'; '.join(parts)}."
    every = {run.trial.evaluate_every for run in runs}
    if every != {1}:
        caption += f" Measured every {' or '.join(map(str, sorted(every)))} epochs, and after the last."
    if has_seeds(runs):
        return f"{caption} Lines and bands: mean ± standard deviation over the seeds."
    return f"{caption} One seed."


def _csv(runs: Sequence[Series]) -> str:
    """Accuracies on the test images after every epoch, in %; empty where they were not measured."""
    rows = [
        (*run_cells(run), m.epoch, percent_text(m.natural_accuracy), percent_text(m.adversarial_accuracy))
        for run in runs
        for m in run.epochs
    ]
    return csv_text((*RUN_COLUMNS, "epoch", "natural_accuracy_percent", "adversarial_accuracy_percent"), rows)
