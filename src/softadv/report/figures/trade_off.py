"""Natural against adversarial accuracy after the last epoch: a panel per setting, a point per seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from softadv.experiments.spec_text import (
    Series,
    by_method,
    by_setting,
    choices,
    mean_and_deviation,
    setting_title,
)
from softadv.report.figures.page_figure import (
    RUN_COLUMNS,
    FigureInput,
    PageFigure,
    csv_text,
    has_seeds,
    of_settings,
    page_figure,
    percent_text,
    run_cells,
    with_variations,
)
from softadv.report.figures.style import (
    INK,
    legend,
    legend_rows,
    new_figure,
    style,
    swatch,
    within_percent,
    wrapped,
)

_OWN = {"natural": "o", "adversarial": "s", "soft": "D"}
_OTHER = ("^", "v", "P", "X", "<", ">", "p", "h", "*")


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    """One figure for all settings as the paper has them, then one for each that varies its assumptions."""
    runs = source.finished
    spread = (
        "Small points: seeds. Large points and bars: mean ± standard deviation over them."
        if has_seeds(runs)
        else "One seed per method, so no spread is shown."
    )
    caption = f"After the last epoch, finished trials only. {spread}"
    bases = of_settings(runs, [family.base.trial.setting for family in source.families])
    if bases:
        yield page_figure("trade-off", "trade-off", draw(bases), bases, caption=caption,
                       csv=_csv(bases))  # fmt: skip
    for family, its_runs in with_variations(runs, source.families):
        yield page_figure(
            "trade-off", f"trade-off-variations-{family.base.trial.setting}", draw(its_runs), its_runs,
            caption=caption, csv=_csv(its_runs), variation=True,
        )  # fmt: skip


def draw(runs: Sequence[Series]) -> Figure:
    """Natural against adversarial accuracy after the last epoch: a panel per setting, a point per seed."""
    settings = by_setting(runs)
    columns = min(len(settings), 3)
    rows = -(-len(settings) // columns)
    # A setting that varies assumptions has them in its title, which takes a third line.
    longest = max(len(choices(its_runs[0].trial)) for its_runs in settings.values())
    height = 3.5 + 0.15 * min(longest, 3)
    methods = by_method(runs)
    markers = _markers(list(methods))
    handles = [
        swatch(same[0].names.method_title, same[0].names.method_color, marker=markers[method])
        for method, same in methods.items()
    ]
    width = max(3.3 * columns, 6.2)
    figure = new_figure(width=width, height=height * rows + 0.3 + 0.2 * legend_rows(handles, width=width))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, its_runs in zip(panels, settings.values(), strict=False):
        style(axes)
        for method, same in by_method(its_runs).items():
            _draw_seeds(axes, same, marker=markers[method])
        panel = figure.get_figwidth() / columns - 0.9
        axes.set_title(wrapped(setting_title(its_runs[0]), inches=panel, size=9), fontsize=9, color=INK)
        axes.set_xlabel("Natural accuracy (%)")
        axes.set_ylabel("Adversarial accuracy (%)")
        axes.margins(0.15)
        axes.set_xlim(*within_percent(axes.get_xlim()))
        axes.set_ylim(*within_percent(axes.get_ylim()))
    for axes in panels[len(settings) :]:
        axes.set_axis_off()
    legend(figure, handles)
    return figure


def _markers(methods: Sequence[str]) -> dict[str, str]:
    """A marker for each method: beside the colour, so that they can be told apart in grey."""
    others = [method for method in methods if method not in _OWN]
    return _OWN | {method: _OTHER[index % len(_OTHER)] for index, method in enumerate(others)}


def _draw_seeds(axes: Axes, runs: Sequence[Series], *, marker: str) -> None:
    ends = [end for run in runs if (end := run.accuracies) is not None]
    if not ends:
        return
    x, y = [100 * natural for natural, _ in ends], [100 * adversarial for _, adversarial in ends]
    (x_mean, x_deviation), (y_mean, y_deviation) = mean_and_deviation(x), mean_and_deviation(y)
    colour = runs[0].names.method_color
    if len(ends) > 1:
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


def _csv(runs: Sequence[Series]) -> str:
    """Accuracies on the test images after the last epoch, in %."""
    rows = [
        (*run_cells(run), run.trial.epochs, *map(percent_text, ends))
        for run in runs
        if (ends := run.accuracies) is not None
    ]
    return csv_text((*RUN_COLUMNS, "epochs", "natural_accuracy_percent", "adversarial_accuracy_percent"), rows)
