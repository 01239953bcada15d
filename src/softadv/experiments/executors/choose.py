"""The executor that was asked for, opened for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from softadv.errors import SoftadvError
from softadv.experiments.executors.jobs import Executor
from softadv.experiments.executors.processes import Processes
from softadv.experiments.executors.resources import MOST_JOBS, deal


@dataclass(frozen=True)
class Chosen:
    """Where jobs are to run, and with what: the options of the commands.

    jobs: so many processes; None: in this process. threads: of each job; None: cores divided by jobs, or what this
    process has. gpus_per_trial: a part of a GPU. Raises SoftadvError for what does not go together.
    """

    jobs: int | None = None
    threads: int | None = None
    gpus_per_trial: float | None = None

    def __post_init__(self) -> None:
        for name, count in (("--jobs", self.jobs), ("--threads", self.threads)):
            if count is not None and not 1 <= count <= MOST_JOBS:
                raise SoftadvError(f"{name} {count}: must be from 1 to {MOST_JOBS}")
        if self.gpus_per_trial is not None and not self.elsewhere:
            raise SoftadvError("--gpus-per-trial: needs --jobs, whose trials share GPUs")

    @property
    def elsewhere(self) -> bool:
        """Whether jobs run in other processes than this one."""
        return self.jobs is not None

    @contextmanager
    def opened(self, device: torch.device) -> Iterator[tuple[Executor | None, int | None]]:
        """The executor, None for this process, and the threads of each job, None for as many as there are.

        device: where jobs run. At the end all workers have ended. Raises SoftadvError where it cannot be had.
        """
        if self.jobs is None:
            yield None, self.threads
            return
        dealt = deal(self.jobs, threads=self.threads, gpus_per_trial=self.gpus_per_trial, device=device)
        executor = Processes(dealt)
        try:
            yield executor, dealt.threads
        finally:
            executor.close()
