"""What a job may use: cores and GPUs, dealt among those that run side by side."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from softadv.errors import SoftadvError

MOST_JOBS = 1024


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Dealt:
    """What each of several workers gets. threads: of each. gpus: for each worker its GPU as CUDA_VISIBLE_DEVICES
    names it; none on CPUs."""

    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()

    def gpu(self, worker: int) -> str | None:
        """The GPU of a worker, from 0; None where it has none."""
        return self.gpus[worker % len(self.gpus)] if self.gpus else None


def deal(jobs: int, *, threads: int | None, gpus_per_trial: float | None, device: torch.device) -> Dealt:
    """Deal this machine's cores and GPUs among so many workers.

    threads: of each; None: cores divided by jobs. gpus_per_trial: a part of one GPU, so that 0.5 puts two on each;
    None: all GPUs are dealt in turn.
    Raises SoftadvError where the GPUs do not suffice.
    """
    each = threads if threads is not None else max(1, usable_cores() // jobs)
    if device.type != "cuda":
        return Dealt(jobs, each)
    there = visible_gpus()
    if gpus_per_trial is None:
        return Dealt(jobs, each, tuple(there))
    room = len(there) * fitting(gpus_per_trial)
    if jobs > room:
        raise SoftadvError(
            f"--gpus-per-trial {gpus_per_trial:g}: {len(there)} GPU{'' if len(there) == 1 else 's'} have room for "
            f"{room} trials at a time, not for --jobs {jobs}"
        )
    return Dealt(jobs, each, tuple(there))


def fitting(gpus_per_trial: float) -> int:
    """How many trials share a GPU. Raises SoftadvError unless it is one or more."""
    if not 0 < gpus_per_trial <= 1:
        raise SoftadvError(f"--gpus-per-trial {gpus_per_trial:g}: a trial uses one GPU, or a part of one such as 0.5")
    return int(1 / gpus_per_trial + 1e-9)


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if len(named) >= count else [str(number) for number in range(count)]
