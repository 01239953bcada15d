"""The figures of the page: which there are, for which runs, with their captions and files."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from softadv._io import read_tensors
from softadv.data import KNOWN, dataset_title
from softadv.errors import SoftadvError
from softadv.experiments.run_folder import EXAMPLES
from softadv.experiments.runs import Entry
from softadv.experiments.spec import METHODS, Trial
from softadv.experiments.spec_text import (
    DOMAIN_TITLES,
    METHOD_TITLES,
    Series,
    by_method,
    by_setting,
    fraction,
    per_epoch,
    setting_title,
)
from softadv.report.comparisons import Family, families, place
from softadv.report.figures import csv as figure_data
from softadv.report.figures import figures
from softadv.report.figures.style import png, svg


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of the page, and its files."""

    section: str
    stem: str  # of its files' names
    title: str
    caption: str
    width: int  # in CSS pixels, so that the text of every figure has the same size
    variation: bool  # whether it is of settings that vary an assumption
    png: bytes
    svg: bytes
    csv: str

    @property
    def uri(self) -> str:
        """The PNG as a data: URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def files(self) -> dict[str, bytes]:
        """What lies beside the page, by name."""
        return {f"{self.stem}.png": self.png, f"{self.stem}.svg": self.svg, f"{self.stem}.csv": self.csv.encode()}


def pictures(entries: Sequence[Entry]) -> Iterator[Picture]:
    """Every figure, by section; within it the settings as the paper has them first, then their variations."""
    finished = [Series(trial=e.trial, epochs=e.epochs) for e in entries if e.trial and e.epochs and e.result]
    shown = _shown(entries, finished)
    split = [run for run in shown if run.epochs[-1].verified is not None]
    found = families([entry.trial for entry in entries if entry.trial])
    yield from _accuracies(shown, found)
    yield from _verified(split, found)
    yield from _partitions(split, found)
    yield from _trade_offs(finished, found)
    yield from _times(shown, found)
    yield from _examples(entries)


def _shown(entries: Sequence[Entry], finished: Sequence[Series]) -> list[Series]:
    """The finished runs; for methods of a setting without one, those that have finished an epoch."""
    covered = {(run.trial.setting, run.trial.method) for run in finished}
    begun = [Series(trial=e.trial, epochs=e.epochs) for e in entries if e.trial and e.epochs and not e.result]
    return [*finished, *(run for run in begun if (run.trial.setting, run.trial.method) not in covered)]


def _accuracies(runs: Sequence[Series], found: Sequence[Family]) -> Iterator[Picture]:
    for setting, its_runs, variation in _by_setting(runs, found):
        yield _picture(
            "accuracy", f"accuracy-{setting}", figures.accuracy_figure(its_runs), its_runs,
            caption=_accuracy_caption(its_runs), csv=figure_data.accuracy_csv(its_runs), variation=variation,
        )  # fmt: skip


def _partitions(runs: Sequence[Series], found: Sequence[Family]) -> Iterator[Picture]:
    for setting, its_runs, variation in _by_setting(runs, found):
        yield _picture(
            "partition", f"partition-{setting}", figures.partition_figure(its_runs), its_runs,
            caption=_partition_caption(its_runs), csv=figure_data.partition_csv(its_runs), variation=variation,
        )  # fmt: skip


def _verified(runs: Sequence[Series], found: Sequence[Family]) -> Iterator[Picture]:
    """A line for each setting of a dataset, then for each variation of a setting."""
    spread = "Lines and bands: mean ± standard deviation over the seeds." if _has_seeds(runs) else "One seed."
    for dataset in dict.fromkeys(group[0].trial.dataset for group in by_setting(runs).values()):
        title = dataset_title(dataset)
        bases = [family.base for family in found if family.base.dataset == dataset]
        its_runs = _of(runs, [base.setting for base in bases])
        if its_runs:
            radii = [base.eps for base in bases]
            labels = {
                base.setting: f"ε {fraction(base.eps)}" if radii.count(base.eps) == 1 else base.setting
                for base in bases
            }
            figure = figures.verified_figure(its_runs, labels=labels, title=title)
            caption = f"{title}: share of the training images verified before each epoch of soft training. {spread}"
            yield _picture("verified", f"verified-{_file_name(dataset)}", figure, its_runs, caption=caption,
                           csv=figure_data.partition_csv(its_runs))  # fmt: skip
    for family, its_runs in _varied(runs, found):
        names = {run.trial.setting: run.trial.setting for run in its_runs}
        figure = figures.verified_figure(its_runs, labels=names, title=place(family.base))
        caption = f"{place(family.base)}: the same, for each variation of what the paper leaves open. {spread}"
        yield _picture("verified", f"verified-variations-{family.base.setting}", figure, its_runs, caption=caption,
                       csv=figure_data.partition_csv(its_runs), variation=True)  # fmt: skip


def _trade_offs(runs: Sequence[Series], found: Sequence[Family]) -> Iterator[Picture]:
    spread = (
        "Small points: seeds. Large points and bars: mean ± standard deviation over them."
        if _has_seeds(runs)
        else "One seed per method, so no spread is shown."
    )
    caption = f"After the last epoch, finished trials only. {spread}"
    bases = _of(runs, [family.base.setting for family in found])
    if bases:
        yield _picture("trade-off", "trade-off", figures.trade_off_figure(bases), bases, caption=caption,
                       csv=figure_data.trade_off_csv(bases))  # fmt: skip
    for family, its_runs in _varied(runs, found):
        yield _picture(
            "trade-off", f"trade-off-variations-{family.base.setting}", figures.trade_off_figure(its_runs), its_runs,
            caption=caption, csv=figure_data.trade_off_csv(its_runs), variation=True,
        )  # fmt: skip


def _times(runs: Sequence[Series], found: Sequence[Family]) -> Iterator[Picture]:
    caption = "Mean over epochs and seeds, wall-clock; comparable between bars that were timed on the same machine."
    bases = _of(runs, [family.base.setting for family in found])
    if bases:
        yield _picture("time", "time", figures.time_figure(bases), bases, caption=caption,
                       csv=figure_data.time_csv(bases))  # fmt: skip
    for family, its_runs in _varied(runs, found):
        yield _picture(
            "time", f"time-variations-{family.base.setting}", figures.time_figure(its_runs), its_runs,
            caption=caption, csv=figure_data.time_csv(its_runs), variation=True,
        )  # fmt: skip


def _by_setting(runs: Sequence[Series], found: Sequence[Family]) -> list[tuple[str, list[Series], bool]]:
    """Each setting with its runs and whether it is a variation; the bases first."""
    bases = {family.base.setting for family in found}
    listed = [(setting, its_runs, setting not in bases) for setting, its_runs in by_setting(runs).items()]
    return sorted(listed, key=lambda item: item[2])


def _of(runs: Sequence[Series], settings: Sequence[str]) -> list[Series]:
    return [run for run in runs if run.trial.setting in settings]


def _varied(runs: Sequence[Series], found: Sequence[Family]) -> Iterator[tuple[Family, list[Series]]]:
    """The families that have runs of a variation, with the runs of these and of the base."""
    for family in found:
        its_runs = _of(runs, [trial.setting for trial in (family.base, *family.variations)])
        if any(run.trial.setting != family.base.setting for run in its_runs):
            yield family, its_runs


def _picture(
    section: str,
    stem: str,
    figure: Figure,
    runs: Sequence[Series],
    *,
    caption: str,
    csv: str,
    variation: bool = False,
) -> Picture:
    short = sorted({METHOD_TITLES[run.trial.method] for run in runs if len(run.epochs) < run.trial.epochs})
    if short:
        caption += f" {' and '.join(short)}: not every trial has finished, the epochs so far are shown."
    titles = [setting_title(group[0].trial) for group in by_setting(runs).values()]
    return Picture(
        section=section,
        stem=stem,
        title="; ".join(titles),
        caption=caption,
        width=round(100 * figure.get_figwidth()),
        variation=variation,
        png=png(figure),
        svg=svg(figure),
        csv=csv,
    )


def _accuracy_caption(runs: Sequence[Series]) -> str:
    parts = []
    for method, same in by_method(runs).items():
        natural, adversarial = (
            per_epoch(same, value)[-1][0]
            for value in (lambda m: 100 * m.natural_accuracy, lambda m: 100 * m.adversarial_accuracy)
        )
        parts.append(f"{METHOD_TITLES[method].lower()} {natural:.1f}% and {adversarial:.1f}%")
    caption = f"Natural and adversarial accuracy after the last epoch: {'; '.join(parts)}."
    if _has_seeds(runs):
        return f"{caption} Lines and bands: mean ± standard deviation over the seeds."
    return f"{caption} One seed."


def _partition_caption(runs: Sequence[Series]) -> str:
    trial = runs[0].trial
    verified = figures.partition_shares(runs)["verified"][-1]
    when = "each epoch" if trial.split_every == 1 else f"every {trial.split_every} epochs"
    certified = (
        f"Certified with {DOMAIN_TITLES[trial.domain]} at the start of {when}; verified at last: {verified:.1f}%."
    )
    return certified + (f" Mean over {len(runs)} seeds." if len(runs) > 1 else " One seed.")


def _has_seeds(runs: Sequence[Series]) -> bool:
    return any(len(same) > 1 for group in by_setting(runs).values() for same in by_method(group).values())


def _class_names(trial: Trial, about: Mapping[str, str]) -> Sequence[str]:
    """What the data set called its classes; files of old do not say it."""
    known = KNOWN[trial.dataset].class_names if trial.dataset in KNOWN else ()
    try:
        names = json.loads(about["class_names"])
    except (KeyError, ValueError, RecursionError):
        return known
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else known


def _file_name(dataset: str) -> str:
    """A data set's name as part of a file's: "folder:a/b" becomes "folder-a-b"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", dataset)


def _examples(entries: Sequence[Entry]) -> Iterator[Picture]:
    """The examples of the first soft trial that has them, else of the last method that does."""
    candidates = [(entry.trial, entry) for entry in entries if entry.trial and entry.result]
    candidates.sort(key=lambda candidate: -METHODS.index(candidate[0].method))  # stable: settings keep their order
    for trial, entry in candidates:
        try:
            tensors, about = read_tensors(entry.folder.path / EXAMPLES)
            figure = figures.examples_figure(trial, tensors, class_names=_class_names(trial, about))
            csv = figure_data.examples_csv(tensors)
        except (SoftadvError, KeyError):
            continue  # another trial's will do, and a page without examples is still a report
        caption = (
            f"The first {len(tensors['image'])} test images, by {entry.name}. Under each image the model's prediction "
            f"(✓ right, ✗ wrong); at the foot, the verdict of {DOMAIN_TITLES[trial.domain]} at ε = "
            f"{fraction(trial.eps)}. The difference attacked minus original is amplified "
            f"{figures.difference_gain(trial)} times around mid-grey."
        )
        runs = [Series(trial=trial, epochs=entry.epochs)]
        yield _picture("examples", "examples", figure, runs, caption=caption, csv=csv)
        return
