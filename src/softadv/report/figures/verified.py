"""The share of the training images verified before each epoch: a line per setting, for methods that split them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from softadv.experiments.names import short_title, within_sentence
from softadv.experiments.spec_text import Series, by_method, by_setting, fraction, per_epoch
from softadv.report.comparisons import place
from softadv.report.figures.colors import ramp
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
from softadv.report.figures.svg import DASHES, LINE, Panel, hit, label_width, shortened, text
from softadv.training.records import EpochMetrics

_DIRECT = 6  # so many lines have their labels beside their ends
_WIDEST = 150.0  # pixels that these labels may take


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
                base.setting: f"ε {fraction(base.eps)}" if radii.count(base.eps) == 1 else source.words[base.setting]
                for base in bases
            }
            caption = f"{title}: share of the training images verified before each epoch{_whose(its_runs)}. {spread}"
            yield page_figure(
                "verified", f"verified-{file_name(dataset)}", draw(_lines(its_runs, labels), title=title), its_runs,
                caption=caption, csv=counts_csv(its_runs), title=f"Verified training images, {title}",
            )  # fmt: skip
    for family, its_runs in with_variations(runs, source.families):
        names = {run.trial.setting: source.words.get(run.trial.setting, run.trial.setting) for run in its_runs}
        caption = f"{place(family.base)}: the same, for each variation of what the paper leaves open. {spread}"
        yield page_figure(
            "verified", f"verified-variations-{family.base.trial.setting}",
            draw(_lines(its_runs, names), title=place(family.base)), its_runs,
            caption=caption, csv=counts_csv(its_runs), title=f"Verified training images, {place(family.base)}",
            variation=True,
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


def draw(lines: Mapping[str, Sequence[Series]], *, title: str) -> list[Panel]:
    """The share of the training images that is verified at the start of each epoch.

    lines: by label, the runs of one method in one setting. Bands are the standard deviation over seeds.
    """
    curves = {label: _curve(runs) for label, runs in lines.items()}
    colors = dict(zip(lines, ramp(len(lines)), strict=True))
    ends = {label: f"{label}: {list(curve.values())[-1][0]:.1f}" for label, curve in curves.items() if curve}
    top = max((mean + (sd or 0) for curve in curves.values() for mean, sd in curve.values()), default=0)
    epochs = max(len(run.epochs) for runs in lines.values() for run in runs)
    said = f"{title}: share of the training images verified before the last epoch, in %: {'; '.join(ends.values())}"
    # Beside the ends there is room for so many labels; more, or long ones, stand below.
    beside = len(ends) <= _DIRECT and label_width(list(ends.values())) <= _WIDEST
    rows = 0 if beside else len(ends)
    panel = Panel(said, right=label_width(list(ends.values())) if beside else 12)
    panel.height += LINE * rows
    panel.bottom += LINE * rows
    x, y = panel.across(*((1, epochs) if epochs > 1 else (0.5, 1.5))), panel.upward(0, min(max(1.06 * top, 1), 100))
    panel.title(title)
    panel.axes(x, y, x_name="Epoch", y_name="Verified training images (%)", whole=True)
    for index, (label, curve) in enumerate(curves.items()):
        if not curve:
            continue
        upper, lower = ([(x(e), y(mean + sign * (sd or 0))) for e, (mean, sd) in curve.items()] for sign in (1, -1))
        if len(curve) > 1 and upper != lower:
            panel.shade(upper, lower, colors[label])
        dashes = DASHES[index % len(DASHES)]
        panel.line([(x(e), y(mean)) for e, (mean, _) in curve.items()], colors[label], dashes=dashes)
        if not beside:
            foot = panel.height - LINE * (rows - index) + LINE / 2
            panel.line([(4, foot), (34, foot)], colors[label], dashes=dashes)
            panel.add(text(shortened(ends[label], panel.width - 44), 42, foot + 4))
    if beside:
        panel.end_labels([(ends[name], y(list(curves[name].values())[-1][0]), colors[name]) for name in ends])
    width = (x.end - x.start) / max(epochs - 1, 1)
    for epoch in sorted({epoch for curve in curves.values() for epoch in curve}):
        values = ", ".join(f"{name} {curve[epoch][0]:.2f}%" for name, curve in curves.items() if epoch in curve)
        left, right = max(x(epoch) - width / 2, x.start), min(x(epoch) + width / 2, x.end)
        panel.add(hit(f"Epoch {epoch}: {values}", left, y.end, right - left, y.start - y.end))
    return [panel]


def _curve(runs: Sequence[Series]) -> dict[int, tuple[float, float | None]]:
    first = 1 + runs[0].trial.natural_epochs  # before it nothing is certified
    return {epoch: found for epoch, found in per_epoch(runs, _verified_percent).items() if epoch >= first}


def _verified_percent(metrics: EpochMetrics) -> float:
    """The share of the training images that was verified before an epoch, in %; 0 where none was asked about."""
    return 100 * share_of("verified")(metrics)
