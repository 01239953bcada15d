"""The share of the training images verified before each epoch: a line per setting, for methods that split them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from softadv.data import dataset_title
from softadv.experiments.spec_text import Series, by_setting, fraction, per_epoch
from softadv.report.comparisons import place
from softadv.report.figures.page_figure import (
    FigureInput,
    PageFigure,
    has_seeds,
    of_settings,
    page_figure,
    with_variations,
)
from softadv.report.figures.partition import counts_csv, share_of, split_runs
from softadv.report.figures.style import epoch_axis, legend, new_figure, style, suptitle
from softadv.training.records import EpochMetrics

_DIRECT = 6  # so many lines have their labels beside their ends
_LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))  # so that neighbours differ in grey, too


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    """A figure for each data set with a line for each setting, then one for each setting that has variations."""
    runs = split_runs(source)
    spread = "Lines and bands: mean ± standard deviation over the seeds." if has_seeds(runs) else "One seed."
    for dataset in dict.fromkeys(group[0].trial.dataset for group in by_setting(runs).values()):
        title = dataset_title(dataset)
        bases = [family.base for family in source.families if family.base.dataset == dataset]
        its_runs = of_settings(runs, [base.setting for base in bases])
        if its_runs:
            radii = [base.eps for base in bases]
            labels = {
                base.setting: f"ε {fraction(base.eps)}" if radii.count(base.eps) == 1 else base.setting
                for base in bases
            }
            figure = draw(its_runs, labels=labels, title=title)
            caption = f"{title}: share of the training images verified before each epoch of soft training. {spread}"
            yield page_figure("verified", f"verified-{_file_name(dataset)}", figure, its_runs, caption=caption,
                              csv=counts_csv(its_runs))  # fmt: skip
    for family, its_runs in with_variations(runs, source.families):
        names = {run.trial.setting: run.trial.setting for run in its_runs}
        figure = draw(its_runs, labels=names, title=place(family.base))
        caption = f"{place(family.base)}: the same, for each variation of what the paper leaves open. {spread}"
        yield page_figure("verified", f"verified-variations-{family.base.setting}", figure, its_runs, caption=caption,
                          csv=counts_csv(its_runs), variation=True)  # fmt: skip


def draw(runs: Sequence[Series], *, labels: Mapping[str, str], title: str) -> Figure:
    """The share of the training images that is verified at the start of each epoch: a line per setting, for soft runs.

    labels: what to call each setting. Bands are the standard deviation over seeds.
    """
    settings = by_setting(runs)
    shades = [tuple(rgba) for rgba in matplotlib.colormaps["viridis"](np.linspace(0, 0.82, len(settings)))]
    figure = new_figure(width=7.6, height=3.6 + 0.1 * max(len(settings) - _DIRECT, 0))
    axes = figure.subplots()
    style(axes)
    for index, (setting, its_runs) in enumerate(settings.items()):
        first = 1 + its_runs[0].trial.natural_epochs  # before it nothing is certified
        curve = per_epoch(its_runs, _verified_percent)[first - 1 :]
        epochs = range(first, first + len(curve))
        means, deviations = [m for m, _ in curve], [d or 0.0 for _, d in curve]
        axes.plot(
            epochs,
            means,
            color=shades[index],
            lw=2,
            ls=_LINES[index % len(_LINES)],
            marker="o" if len(curve) == 1 else None,
            ms=4,
            label=f"{labels[setting]}: {means[-1]:.1f}",
        )
        low, high = np.subtract(means, deviations), np.add(means, deviations)
        axes.fill_between(epochs, low, high, color=shades[index], alpha=0.18, lw=0)
    axes.set_ylabel("Verified training images (%)")
    epoch_axis(axes, runs)
    axes.set_ylim(0, max(min(axes.get_ylim()[1], 100), 1))
    last = {np.asarray(line.get_xdata())[-1] for line in axes.lines}
    if len(last) == 1 and len(settings) <= _DIRECT:
        _label_lines(axes, inches=figure.get_figheight() - 1.2)
    else:
        legend(figure, axes.lines, columns=2)
    suptitle(figure, title)
    return figure


def _label_lines(axes: Axes, *, inches: float) -> None:
    """Write each line's label beside its end, apart where two would touch. inches: the axis's height."""
    low, high = axes.get_ylim()
    apart = 0.17 / inches * (high - low)  # a line of text takes 0.17 inches
    lines = sorted(axes.lines, key=lambda line: float(np.asarray(line.get_ydata())[-1]))
    heights: list[float] = []
    for line in lines:
        end = float(np.asarray(line.get_ydata())[-1])
        heights.append(max([end, *(height + apart for height in heights[-1:])]))
    highest = high
    for index in reversed(range(len(heights))):  # those that were pushed beyond the top come down again
        heights[index] = min(heights[index], highest)
        highest = heights[index] - apart
    for line, height in zip(lines, heights, strict=True):
        axes.annotate(
            str(line.get_label()),
            (axes.get_xlim()[1], height),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=line.get_color(),
            fontsize=9,
            annotation_clip=False,
        )


def _verified_percent(metrics: EpochMetrics) -> float:
    """The share of the training images that was verified before an epoch, in %; 0 where none was asked about."""
    return 100 * share_of("verified")(metrics)


def _file_name(dataset: str) -> str:
    """A data set's name as part of a file's: "folder:a/b" becomes "folder-a-b"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", dataset)
