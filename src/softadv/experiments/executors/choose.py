"""Chooses and opens the executor that the options name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from softadv.errors import SoftadvError
from softadv.experiments.environment import pick_device
from softadv.experiments.executors.images import ImageLoader
from softadv.experiments.executors.jobs import Executor
from softadv.experiments.executors.on_ray import OnRay
from softadv.experiments.executors.processes import Processes
from softadv.experiments.executors.resources import MOST_JOBS, deal, fitting


@dataclass(frozen=True)
class Chosen:
    """Where jobs are to run, and with what: the options of the commands.

    jobs: so many processes. ray: on Ray: "local", "auto" or an address. Neither: in this process. threads: of each
    job; None: cores divided by jobs, one on Ray, or what this process has. gpus_per_trial: a part of a GPU.
    Raises SoftadvError for what does not go together.
    """

    jobs: int | None = None
    threads: int | None = None
    gpus_per_trial: float | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        for name, count in (("--jobs", self.jobs), ("--threads", self.threads)):
            if count is not None and not 1 <= count <= MOST_JOBS:
                raise SoftadvError(f"{name} {count}: must be from 1 to {MOST_JOBS}")
        if self.jobs is not None and self.ray is not None:
            raise SoftadvError("--jobs, --ray: only one of them can be given; Ray runs as many as it has room for")
        if self.gpus_per_trial is not None:
            fitting(self.gpus_per_trial)
            if not self.elsewhere:
                raise SoftadvError("--gpus-per-trial: needs --jobs or --ray, whose trials share GPUs")

    @property
    def elsewhere(self) -> bool:
        """Whether jobs run in other processes than this one."""
        return self.jobs is not None or self.ray is not None

    def place(self, device: str) -> tuple[torch.device, str | None]:
        """The device of images and models in this process, and the device name of jobs elsewhere (None: run here).

        device: "auto", "cpu" or "cuda". On Ray "auto" is a GPU where a part of one is asked for, or is here.
        Raises SoftadvError where there is no such device, and for a part of a GPU where jobs run on the CPU.
        """
        if not self.elsewhere:
            return pick_device(device), None
        if self.ray is not None and (device == "cuda" or (device == "auto" and self.gpus_per_trial is not None)):
            return torch.device("cpu"), "cuda"  # this machine need not have one
        where = pick_device(device).type
        if self.gpus_per_trial is not None and where != "cuda":
            raise SoftadvError("--gpus-per-trial: the trials run on the CPU")
        return torch.device("cpu"), where

    @contextmanager
    def opened(self, device: str | None, images: ImageLoader) -> Iterator[tuple[Executor | None, int | None]]:
        """The executor, None for this process, and the threads of each job, None for as many as there are.

        device: of jobs elsewhere, as place says. images: those that jobs may ask for, as they are here.
        All workers are ended on exit. Raises SoftadvError where the executor cannot be started.
        """
        if not self.elsewhere or device is None:
            yield None, self.threads
            return
        executor: Executor
        if self.ray is not None:
            threads = self.threads or 1
            gpus = (self.gpus_per_trial or 1.0) if device == "cuda" else 0.0
            executor = OnRay(self.ray, threads=threads, gpus=gpus, images=images)
        else:
            dealt = deal(
                self.jobs or 1, threads=self.threads, gpus_per_trial=self.gpus_per_trial, device=torch.device(device)
            )
            executor, threads = Processes(dealt), dealt.threads
        try:
            yield executor, threads
        finally:
            executor.close()
