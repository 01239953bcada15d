"""The numbers behind each figure, as CSV: a row per run and epoch, or per run, before any averaging."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from softadv.experiments.spec_text import Series, fraction
from softadv.report.costs import PARTS

_RUN = ("setting", "dataset", "eps", "method", "seed")


def accuracy_csv(runs: Sequence[Series]) -> str:
    """Accuracies on the test images after every epoch, in %."""
    rows = [
        (*_run(run), m.epoch, _percent(m.natural_accuracy), _percent(m.adversarial_accuracy))
        for run in runs
        for m in run.epochs
    ]
    return _csv((*_RUN, "epoch", "natural_accuracy_percent", "adversarial_accuracy_percent"), rows)


def trade_off_csv(runs: Sequence[Series]) -> str:
    """Accuracies on the test images after the last epoch, in %."""
    rows = [
        (*_run(run), run.trial.epochs, _percent(last.natural_accuracy), _percent(last.adversarial_accuracy))
        for run in runs
        for last in run.epochs[-1:]
    ]
    return _csv((*_RUN, "epochs", "natural_accuracy_percent", "adversarial_accuracy_percent"), rows)


def partition_csv(runs: Sequence[Series]) -> str:
    """Counts of training images at the split that each epoch was trained with; epochs without one are left out."""
    rows = [
        (*_run(run), m.epoch, m.misclassified, m.unverified, m.verified)
        for run in runs
        for m in run.epochs
        if m.verified is not None
    ]
    return _csv((*_RUN, "epoch", "misclassified", "unverified", "verified"), rows)


def time_csv(runs: Sequence[Series]) -> str:
    """Seconds of the parts of every epoch, wall-clock."""
    rows = [
        (*_run(run), m.epoch, *(f"{getattr(m, f'{part}_seconds'):.4f}" for part in PARTS))
        for run in runs
        for m in run.epochs
    ]
    return _csv((*_RUN, "epoch", *(f"{part}_seconds" for part in PARTS)), rows)


def examples_csv(examples: Mapping[str, Tensor]) -> str:
    """What the examples show in words: classes by number, and the margin by which an image is verified or not."""
    keys = ("label", "predicted", "predicted_attacked", "verified", "margin")
    rows = [(index, *(_plain(examples[key][index].item()) for key in keys)) for index in range(len(examples["image"]))]
    return _csv(("test_image", *keys), rows)


def _run(run: Series) -> tuple[object, ...]:
    trial = run.trial
    return trial.setting, trial.dataset, fraction(trial.eps), trial.method, trial.seed


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.4f}".rstrip("0").rstrip(".")


def _plain(value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}"


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
