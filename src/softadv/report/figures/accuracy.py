"""Natural and adversarial accuracy against epochs: a figure per setting, a panel per method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from softadv.experiments.names import within_sentence
from softadv.experiments.spec_text import Series, by_method, per_epoch
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
from softadv.report.figures.svg import DASHES, Panel, around, hit, label_width, within_percent
from softadv.report.words import method_title

Curve = dict[int, tuple[float, float | None]]  # mean and deviation in %, by epoch


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


def draw(runs: Sequence[Series]) -> list[Panel]:
    """Natural and adversarial accuracy against epochs, one panel per method, for the runs of one setting."""
    methods = {method: (same, _curves(same)) for method, same in by_method(runs).items()}
    values = [
        mean + sign * (deviation or 0)
        for _, curves in methods.values()
        for curve in curves
        for mean, deviation in curve.values()
        for sign in (-1, 1)
    ]
    limits = within_percent(around(values, least=5))
    longest = max(len(run.epochs) for run in runs)
    return [_panel(same, curves, limits=limits, epochs=longest) for same, curves in methods.values()]


def _curves(runs: Sequence[Series]) -> tuple[Curve, Curve]:
    return (
        per_epoch(runs, lambda m: _percent(m.natural_accuracy)),
        per_epoch(runs, lambda m: _percent(m.adversarial_accuracy)),
    )


def _panel(runs: Sequence[Series], curves: Sequence[Curve], *, limits: tuple[float, float], epochs: int) -> Panel:
    title, color = method_title(runs[0].trial.method, runs[0].names), runs[0].names.method_color
    parts = [
        (f"{what} {list(curve.values())[-1][0]:.1f}", curve, dashes)
        for what, curve, dashes in zip(("natural", "attacked"), curves, DASHES, strict=False)
        if curve
    ]
    ends = f": after the last epoch {' and '.join(said for said, _, _ in parts)}" if parts else ""
    panel = Panel(f"{title}{ends}", right=label_width(["attacked 99.9"]))
    x, y = panel.across(*((1, epochs) if epochs > 1 else (0.5, 1.5))), panel.upward(*limits)
    panel.title(title)
    panel.axes(x, y, x_name="Epoch", y_name="Accuracy (%)", whole=True)
    for _, curve, dashes in parts:
        upper, lower = (
            [(x(epoch), y(mean + sign * (deviation or 0))) for epoch, (mean, deviation) in curve.items()]
            for sign in (1, -1)
        )
        if len(curve) > 1 and upper != lower:
            panel.shade(upper, lower, color)
        panel.line([(x(epoch), y(mean)) for epoch, (mean, _) in curve.items()], color, dashes=dashes)
    panel.end_labels([(said, y(list(curve.values())[-1][0]), color) for said, curve, _ in parts])
    width = (x.end - x.start) / max(epochs - 1, 1)
    for epoch in dict.fromkeys(epoch for _, curve, _ in parts for epoch in curve):
        said = ", ".join(
            f"{what} {_shown(curve[epoch])}"
            for what, curve in zip(("natural", "attacked"), curves, strict=True)
            if epoch in curve
        )
        left, right = max(x(epoch) - width / 2, x.start), min(x(epoch) + width / 2, x.end)
        panel.add(hit(f"{title}, epoch {epoch}: {said}", left, y.end, right - left, y.start - y.end))
    return panel


def _shown(value: tuple[float, float | None]) -> str:
    mean, deviation = value
    return f"{mean:.2f}%" if deviation is None else f"{mean:.2f} ± {deviation:.2f}%"


def _percent(accuracy: float | None) -> float | None:
    return None if accuracy is None else 100 * accuracy


def _caption(runs: Sequence[Series]) -> str:
    parts = []
    for same in by_method(runs).values():
        natural, adversarial = _curves(same)
        if natural and adversarial:
            ends = [list(curve.values())[-1][0] for curve in (natural, adversarial)]
            title = within_sentence(method_title(same[0].trial.method, same[0].names))
            parts.append(f"{title} {ends[0]:.1f}% and {ends[1]:.1f}%")
    caption = f"Natural (solid) and adversarial accuracy (dashed) after the last epoch: {'; '.join(parts)}."
    if not parts:
        caption = "Natural and adversarial accuracy; no epoch was evaluated yet."
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
