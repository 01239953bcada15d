"""The output of the command line: tables and lines on one console."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from softadv._decimals import percent
from softadv.certify.per_image import STANDINGS, CertificationSummary
from softadv.claims.judge import Outcome
from softadv.cli.doctor import Check
from softadv.errors import SoftadvWarning
from softadv.experiments.records import Result
from softadv.experiments.store_reference import StoredTrials

_CLOSED = 141  # as a shell shows a program that a closed pipe ended
_LONG_WORD = re.compile(r"(\S{300})\S{600,}(\S{100})")  # no name of a file is as long, and few paths are

# A word and a sign, so that no verdict is shown by colour alone.
OUTCOME_STYLES: dict[Outcome, str] = {
    "holds": "[green]✓ holds[/]",
    "fails": "[bold red]✗ fails[/]",
    "inconclusive": "[yellow]? inconclusive[/]",
    "not run": "[dim]– not run[/]",
}


class OutputLost(BaseException):
    """Standard output cannot be written. code: the command's exit code.

    No Exception: it ends the command, where a trial's failure would let the next trial begin.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output: {error.strerror}")
        self.code = _CLOSED if isinstance(error, BrokenPipeError) else 2


class _Watched:
    """A stream that raises OutputLost where it cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return cast(int, self._try(self._stream.write, text))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, operation: Callable[..., object], *arguments: str) -> object:
        try:
            return operation(*arguments)
        except OSError as error:
            # Otherwise Python tries to write the rest at exit, and prints an error of its own.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise OutputLost(error) from error


@contextmanager
def watched_output() -> Iterator[None]:
    """Within the block, standard output raises OutputLost where it cannot be written; at the end it is flushed."""
    stream = sys.stdout
    if stream is None:  # a process may be started without one
        yield
        return
    sys.stdout = cast(TextIO, _Watched(stream))
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout = stream


def console(*, silent: bool = False, log_width: int = 120) -> Console:
    """Standard output. log_width: columns of a table in a log that is no terminal. silent: one that prints nothing."""
    if silent:
        return Console(quiet=True, force_terminal=False)
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=log_width)


def show_result(result: Result, folder: Path) -> None:
    """One finished trial."""
    rows = {
        "natural accuracy": percent(result.natural_accuracy),
        "adversarial accuracy": percent(result.adversarial_accuracy),
        **{f"certified accuracy ({c.domain})": f"{percent(c.accuracy)} of {c.images:,}" for c in result.certified},
        "ONNX parity": (
            "not exported" if result.parity is None else f"largest difference {result.parity.largest_difference:.1e}"
        ),
        "run folder": str(folder),
    }
    show_figures(result.trial.name, rows)


def show_certification(
    title: str, summary: CertificationSummary, *, out: Path | None, engines: Collection[str]
) -> None:
    """How many images a certification verified, how fast and by what margin.

    out: where its rows are. engines: what computed them; none where all were there before.
    """
    counts: dict[str, int] = {standing: getattr(summary, standing) for standing in reversed(STANDINGS)}
    rows = {standing: f"{count:,} ({percent(count / summary.images)})" for standing, count in counts.items()}
    rows["certified accuracy"] = percent(summary.certified_accuracy)
    rows["speed"] = f"{summary.images_per_second:.0f} images/s"
    if summary.least_margin is not None:
        rows["margin of the verified"] = f"least {summary.least_margin:.3g}, median {summary.median_margin:.3g}"
    rows |= computed_by(engines)
    if out is not None:
        rows["written to"] = str(out)
    show_figures(title, rows)


def computed_by(engines: Collection[str]) -> dict[str, str]:
    """A row with what computed certificates, as Certificates.computed_by names it; none where nothing did."""
    return {"computed by": "; or ".join(sorted(engines))} if engines else {}


def show_figures(title: str, rows: Mapping[str, str]) -> None:
    """A title and named figures, aligned."""
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    screen = console()
    screen.print(f"[bold]{escape(title)}[/]", soft_wrap=True)
    screen.print(table)


def show_findings(findings: Sequence[Check]) -> None:
    """The doctor's findings, each with its advice behind an arrow where it has one."""
    table = Table(show_header=False, box=None)
    for finding in findings:
        mark = "[green]✓[/]" if finding.advice is None else "[yellow]![/]"
        advice = "" if finding.advice is None else f" [dim]→ {escape(finding.advice)}[/]"
        table.add_row(mark, escape(finding.subject), escape(finding.found) + advice)
    console().print(table)


def show_kept(kept: StoredTrials) -> None:
    """What was kept as the reference, and what it still lacks."""
    rows = {
        "trials kept": ", ".join(kept.trials),
        "lacking": f"{len(kept.missing)} trials of the grid" if kept.missing else "nothing: the grid is whole",
    }
    show_figures(f"reference {kept.folder}", rows)


def show_names(described: Mapping[str, str]) -> None:
    """A line for each name, with what it stands for."""
    width = max(map(len, described), default=0)
    for name, text in described.items():
        say(f"{name:{width}}  {text}".rstrip())


def say(line: str, *, on: Console | None = None) -> None:
    """One line of plain text, on the console or on another one."""
    (on or console()).print(escape(line), soft_wrap=True)


def complain(line: str) -> None:
    """Print one line on standard error; errors in doing so are ignored."""
    with suppress(OSError):
        Console(stderr=True, highlight=False).print(f"softadv: {escape(_shortened(plain(line)))}", soft_wrap=True)


def plain(text: str) -> str:
    """A text on one line, without control characters, which file names may contain."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _shortened(line: str) -> str:
    """Without the middle of words of a thousand letters and more: what was typed may be of any length."""
    return _LONG_WORD.sub(lambda word: f"{word[1]}…{word[2]}", line)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show softadv's own warnings as lines on standard error, without the place in the code that others have."""

    def show(  # noqa: PLR0917 (as warnings calls it)
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, SoftadvWarning):
            complain(str(message))
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        yield
