"""Every figure of the page, in its order. To add one, write a module like the others here and name it below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from softadv.experiments.runs import Entry
from softadv.report.figures import accuracy, examples, partition, time, trade_off, verified
from softadv.report.figures.page_figure import PageFigure, figure_input

_MODULES = (accuracy, verified, partition, trade_off, time, examples)


def page_figures(entries: Sequence[Entry], words: Mapping[str, str]) -> Iterator[PageFigure]:
    """Every figure, by section; within it the settings as the paper has them first, then their variations.

    words: what the settings are called.
    """
    source = figure_input(entries, words)
    for module in _MODULES:
        yield from module.page_figures(source)
