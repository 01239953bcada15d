"""Seconds of the parts of an epoch: a stacked bar per method, a panel per setting."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from softadv.experiments.spec_text import Series, by_method, by_setting
from softadv.report.figures.colors import PARTS, area
from softadv.report.figures.page_figure import (
    RUN_COLUMNS,
    FigureInput,
    PageFigure,
    csv_text,
    of_settings,
    page_figure,
    run_cells,
    with_variations,
)
from softadv.report.figures.svg import Panel, hit, shortened, tag, text, tick_text
from softadv.report.words import method_title

_ROW = 42.0  # pixels of a method: its title, and its bar below that


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    """One figure for all settings as the paper has them, then one for each that varies its assumptions."""
    runs = source.shown
    caption = "Mean over epochs and seeds, wall-clock; comparable between bars that were timed on the same machine."
    bases = of_settings(runs, [family.base.trial.setting for family in source.families])
    if bases:
        yield page_figure("time", "time", draw(bases, source.words), bases, caption=caption,
                          csv=_csv(bases), title="Seconds per epoch")  # fmt: skip
    for family, its_runs in with_variations(runs, source.families):
        yield page_figure(
            "time", f"time-variations-{family.base.trial.setting}", draw(its_runs, source.words), its_runs,
            caption=caption, csv=_csv(its_runs), title="Seconds per epoch", variation=True,
        )  # fmt: skip


def draw(runs: Sequence[Series], words: Mapping[str, str]) -> list[Panel]:
    """Seconds of an epoch's parts, a stacked bar per method, a panel per setting, all on one scale.

    words: what the settings are called.
    """
    settings = by_setting(runs)
    longest = max(_whole(same) for its_runs in settings.values() for same in by_method(its_runs).values())
    return [
        _panel(its_runs, title=words.get(setting, setting), longest=longest or 1.0)
        for setting, its_runs in settings.items()
    ]


def _panel(runs: Sequence[Series], *, title: str, longest: float) -> Panel:
    methods = by_method(runs)
    said = "; ".join(f"{_title(same)} {_whole(same):.3g}" for same in methods.values())
    panel = Panel(f"{title}: seconds per epoch: {said}", left=8, right=58, top=22, bottom=54)
    panel.height = panel.top + panel.bottom + _ROW * len(methods)
    panel.title(title)
    x = panel.across(0, longest)
    foot = panel.height - panel.bottom
    for value in x.ticks(4):
        panel.add(tag("line", x1=x(value), x2=x(value), y1=panel.top, y2=foot, class_="thin"))
        panel.add(text(tick_text(value), x(value), foot + 15, anchor="middle", class_="soft small"))
    panel.add(text("s per epoch", panel.width - 2, foot + 15, anchor="end", class_="soft small"))
    for row, same in enumerate(methods.values()):
        top, seconds = panel.top + _ROW * row, 0.0
        panel.add(text(shortened(_title(same), panel.width - 12), panel.left, top + 13))
        for part, color in PARTS.items():
            took = _mean_seconds(same, part)
            bar = {"x": x(seconds), "width": x(seconds + took) - x(seconds), "y": top + 18, "height": _ROW - 24}
            panel.add(tag("rect", class_=area(color), **bar))
            seconds += took
        total = f"{seconds:,.{2 if seconds < 1 else 1 if seconds < 100 else 0}f}"
        panel.add(text(total, x(seconds) + 5, top + (_ROW + 20) / 2))
        parts = ", ".join(f"{part} {_mean_seconds(same, part):.3g} s" for part in PARTS)
        panel.add(hit(f"{_title(same)}: {parts}", 0, top, panel.width, _ROW))
    left = 8.0
    for part, color in PARTS.items():
        panel.add(tag("rect", x=left, y=panel.height - 22, width=10, height=10, class_=area(color)))
        panel.add(text(part, left + 14, panel.height - 13, class_="small"))
        left += 30 + 5.9 * len(part)
    return panel


def _title(runs: Sequence[Series]) -> str:
    return method_title(runs[0].trial.method, runs[0].names)


def _whole(runs: Sequence[Series]) -> float:
    return sum(_mean_seconds(runs, part) for part in PARTS)


def _mean_seconds(runs: Sequence[Series], part: str) -> float:
    """Seconds that a part of an epoch took, on average over epochs and runs."""
    return statistics.fmean(getattr(epoch, f"{part}_seconds") for run in runs for epoch in run.epochs)


def _csv(runs: Sequence[Series]) -> str:
    """Seconds of the parts of every epoch, wall-clock."""
    rows = [
        (*run_cells(run), m.epoch, *(f"{getattr(m, f'{part}_seconds'):.4f}" for part in PARTS))
        for run in runs
        for m in run.epochs
    ]
    return csv_text((*RUN_COLUMNS, "epoch", *(f"{part}_seconds" for part in PARTS)), rows)
