"""A grid's run at the command line: the estimate printed before it, and how signals end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import torch
from rich.console import Console

from softadv.cli import output
from softadv.cli.progress_bar import duration
from softadv.experiments import environment
from softadv.experiments.estimate import TimeEstimate
from softadv.experiments.executors.choose import Chosen

_TERMINATED = 128 + signal.SIGTERM


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM ends this process like Ctrl-C: finished work is kept, and workers end."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return
    came = False

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        nonlocal came
        came = True
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit as error:
        if not came:
            raise
        raise SystemExit(_TERMINATED) from error  # where Ray waits, it makes of this exit one with code 1
    finally:
        signal.signal(signal.SIGTERM, before)


def say_estimate(estimate: TimeEstimate, *, running: Chosen, device: torch.device, on: Console | None = None) -> None:
    """How many trials are left to run, and about how long they take, by stored costs. on: as output.say takes it."""
    jobs = running.jobs or 1
    trials = f"{estimate.left} trial{'' if estimate.left == 1 else 's'} to run"
    if not estimate.left:
        output.say("nothing to run: all have finished", on=on)
        return
    if not estimate.known:
        output.say(f"{trials}; no costs of such trials are stored", on=on)
        return
    part = "" if estimate.known == estimate.left else f", for {estimate.known} of them"
    side = "" if jobs == 1 else f", {jobs} side by side"
    if running.ray is not None:
        side = ", one after another"  # how many Ray has room for is known when it has been joined
    machines = "; ".join(estimate.machines) or "unknown machines"
    here = environment.device_name(device)
    where = "a machine like this" if estimate.machines == (here,) else f"{machines}; here is {here}"
    pace = ", at the pace of the epochs in the folder" if estimate.paced else ""
    output.say(f"{trials}: about {duration(estimate.spread(jobs))}{side}{part}, as they took on {where}{pace}", on=on)
