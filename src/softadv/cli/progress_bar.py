"""The progress display of a run: what it is doing, how far it is, and the time left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from softadv._progress import Report
from softadv.cli.output import plain

_LOG_SECONDS = 60
_ENDS = ("finished", "finished before", "failed", "refused")  # the last stages of a trial
_MEMORY_SECONDS = 300  # the time constant of the mean pace: a trial's stages differ in theirs
_LEAST_SECONDS, _LEAST_SHARE, _ENOUGH_SECONDS = 5.0, 0.02, 60.0


class _Bar(Progress):
    """A bar with a note below it, where it takes no room from the bar, and the lines of trials side by side."""

    note = ""
    lines: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.note:
            yield self.note
        yield from self.lines


class Running:
    """The running trials: what each is doing, and how long its epochs have taken."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._what: dict[str, str] = {}
        self._epochs: dict[str, tuple[str, float, int]] = {}  # the one under way, when the first began, epochs since

    def told(self, trial: str, what: str) -> None:
        """A trial is doing something else, or has ended."""
        if what in _ENDS:
            self._what.pop(trial, None)
            self._epochs.pop(trial, None)
            return
        self._what[trial] = what
        if not what.startswith("epoch "):
            return
        epoch, now = what.partition(":")[0], self._clock()
        last, since, count = self._epochs.get(trial, (epoch, now, 0))
        self._epochs[trial] = (epoch, since, count + (epoch != last))

    def lines(self) -> list[tuple[str, str]]:
        """For each trial its name, and what it is doing at what rate."""
        found = []
        for trial, what in self._what.items():
            _, since, count = self._epochs.get(trial, ("", 0.0, 0))
            rate = f", {duration((self._clock() - since) / count)} an epoch" if count else ""
            found.append((trial, what + (rate if what.startswith("epoch ") else "")))
        return found


class Pace:
    """How fast work is done: an exponentially weighted mean over the past.

    Its clock starts with the first finished work, since setup such as compiling happens only once.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: float | None = None
        self._work, self._seconds, self._passed = 0.0, 0.0, 0.0

    def add(self, work: float) -> None:
        """So much more work is done now."""
        now = self._clock()
        if self._last is not None:
            since = now - self._last
            kept = math.exp(-since / _MEMORY_SECONDS)
            self._work, self._seconds = kept * self._work + work, kept * self._seconds + since
            self._passed += since
        if work or self._last is not None:
            self._last = now

    def left(self, work: float, *, share: float) -> float | None:
        """The seconds that this much work will take; None while too little is done to estimate, and at the end.

        share: how much of all work is done, from 0 to 1.
        """
        told = self._passed >= _LEAST_SECONDS and (share >= _LEAST_SHARE or self._passed >= _ENOUGH_SECONDS)
        return work * self._seconds / self._work if told and work and self._work else None


class Left:
    """How much of some work is done, and how long the rest will take. work: all of it; None where nobody knows."""

    def __init__(self, work: float | None, clock: Callable[[], float]) -> None:
        self.work, self.done = work, 0.0
        self._pace = Pace(clock)

    def add(self, work: float, *, before: bool) -> None:
        """So much more is done. before: by an earlier run."""
        if not before:
            self.done += work
            self._pace.add(work)
        elif self.work is not None:
            # Not done now: there is simply less to do, or the time left would be told too short.
            self.work -= work

    @property
    def share(self) -> float:
        """How much of the work is done, from 0 to 1."""
        return min(self.done / self.work, 1.0) if self.work else 1.0

    def duration(self) -> str:
        """How long the rest will take, in words; empty while nobody can tell."""
        if self.work is None:
            return ""
        seconds = self._pace.left(max(self.work - self.done, 0.0), share=self.share)
        return "" if seconds is None else duration(seconds)


class Display:
    """A bar that moves on a terminal; elsewhere, for logs, a line for each epoch and for each other thing.

    Use as a context manager, and call advance with the work done since the last call.
    """

    def __init__(
        self,
        console: Console,
        *,
        work: float | None,
        trials: Sequence[str] = (),
        each: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """work: what all of it comes to, in the same unit as advance's; None where that is not known.

        trials: the names of all trials, in order, so that each is shown with its number. each: the work of each trial
        that is run. clock: in seconds.
        """
        self._console = console
        self._numbers = {name: f"trial {number} of {len(trials)}" for number, name in enumerate(trials, start=1)}
        self._all = Left(work, clock)
        self._each = {name: Left(its, clock) for name, its in (each or {}).items()}
        self._clock, self._running = clock, Running(clock)
        self._printed: dict[str, tuple[str, float]] = {}  # for each trial its last line, and when
        self._bar = _Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=work, left="")

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
        self._all.add(work, before=before)
        if trial in self._each:
            self._each[trial].add(work, before=before)
        name = self._name(trial)
        if self._console.is_terminal:
            self._running.told(trial, what)
            running = self._running.lines()
            self._bar.lines = [f"  {escape(self._name(other))}  {escape(doing)}" for other, doing in running]
            if len(running) < 2:  # the bar says it all
                self._bar.lines = ()
            text = f"[bold]{escape(name)}[/]  {escape(what)}"
            self._bar.note = escape(note)
            self._bar.update(
                self._task, description=text, total=self._all.work, completed=self._all.done, left=self._left(trial)
            )
        else:
            self._log(trial, f"{name}  {what.partition(':')[0]}", note, often=not what.startswith("epoch "))

    def _name(self, trial: str) -> str:
        return plain(", ".join(part for part in (self._numbers.get(trial), trial) if part))

    def of(self, trial: str) -> Report:
        """A report for one trial alone."""
        return partial(self.advance, trial)

    def _log(self, trial: str, line: str, note: str, *, often: bool) -> None:
        """A line for each new thing of a trial; of one that is no epoch and goes on for long, one a minute."""
        now = self._clock()
        last, when = self._printed.get(trial, ("", 0.0))
        if line == last and not (often and now - when >= _LOG_SECONDS):
            return
        self._printed[trial] = line, now
        share = "" if self._all.work is None else f"{self._all.share:.0%}"
        state = ", ".join(part for part in (share, self._left(trial), note) if part)
        text = f"{line}  ({state})" if state else line
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def _left(self, trial: str) -> str:
        """The time left: of everything, and before it of the trial, where there are others."""
        whole = self._all.duration()
        own = self._each[trial].duration() if trial in self._each and len(self._each) > 1 else ""
        if own and whole:
            return f"about {own} left of the trial, {whole} of all"
        return f"about {whole} left" if whole else ""


def duration(seconds: float) -> str:
    """Seconds in words, rounded so that they do not flicker."""
    if seconds < 90:
        return f"{max(5 * round(seconds / 5), 1)} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
