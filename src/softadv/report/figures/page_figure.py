"""What the figures of the page have in common: what they are made from, and what a finished one is."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from softadv.experiments.runs import Entry, all_series
from softadv.experiments.spec_text import Series, by_method, by_setting, fraction, setting_title
from softadv.report.comparisons import Family, families
from softadv.report.figures.style import png, svg

RUN_COLUMNS = ("setting", "dataset", "eps", "method", "seed")  # the first columns of every table of runs


@dataclass(frozen=True, kw_only=True)
class PageFigure:
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


@dataclass(frozen=True, kw_only=True)
class FigureInput:
    """What the figures are made from."""

    entries: tuple[Entry, ...]
    families: tuple[Family, ...]  # settings and their variations, in the order of the page
    finished: tuple[Series, ...]  # runs with a result
    shown: tuple[Series, ...]  # those; and where a method of a setting has none, its runs with an epoch


def figure_input(entries: Sequence[Entry]) -> FigureInput:
    """What the runs of a folder give to draw."""
    begun = [run for run in all_series(entries) if run.epochs]
    finished = [run for run in begun if run.result]
    covered = {(run.trial.setting, run.trial.method) for run in finished}
    shown = [*finished, *(run for run in begun if (run.trial.setting, run.trial.method) not in covered)]
    return FigureInput(
        entries=tuple(entries),
        families=tuple(families(all_series(entries))),
        finished=tuple(finished),
        shown=tuple(shown),
    )


def page_figure(
    section: str,
    stem: str,
    figure: Figure,
    runs: Sequence[Series],
    *,
    caption: str,
    csv: str,
    variation: bool = False,
) -> PageFigure:
    """A finished figure of the page. stem: of its files' names. csv: the numbers behind it, of the same runs."""
    short = sorted({run.names.method_title for run in runs if not run.result and len(run.epochs) < run.trial.epochs})
    if short:
        caption += f" {' and '.join(short)}: not every trial has finished, the epochs so far are shown."
    titles = [setting_title(group[0]) for group in by_setting(runs).values()]
    return PageFigure(
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


def settings_in_order(runs: Sequence[Series], families: Sequence[Family]) -> list[tuple[str, list[Series], bool]]:
    """Each setting with its runs and whether it is a variation; the bases first."""
    bases = {family.base.trial.setting for family in families}
    listed = [(setting, its_runs, setting not in bases) for setting, its_runs in by_setting(runs).items()]
    return sorted(listed, key=lambda item: item[2])


def of_settings(runs: Sequence[Series], settings: Sequence[str]) -> list[Series]:
    """The runs of these settings."""
    return [run for run in runs if run.trial.setting in settings]


def with_variations(runs: Sequence[Series], families: Sequence[Family]) -> Iterator[tuple[Family, list[Series]]]:
    """The families that have runs of a variation, with the runs of these and of the base."""
    for family in families:
        its_runs = of_settings(runs, family.settings)
        if any(run.trial.setting != family.base.trial.setting for run in its_runs):
            yield family, its_runs


def has_seeds(runs: Sequence[Series]) -> bool:
    """Whether any method of any setting has more than one run, so that there is a spread to show."""
    return any(len(same) > 1 for group in by_setting(runs).values() for same in by_method(group).values())


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file; lines end with a newline alone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def run_cells(run: Series) -> tuple[object, ...]:
    """The cells under RUN_COLUMNS."""
    trial = run.trial
    return trial.setting, trial.dataset, fraction(trial.eps), trial.method, trial.seed


def file_name(name: str) -> str:
    """The name of a method or a data set as part of a file's: "folder:a/b" becomes "folder-a-b"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")


def percent_text(accuracy: float | None) -> str:
    """A share in [0, 1] as a percentage for a CSV file, without trailing zeros; "" for an epoch without one."""
    if accuracy is None:
        return ""
    return f"{100 * accuracy:.4f}".rstrip("0").rstrip(".")
