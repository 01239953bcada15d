"""The report's figures: matplotlib Figures from lists of runs, without any global state."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from softadv.experiments.spec import Method, Trial
from softadv.experiments.spec_text import (
    METHOD_TITLES,
    Series,
    by_method,
    by_setting,
    choices,
    mean_and_deviation,
    per_epoch,
    setting_title,
)
from softadv.report.figures.style import (
    GRID,
    INK,
    METHOD_COLOURS,
    METHOD_MARKERS,
    PART_COLOURS,
    PARTITION_COLOURS,
    SOFT_INK,
    epoch_axis,
    legend,
    new_figure,
    style,
    suptitle,
    swatch,
    within_percent,
    wrapped,
)
from softadv.training.records import EpochMetrics

_TIMES = "\N{MULTIPLICATION SIGN}"
_LETTERS = 12  # of a class's name that its column has room for
_DIRECT = 6  # so many lines have their labels beside their ends
_LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))  # so that neighbours differ in grey, too


def accuracy_figure(runs: Sequence[Series]) -> Figure:
    """Natural and adversarial accuracy against epochs, one panel per method, for the runs of one setting."""
    methods = by_method(runs)
    figure = new_figure(width=max(3.3 * len(methods), 4.8), height=3.6)
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, (method, its_runs) in zip(panels, methods.items(), strict=True):
        style(axes)
        _draw_accuracies(axes, its_runs, colour=METHOD_COLOURS[method])
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


def _draw_accuracies(axes: Axes, runs: Sequence[Series], *, colour: str) -> None:
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


def partition_figure(runs: Sequence[Series]) -> Figure:
    """How the training images split at the start of each epoch, for soft runs of one setting."""
    shares = partition_shares(runs)
    epochs = list(range(1, len(shares["verified"]) + 1))
    figure = new_figure(width=7.6, height=3.6)
    axes = figure.subplots()
    style(axes)
    if len(epochs) > 1:
        axes.stackplot(epochs, *shares.values(), colors=PARTITION_COLOURS.values(), edgecolor="white", lw=0.8)
    else:
        bottom = 0.0
        for name, (share,) in shares.items():
            axes.bar(epochs, share, 0.5, bottom=bottom, color=PARTITION_COLOURS[name], edgecolor="white", lw=0.8)
            bottom += share
    axes.set_ylim(0, 100)
    axes.set_ylabel("Share of training images (%)")
    epoch_axis(axes, runs)
    axes.margins(x=0)
    axes.grid(visible=False)
    suptitle(figure, setting_title(runs[0].trial))
    legend(figure, [swatch(name.capitalize(), colour) for name, colour in PARTITION_COLOURS.items()])
    return figure


def partition_shares(runs: Sequence[Series]) -> dict[str, list[float]]:
    """Mean share in % of each class of the partition, per epoch, from the bottom of the figure to its top."""
    return {name: [100 * mean for mean, _ in per_epoch(runs, _share(name))] for name in PARTITION_COLOURS}


def _share(name: str) -> Callable[[EpochMetrics], float]:
    def share(metrics: EpochMetrics) -> float:
        counts = {key: getattr(metrics, key) or 0 for key in PARTITION_COLOURS}
        return float(counts[name] / max(sum(counts.values()), 1))

    return share


def verified_figure(runs: Sequence[Series], *, labels: Mapping[str, str], title: str) -> Figure:
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
        curve = per_epoch(its_runs, verified_percent)[first - 1 :]
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


def verified_percent(metrics: EpochMetrics) -> float:
    """The share of the training images that was verified before an epoch, in %; 0 where none was asked about."""
    return 100 * _share("verified")(metrics)


def _label_lines(axes: Axes, *, inches: float) -> None:
    """Write each line's label beside its end, apart where two would touch. inches: the axis's height."""
    low, high = axes.get_ylim()
    apart = 0.17 / inches * (high - low)  # a line of text takes 0.17 inches
    lines = sorted(axes.lines, key=lambda line: float(np.asarray(line.get_ydata())[-1]))
    places: list[float] = []
    for line in lines:
        end = float(np.asarray(line.get_ydata())[-1])
        places.append(max([end, *(place + apart for place in places[-1:])]))
    highest = high
    for index in reversed(range(len(places))):  # those that were pushed beyond the top come down again
        places[index] = min(places[index], highest)
        highest = places[index] - apart
    for line, place in zip(lines, places, strict=True):
        axes.annotate(
            str(line.get_label()),
            (axes.get_xlim()[1], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=line.get_color(),
            fontsize=9,
            annotation_clip=False,
        )


def trade_off_figure(runs: Sequence[Series]) -> Figure:
    """Natural against adversarial accuracy after the last epoch: a panel per setting, a point per seed."""
    settings = by_setting(runs)
    columns = min(len(settings), 3)
    rows = -(-len(settings) // columns)
    # A setting that varies assumptions has them in its title, which takes a third line.
    longest = max(len(choices(its_runs[0].trial)) for its_runs in settings.values())
    height = 3.5 + 0.15 * min(longest, 3)
    figure = new_figure(width=max(3.3 * columns, 6.2), height=height * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, its_runs in zip(panels, settings.values(), strict=False):
        style(axes)
        for method, same in by_method(its_runs).items():
            _draw_seeds(axes, same, method=method)
        panel = figure.get_figwidth() / columns - 0.9
        axes.set_title(wrapped(setting_title(its_runs[0].trial), inches=panel, size=9), fontsize=9, color=INK)
        axes.set_xlabel("Natural accuracy (%)")
        axes.set_ylabel("Adversarial accuracy (%)")
        axes.margins(0.15)
        axes.set_xlim(*within_percent(axes.get_xlim()))
        axes.set_ylim(*within_percent(axes.get_ylim()))
    for axes in panels[len(settings) :]:
        axes.set_axis_off()
    legend(
        figure,
        [
            Line2D([], [], color=METHOD_COLOURS[m], marker=METHOD_MARKERS[m], ls="", ms=7, label=METHOD_TITLES[m])
            for m in by_method(runs)
        ],
    )
    return figure


def _draw_seeds(axes: Axes, runs: Sequence[Series], *, method: Method) -> None:
    x = [100 * run.epochs[-1].natural_accuracy for run in runs]
    y = [100 * run.epochs[-1].adversarial_accuracy for run in runs]
    (x_mean, x_deviation), (y_mean, y_deviation) = mean_and_deviation(x), mean_and_deviation(y)
    colour, marker = METHOD_COLOURS[method], METHOD_MARKERS[method]
    if len(runs) > 1:
        axes.scatter(x, y, s=16, color=colour, marker=marker, alpha=0.45, lw=0)
    axes.errorbar(
        [x_mean],
        [y_mean],
        xerr=None if x_deviation is None else [x_deviation],
        yerr=None if y_deviation is None else [y_deviation],
        color=colour,
        marker=marker,
        ms=7,
        mec="white",
        mew=0.8,
        elinewidth=1.4,
        capsize=3,
    )


def time_figure(runs: Sequence[Series]) -> Figure:
    """Seconds of an epoch's parts, a stacked bar per method, a panel per setting."""
    settings = by_setting(runs)
    counts = [len(by_method(its_runs)) for its_runs in settings.values()]
    figure = new_figure(width=8.2, height=0.36 * sum(counts) + 0.55 * len(counts) + 1.0)
    panels = figure.subplots(len(settings), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    for axes, its_runs in zip(panels, settings.values(), strict=True):
        style(axes)
        axes.grid(visible=False, axis="y")
        _draw_times(axes, by_method(its_runs))
        title = wrapped(setting_title(its_runs[0].trial), inches=figure.get_figwidth() - 2, size=9.5)
        axes.set_title(title, fontsize=9.5, loc="left", color=INK)
    panels[-1].set_xlabel("Seconds per epoch")
    panels[-1].margins(x=0.1)
    panels[-1].set_xlim(left=0)
    legend(figure, [swatch(name.capitalize(), colour) for name, colour in PART_COLOURS.items()])
    return figure


def _draw_times(axes: Axes, methods: Mapping[Method, Sequence[Series]]) -> None:
    axes.set_yticks(range(len(methods)), [METHOD_TITLES[method] for method in methods])
    axes.set_ylim(len(methods) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0, labelsize=9)
    for row, runs in enumerate(methods.values()):
        left = 0.0
        for part, colour in PART_COLOURS.items():
            seconds = mean_seconds(runs, part)
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


def mean_seconds(runs: Sequence[Series], part: str) -> float:
    """Seconds that a part of an epoch took, on average over epochs and runs."""
    return statistics.fmean(getattr(epoch, f"{part}_seconds") for run in runs for epoch in run.epochs)


def difference_gain(trial: Trial) -> int:
    """By how much examples_figure amplifies the difference of pixels: eps becomes full black or white."""
    return max(int(0.5 / trial.eps + 1e-6), 1) if trial.eps else 1


def examples_figure(trial: Trial, examples: Mapping[str, Tensor], *, class_names: Sequence[str]) -> Figure:
    """Test images, their attacks and the differences, with predictions and verdicts.

    examples: what examples.safetensors holds. class_names: a class without a name there is shown by its number.
    """
    image, attacked = examples["image"], examples["attacked"]
    gain, count = difference_gain(trial), len(image)
    shown = (image, attacked, (0.5 + gain * (attacked - image)).clamp(0, 1))
    figure = new_figure(width=1.2 * count + 0.7, height=4.7)
    panels = figure.subplots(3, count, squeeze=False)
    for row, (name, images) in enumerate(
        zip(("Original", "Attacked", f"Difference {_TIMES} {gain}"), shown, strict=True)
    ):
        for axes, pixels in zip(panels[row], images, strict=True):
            drawn = pixels if len(pixels) == 3 else pixels.mean(0, keepdim=True)  # other channels than RGB: as grey
            axes.imshow(drawn.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color(GRID)
        panels[row][0].set_ylabel(name, fontsize=10, color=INK)
    names = dict(enumerate(class_names))
    for column in range(count):
        _label_example(list(panels[:, column]), {key: value[column] for key, value in examples.items()}, names)
    return figure


def _short(names: Mapping[int, str], label: int) -> str:
    name = names.get(label, str(label))
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _label_example(panels: Sequence[Axes], example: Mapping[str, Tensor], names: Mapping[int, str]) -> None:
    label, verdict = int(example["label"]), "unverified"
    if int(example["predicted"]) != label:
        verdict = "misclassified"
    elif bool(example["verified"]):
        verdict = "verified"
    panels[0].set_title(f"label {_short(names, label)}", fontsize=9, color=INK)
    for axes, key in zip(panels, ("predicted", "predicted_attacked"), strict=False):
        right = int(example[key]) == label
        text = f"{_short(names, int(example[key]))} {'✓' if right else '✗'}"
        axes.set_xlabel(text, fontsize=9.5, color=INK, fontweight="normal" if right else "bold")
    panels[2].set_xlabel(
        verdict,
        fontsize=8.5,
        color=INK,
        bbox={"boxstyle": "round,pad=0.25", "facecolor": PARTITION_COLOURS[verdict], "alpha": 0.45, "lw": 0},
    )
