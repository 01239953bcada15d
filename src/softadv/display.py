"""What people see while a run is going: what it is doing, how far it is and how long is left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from types import TracebackType

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from softadv.progress import Report

_LOG_SECONDS = 60


class _Bar(Progress):
    """A bar with a note below it, where it takes no room from the bar."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.note:
            yield self.note


class Display:
    """A bar that moves on a terminal; elsewhere a line for each new thing and each minute, for logs.

    Use as a context manager, and call advance with the work done since the last call.
    """

    def __init__(self, console: Console, *, work: float) -> None:
        """work: what all of it comes to, in the same unit as advance's."""
        self._console = console
        self._work = work
        self._done = 0.0
        self._began = time.monotonic()
        self._last, self._printed = "", 0.0
        self._bar = _Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            # The pace of work varies from stage to stage: an estimate from the last seconds would jump.
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task("starting", total=work)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, trial: str, what: str, work: float, *, before: bool = False, note: str = "") -> None:
        """trial and what: who is doing what; work: how much more of it is done; before: by an earlier run.

        note: figures to show beside it, which change from call to call.
        """
        if before:
            # Not done now: there is simply less to do, or the time left would be told too short.
            self._work -= work
        else:
            self._done += work
        if self._console.is_terminal:
            text = f"[bold]{escape(trial)}[/]  {escape(what)}"
            self._bar.note = escape(note)
            self._bar.update(self._task, description=text, total=self._work, completed=self._done)
            return
        # One line an epoch, "epoch 2/8: training" and "epoch 2/8: certifying" being the same, and one a minute.
        line = f"{trial}  {what.split(':', maxsplit=1)[0]}"
        now = time.monotonic()
        if line != self._last or now - self._printed >= _LOG_SECONDS:
            self._last, self._printed = line, now
            state = f"{self._share():.0%}{self._left()}" + (f", {note}" if note else "")
            self._console.print(f"{escape(line)}  ({escape(state)})", highlight=False, soft_wrap=True)

    def of(self, trial: str) -> Report:
        """A report for one trial alone."""
        return partial(self.advance, trial)

    def _share(self) -> float:
        return min(self._done / self._work, 1.0) if self._work else 1.0

    def _left(self) -> str:
        share, passed = self._share(), time.monotonic() - self._began
        if share < 0.02 or passed < 5:
            return ""
        return f", about {_duration(passed * (1 - share) / share)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
