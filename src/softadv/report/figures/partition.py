"""How the training images are split at the start of each epoch: a figure per setting, for methods that split them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from matplotlib.figure import Figure

from softadv.experiments.spec_text import DOMAIN_TITLES, Series, by_method, per_epoch, setting_title
from softadv.report.figures.page_figure import (
    RUN_COLUMNS,
    FigureInput,
    PageFigure,
    csv_text,
    file_name,
    page_figure,
    run_cells,
    settings_in_order,
)
from softadv.report.figures.style import PARTITION_COLOURS, epoch_axis, legend, new_figure, style, suptitle, swatch
from softadv.training.records import EpochMetrics


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    """A figure for each setting, and each of its methods, with runs that split the training images."""
    for setting, its_runs, variation in settings_in_order(split_runs(source), source.families):
        for method, runs in by_method(its_runs).items():
            stem = f"partition-{setting}" if method == "soft" else f"partition-{setting}-{file_name(method)}"
            yield page_figure(
                "partition", stem, draw(runs), runs,
                caption=_caption(runs), csv=counts_csv(runs), variation=variation,
            )  # fmt: skip


def split_runs(source: FigureInput) -> list[Series]:
    """The runs that have split the training images by their last epoch."""
    return [run for run in source.shown if run.epochs[-1].verified is not None]


def draw(runs: Sequence[Series]) -> Figure:
    """How the training images split at the start of each epoch, for runs of one method in one setting."""
    shares = shares_by_class(runs)
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
    title = setting_title(runs[0])
    suptitle(figure, title if runs[0].trial.method == "soft" else f"{runs[0].names.method_title}   {title}")
    legend(figure, [swatch(name.capitalize(), colour) for name, colour in PARTITION_COLOURS.items()])
    return figure


def shares_by_class(runs: Sequence[Series]) -> dict[str, list[float]]:
    """Mean share in % of each class of the partition, per epoch, from the bottom of the figure to its top."""
    return {name: [100 * mean for mean, _ in per_epoch(runs, share_of(name)).values()] for name in PARTITION_COLOURS}


_COUNTS = ("misclassified", "unverified", "verified", "certified", "stale", "oldest_verdict_epochs")


def share_of(name: str) -> Callable[[EpochMetrics], float]:
    """A function from an epoch to the share of this class of the partition, in [0, 1]; 0 where nothing was split."""

    def share(metrics: EpochMetrics) -> float:
        counts = {key: getattr(metrics, key) or 0 for key in PARTITION_COLOURS}
        return float(counts[name] / max(sum(counts.values()), 1))

    return share


def _caption(runs: Sequence[Series]) -> str:
    trial = runs[0].trial
    verified = shares_by_class(runs)["verified"][-1]
    when = "each epoch" if trial.split_every == 1 else f"every {trial.split_every} epochs"
    if trial.split == "rolling":
        when += f" (after the first only the {100 * trial.split_share:g}% whose verdicts are oldest)"
    certified = (
        f"Certified with {DOMAIN_TITLES[trial.domain]} at the start of {when}; verified at last: {verified:.1f}%."
    )
    return certified + (f" Mean over {len(runs)} seeds." if len(runs) > 1 else " One seed.")


def counts_csv(runs: Sequence[Series]) -> str:
    """Counts of training images at the split that each epoch was trained with; epochs without one are left out.

    certified: of these, how many were certified for this epoch; stale: how many verdicts are older than that.
    """
    rows = [
        (*run_cells(run), m.epoch, m.misclassified, m.unverified, m.verified, m.certified, m.stale, m.oldest_verdict)
        for run in runs
        for m in run.epochs
        if m.verified is not None
    ]
    return csv_text((*RUN_COLUMNS, "epoch", *_COUNTS), rows)
