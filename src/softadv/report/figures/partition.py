"""How the training images are split at the start of each epoch: a figure per setting, for methods that split them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from softadv.experiments.spec_text import DOMAIN_TITLES, Series, by_method, per_epoch
from softadv.report.figures.colors import PARTITION, area
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
from softadv.report.figures.svg import Panel, hit, label_width, path, tag
from softadv.training.records import EpochMetrics


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    """A figure for each setting, and each of its methods, with runs that split the training images."""
    for setting, its_runs, variation in settings_in_order(split_runs(source), source.families):
        for method, runs in by_method(its_runs).items():
            stem = f"partition-{setting}" if method == "soft" else f"partition-{setting}-{file_name(method)}"
            yield page_figure(
                "partition", stem, draw(runs, title=source.words.get(setting, setting)), runs,
                caption=_caption(runs), csv=counts_csv(runs), variation=variation,
            )  # fmt: skip


def split_runs(source: FigureInput) -> list[Series]:
    """The runs that have split the training images by their last epoch."""
    return [run for run in source.shown if run.epochs[-1].verified is not None]


def draw(runs: Sequence[Series], *, title: str) -> list[Panel]:
    """How the training images split at the start of each epoch, for runs of one method in one setting.

    title: what the setting is called.
    """
    shares = shares_by_class(runs)
    epochs = len(shares["verified"])
    if runs[0].trial.method != "soft":
        title = f"{runs[0].names.method_title}, {title}"
    last = [f"{name} {share[-1]:.1f}" for name, share in shares.items()]
    panel = Panel(f"{title}: training images in the last epoch, in %: {', '.join(last)}", right=label_width(last))
    x, y = panel.across(*((1, epochs) if epochs > 1 else (0.5, 1.5))), panel.upward(0, 100)
    panel.title(title)
    panel.axes(x, y, x_name="Epoch", y_name="Share of training images (%)", whole=True)
    at = [x.start, x.end] if epochs == 1 else [x(epoch) for epoch in range(1, epochs + 1)]
    floor, labels = [0.0] * len(at), []
    for (name, found), said in zip(shares.items(), last, strict=True):
        share = found * 2 if epochs == 1 else found
        top = [low + more for low, more in zip(floor, share, strict=True)]
        upper, lower = ([(place, y(value)) for place, value in zip(at, edge, strict=True)] for edge in (top, floor))
        panel.add(tag("path", d=path([*upper, *reversed(lower)]) + "Z", class_=area(PARTITION[name])))
        labels.append((said, y((floor[-1] + top[-1]) / 2), PARTITION[name]))
        floor = top
    panel.end_labels(labels)
    width = (x.end - x.start) / max(epochs - 1, 1)
    for place_of, epoch in zip(at, range(1, epochs + 1), strict=False):
        said = ", ".join(f"{name} {share[epoch - 1]:.2f}%" for name, share in shares.items())
        left, right = max(place_of - width / 2, x.start), min(place_of + width / 2, x.end)
        panel.add(hit(f"Epoch {epoch}: {said}", left, y.end, right - left, y.start - y.end))
    return [panel]


def shares_by_class(runs: Sequence[Series]) -> dict[str, list[float]]:
    """Mean share in % of each class of the partition, per epoch, from the bottom of the figure to its top."""
    return {name: [100 * mean for mean, _ in per_epoch(runs, share_of(name)).values()] for name in PARTITION}


_COUNTS = ("misclassified", "unverified", "verified", "certified", "stale", "oldest_verdict_epochs")


def share_of(name: str) -> Callable[[EpochMetrics], float]:
    """A function from an epoch to the share of this class of the partition, in [0, 1]; 0 where nothing was split."""

    def share(metrics: EpochMetrics) -> float:
        counts = {key: getattr(metrics, key) or 0 for key in PARTITION}
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
