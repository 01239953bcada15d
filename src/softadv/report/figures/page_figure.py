"""The input and the output that all figures of the page share."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from softadv.experiments.runs import Entry, all_series
from softadv.experiments.spec_text import Series, by_method, by_setting, fraction, setting_title
from softadv.report.comparisons import Family, families
from softadv.report.figures.colors import stylesheet
from softadv.report.figures.svg import LETTER, LINE, Panel, tag, text

_FILE_WIDTH = 1040.0  # of an SVG file: three panels
_XMLNS = "http://www.w3.org/2000/svg"
RUN_COLUMNS = ("setting", "dataset", "eps", "method", "seed")  # the first columns of every table of runs
ACCURACY_COLUMNS = ("natural_accuracy_percent", "adversarial_accuracy_percent", "autoattack_accuracy_percent")


@dataclass(frozen=True, kw_only=True)
class PageFigure:
    """A figure of the page, and its files."""

    section: str
    stem: str  # of its files' names
    title: str
    caption: str
    panels: tuple[Panel, ...]
    variation: bool  # whether it is of settings that vary an assumption
    csv: str
    notes: tuple[str, ...] = ()  # sentences below the caption

    @property
    def drawn(self) -> list[str]:
        """The panels as SVG elements of the page."""
        return [panel.svg() for panel in self.panels]

    @property
    def svg(self) -> str:
        """The figure as an SVG file of its own."""
        return standalone(self)

    @property
    def files(self) -> dict[str, bytes]:
        """What lies beside the page, by name."""
        return {f"{self.stem}.svg": self.svg.encode(), f"{self.stem}.csv": self.csv.encode()}


def standalone(figure: PageFigure) -> str:
    """A figure as an SVG file of its own: its title, and the panels in rows.

    It is light or dark as the reader's system is, and has its own background, since the page around it may differ.
    """
    rows: list[list[Panel]] = [[]]
    for panel in figure.panels:
        if rows[-1] and sum(other.width for other in rows[-1]) + panel.width > _FILE_WIDTH:
            rows.append([])
        rows[-1].append(panel)
    width = max(sum(panel.width for panel in row) for row in rows)
    lines = textwrap.wrap(figure.title, max(int(width / LETTER), 20))
    parts = [text(line, 2, LINE * (place + 1), class_="title") for place, line in enumerate(lines)]
    y = LINE * (len(lines) + 0.6)
    for row in rows:
        x = 0.0
        for panel in row:
            parts.append(tag("g", *panel.parts, transform=f"translate({x:g} {y:g})"))
            x += panel.width
        y += max(panel.height for panel in row)
    drawn = "".join([tag("rect", class_="ground", width=width, height=y), *parts])
    size = {"viewBox": f"0 0 {width:g} {y:g}", "width": width, "height": y}
    return tag("svg", tag("style", stylesheet([drawn])), drawn, xmlns=_XMLNS, class_="figure", **size) + "\n"


@dataclass(frozen=True, kw_only=True)
class FigureInput:
    """What the figures are made from."""

    entries: tuple[Entry, ...]
    families: tuple[Family, ...]  # settings and their variations, in the order of the page
    finished: tuple[Series, ...]  # runs with a result
    shown: tuple[Series, ...]  # those; and where a method of a setting has none, its runs with an epoch
    words: Mapping[str, str]  # what the settings are called


def figure_input(entries: Sequence[Entry], words: Mapping[str, str]) -> FigureInput:
    """What the runs of a folder give to draw. words: what the settings are called."""
    begun = [run for run in all_series(entries) if run.epochs]
    finished = [run for run in begun if run.result]
    covered = {(run.trial.setting, run.trial.method) for run in finished}
    shown = [*finished, *(run for run in begun if (run.trial.setting, run.trial.method) not in covered)]
    return FigureInput(
        entries=tuple(entries),
        families=tuple(families(all_series(entries))),
        finished=tuple(finished),
        shown=tuple(shown),
        words=words,
    )


def page_figure(
    section: str,
    stem: str,
    panels: Sequence[Panel],
    runs: Sequence[Series],
    *,
    caption: str,
    csv: str,
    title: str = "",
    variation: bool = False,
    notes: Sequence[str] = (),
) -> PageFigure:
    """A finished figure of the page. stem: of its files' names. csv: the numbers behind it, of the same runs.

    title: else what its settings are.
    """
    short = sorted({run.names.method_title for run in runs if not run.result and len(run.epochs) < run.trial.epochs})
    if short:
        caption += f" {' and '.join(short)}: not every trial has finished, the epochs so far are shown."
    titles = [setting_title(group[0]) for group in by_setting(runs).values()]
    return PageFigure(
        section=section,
        stem=stem,
        title=title or "; ".join(titles),
        caption=caption,
        panels=tuple(panels),
        variation=variation,
        csv=csv,
        notes=tuple(notes),
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


def accuracy_cells(run: Series) -> tuple[str, ...]:
    """The cells under ACCURACY_COLUMNS: on the test images, of the result or after the last epoch evaluated."""
    autoattack = run.result.autoattack if run.result else None
    natural, adversarial = run.accuracies or (None, None)
    return tuple(map(percent_text, (natural, adversarial, autoattack.accuracy if autoattack else None)))


def file_name(name: str) -> str:
    """The name of a method or a data set as part of a file's: "folder:a/b" becomes "folder-a-b"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")


def percent_text(accuracy: float | None) -> str:
    """A share in [0, 1] as a percentage for a CSV file, without trailing zeros; "" for an epoch without one."""
    if accuracy is None:
        return ""
    return f"{100 * accuracy:.4f}".rstrip("0").rstrip(".")
