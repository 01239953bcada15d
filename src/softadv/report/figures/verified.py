"""The share of the training images verified before each epoch: a line per setting, for methods that split them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from softadv.experiments.names import short_title, within_sentence
from softadv.experiments.spec_text import Series, by_method, by_setting, fraction, per_epoch
from softadv.report.comparisons import place
from softadv.report.figures.page_figure import (
    FigureInput,
    PageFigure,
    file_name,
    has_seeds,
    of_settings,
    page_figure,
    with_variations,
)
from softadv.report.figures.partition import counts_csv, share_of, split_runs
from softadv.report.figures.style import epoch_axis, legend, literal, new_figure, style, suptitle
from softadv.training.records import EpochMetrics

_DIRECT = 6  # so many lines have their labels beside their ends
_LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))  # so that neighbours differ in grey, too


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    """A figure for each data set with a line for each setting, then one for each setting that has variations."""
    runs = split_runs(source)
    spread = "Lines and bands: mean ± standard deviation over the seeds." if has_seeds(runs) else "One seed."
    for dataset in dict.fromkeys(group[0].trial.dataset for group in by_setting(runs).values()):
        bases = [family.base.trial for family in source.families if family.base.trial.dataset == dataset]
        its_runs = of_settings(runs, [base.setting for base in bases])
        if its_runs:
            title = its_runs[0].names.dataset_title
            radii = [base.eps for base in bases]
            labels = {
                base.setting: f"ε {fraction(base.eps)}" if radii.count(base.eps) == 1 else base.setting
                for base in bases
            }
            caption = f"{title}: share of the training images verified before each epoch{_whose(its_runs)}. {spread}"
            yield page_figure(
                "verified", f"verified-{file_name(dataset)}", draw(_lines(its_runs, labels), title=title), its_runs,
                caption=caption, csv=counts_csv(its_runs),
            )  # fmt: skip
    for family, its_runs in with_variations(runs, source.families):
        names = {run.trial.setting: run.trial.setting for run in its_runs}
        caption = f"{place(family.base)}: the same, for each variation of what the paper leaves open. {spread}"
        yield page_figure(
            "verified", f"verified-variations-{family.base.trial.setting}",
            draw(_lines(its_runs, names), title=place(family.base)), its_runs,
            caption=caption, csv=counts_csv(its_runs), variation=True,
        )  # fmt: skip


def _lines(runs: Sequence[Series], labels: Mapping[str, str]) -> dict[str, list[Series]]:
    """By label, the runs of each method in each setting; the method is named where there are several."""
    several = len(by_method(runs)) > 1
    return {
        labels[setting] + (f", {within_sentence(short_title(method, same[0].names))}" if several else ""): same
        for setting, its_runs in by_setting(runs).items()
        for method, same in by_method(its_runs).items()
    }


def _whose(runs: Sequence[Series]) -> str:
    return " of soft training" if list(by_method(runs)) == ["soft"] else ""


def draw(lines: Mapping[str, Sequence[Series]], *, title: str) -> Figure:
    """The share of the training images that is verified at the start of each epoch.

    lines: by label, the runs of one method in one setting. Bands are the standard deviation over seeds.
    """
    shades = [tuple(rgba) for rgba in matplotlib.colormaps["viridis"](np.linspace(0, 0.82, len(lines)))]
    figure = new_figure(width=7.6, height=3.6 + 0.1 * max(len(lines) - _DIRECT, 0))
    axes = figure.subplots()
    style(axes)
    for index, (label, runs) in enumerate(lines.items()):
        first = 1 + runs[0].trial.natural_epochs  # before it nothing is certified
        curve = {epoch: found for epoch, found in per_epoch(runs, _verified_percent).items() if epoch >= first}
        means, deviations = [m for m, _ in curve.values()], [d or 0.0 for _, d in curve.values()]
        axes.plot(
            list(curve),
            means,
            color=shades[index],
            lw=2,
            ls=_LINES[index % len(_LINES)],
            marker="o" if len(curve) == 1 else None,
            ms=4,
            label=f"{label}: {means[-1]:.1f}",
        )
        low, high = np.subtract(means, deviations), np.add(means, deviations)
        axes.fill_between(list(curve), low, high, color=shades[index], alpha=0.18, lw=0)
    axes.set_ylabel("Verified training images (%)")
    epoch_axis(axes, [run for runs in lines.values() for run in runs])
    axes.set_ylim(0, max(min(axes.get_ylim()[1], 100), 1))
    last = {np.asarray(line.get_xdata())[-1] for line in axes.lines}
    if len(last) == 1 and len(lines) <= _DIRECT:
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
            literal(str(line.get_label())),
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
