"""Jobs one after another, in this process: for one core, for tests, for debuggers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from softadv.experiments.executors.images import ImageLoader
from softadv.experiments.executors.jobs import Job, Receive, attempt


@dataclass(frozen=True)
class _Taken:
    job: Job


class InProcess:
    """An executor with one slot; a job runs inside deliver()."""

    slots = 1

    def __init__(self, images: ImageLoader) -> None:
        self._images = images
        self._taken: deque[_Taken] = deque()

    @property
    def free(self) -> int:
        """Whether another job may come: 1 or 0."""
        return int(not self._taken)

    def submit(self, job: Job) -> _Taken:
        """Take a job."""
        taken = _Taken(job)
        self._taken.append(taken)
        return taken

    def deliver(self, receive: Receive) -> None:
        """Do the next job to its end, and hand over what comes of it on the way."""
        taken = self._taken.popleft()
        ended = attempt(taken.job, images=self._images, send=lambda message: receive(taken, message), where="")
        receive(taken, ended)

    def close(self) -> None:
        """Drop jobs that have not started."""
        self._taken.clear()
