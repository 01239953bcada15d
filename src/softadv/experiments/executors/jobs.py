"""The seam: what a job is, what comes back of it, and what an executor does. It knows no trial and no certificate."""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from softadv._progress import Report
from softadv.errors import DivergedError, SoftadvError
from softadv.experiments.executors.images import Images

Outcome = Literal["finished", "refused", "failed"]

_TELL_SECONDS = 0.3  # so often at most a worker tells how far it is


@dataclass(frozen=True)
class Told:
    """How far a job is: what a Report is told."""

    what: str
    work: float
    before: bool = False
    note: str = ""


@dataclass(frozen=True)
class Ended:
    """How a job ended by itself. reason: a line for bad input (refused), a line or a traceback where it failed.

    where: the host and the process, in words; "" in the driver's own.
    """

    outcome: Outcome
    reason: str = ""
    where: str = ""


@dataclass(frozen=True)
class Lost:
    """A job's worker is gone, and nothing more comes of it. reason: a line, with the host where that is known."""

    reason: str


# Whatever the job itself sends, then Ended or Lost, once.
Send = Callable[[object], None]


class Job(Protocol):
    """Something to be done: picklable and small, since it may travel. Images are fetched where it runs."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def threads(self) -> int | None:
        """How many threads PyTorch and the kernels use for it; None: as many as there are already."""

    def run(self, *, images: Images, send: Send) -> None:
        """Do it. Raises SoftadvError for bad input, and whatever else goes wrong."""


class Handle(Protocol):
    """A job that an executor has taken."""

    @property
    def job(self) -> Job:
        """The job."""


# Told what came of a job. Where it raises SoftadvError, the job is ended there and then, and counts as refused.
Receive = Callable[[Handle, object], None]


class Executor(Protocol):
    """Takes jobs, and gives back what comes of them. Every job ends with one Ended or one Lost."""

    @property
    def free(self) -> int:
        """How many more jobs it would begin at once."""

    @property
    def slots(self) -> int:
        """How many jobs it runs side by side."""

    def submit(self, job: Job) -> Handle:
        """Take a job."""

    def deliver(self, receive: Receive) -> None:
        """Wait until something came of a job, and hand it over. There must be a job."""

    def close(self) -> None:
        """End what is running. Nothing is left of it."""


def attempt(job: Job, *, images: Images, send: Send, where: str) -> Ended:
    """Do a job, and say how it ended; errors are caught, but for what ends the process."""
    try:
        with pinned_threads(job.threads):
            job.run(images=images, send=send)
    except DivergedError as error:
        return Ended("failed", str(error), where)
    except SoftadvError as error:
        return Ended("refused", str(error), where)
    except Exception:
        return Ended("failed", traceback.format_exc().rstrip(), where)
    return Ended("finished", where=where)


@contextmanager
def pinned_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch and the kernels use so many threads for a while, whatever the environment says; None: as before."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


def this_process() -> str:
    """Where this is, in words."""
    return f"{platform.node()}, process {os.getpid()}"


def telling(send: Send) -> Report:
    """A Report that sends all it is told."""

    def told(what: str, work: float, *, before: bool = False, note: str = "") -> None:
        send(Told(what, work, before, note))

    return told


class Seldom:
    """A Send that puts together what a job tells within a moment, so that few messages travel; the rest goes at once.

    Call flush at the end.
    """

    def __init__(self, send: Send, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._held: Told | None = None
        self._sent = -_TELL_SECONDS

    def __call__(self, message: object) -> None:
        held = self._held
        if not isinstance(message, Told):
            self.flush()
            self._send(message)
            return
        if held is not None and (held.what, held.before) == (message.what, message.before):
            self._held = Told(held.what, held.work + message.work, held.before, message.note)
        else:
            self.flush()
            self._held = message
        if self._clock() - self._sent >= _TELL_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what is held back."""
        if self._held is not None:
            self._send(self._held)
            self._held, self._sent = None, self._clock()
