"""The interface of executors: jobs, their messages, and executors themselves; independent of what a job does."""

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
from softadv.experiments.executors.images import ImageLoader

JobOutcome = Literal["finished", "refused", "failed"]

_PROGRESS_SECONDS = 0.3  # the shortest time between two progress messages of a worker


@dataclass(frozen=True)
class ProgressMessage:
    """A job's progress, with the arguments of a Report."""

    what: str
    work: float
    before: bool = False
    note: str = ""


@dataclass(frozen=True)
class Ended:
    """A job ended by itself. reason: one line for bad input (refused); one line or a traceback if it failed.

    where: the host and the process, in words; "" in the driver's own.
    """

    outcome: JobOutcome
    reason: str = ""
    where: str = ""


@dataclass(frozen=True)
class Lost:
    """A job's worker is gone; no more messages follow. reason: one line, with the host where it is known."""

    reason: str


# Whatever the job itself sends, then Ended or Lost, once.
Send = Callable[[object], None]


class Job(Protocol):
    """A unit of work, picklable and small, since it may be sent elsewhere. It loads its images where it runs."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def threads(self) -> int | None:
        """How many threads PyTorch and the kernels use for it; None: as many as there are already."""

    def run(self, *, images: ImageLoader, send: Send) -> None:
        """Do the work. Raises SoftadvError for bad input, and any other exception on failure."""


class Handle(Protocol):
    """A job that an executor has taken."""

    @property
    def job(self) -> Job:
        """The job."""


# Called with each message of a job. If it raises SoftadvError, the job is ended at once and counts as refused.
Receive = Callable[[Handle, object], None]


class Executor(Protocol):
    """Runs jobs and delivers their messages. Every job ends with exactly one Ended or Lost."""

    @property
    def free(self) -> int:
        """How many more jobs would start immediately."""

    @property
    def slots(self) -> int:
        """How many jobs it runs side by side."""

    def submit(self, job: Job) -> Handle:
        """Take a job."""

    def deliver(self, receive: Receive) -> None:
        """Wait for messages of jobs, and pass them to receive. At least one job must be submitted."""

    def close(self) -> None:
        """End all running jobs and clean up."""


def attempt(job: Job, *, images: ImageLoader, send: Send, where: str) -> Ended:
    """Run a job and return how it ended; exceptions are caught.

    Only in the driver's own process, where `where` is empty, do SystemExit and KeyboardInterrupt pass: there they come
    from a signal, elsewhere from the job's own code, such as a method that calls sys.exit.
    """
    try:
        with pinned_threads(job.threads):
            job.run(images=images, send=send)
    except DivergedError as error:
        return Ended("failed", str(error), where)
    except SoftadvError as error:
        return Ended("refused", str(error), where)
    except BaseException as error:
        if not where and not isinstance(error, Exception):
            raise
        return Ended("failed", traceback.format_exc().rstrip(), where)
    return Ended("finished", where=where)


@contextmanager
def pinned_threads(count: int | None) -> Iterator[None]:
    """Set the threads of PyTorch and the kernels within the block, whatever the environment says; None: unchanged."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


def this_process() -> str:
    """The host and process id, for messages."""
    return f"{platform.node()}, process {os.getpid()}"


def report_to(send: Send) -> Report:
    """A Report that sends every call as a message."""

    def report(what: str, work: float, *, before: bool = False, note: str = "") -> None:
        send(ProgressMessage(what, work, before, note))

    return report


class ThrottledSend:
    """A Send that merges progress messages within a short time; all other messages are sent at once.

    Call flush at the end.
    """

    def __init__(self, send: Send, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._held: ProgressMessage | None = None
        self._sent = -_PROGRESS_SECONDS

    def __call__(self, message: object) -> None:
        held = self._held
        if not isinstance(message, ProgressMessage):
            self.flush()
            self._send(message)
            return
        if held is not None and (held.what, held.before) == (message.what, message.before):
            self._held = ProgressMessage(held.what, held.work + message.work, held.before, message.note)
        else:
            self.flush()
            self._held = message
        if self._clock() - self._sent >= _PROGRESS_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what is held back."""
        if self._held is not None:
            self._send(self._held)
            self._held, self._sent = None, self._clock()
