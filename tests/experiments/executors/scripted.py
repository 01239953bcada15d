"""Work that waits, or dies, where a test wants it to: no test has to hit the moment from outside."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from softadv._progress import Report
from softadv.data import Dataset
from softadv.experiments.certify_jobs import Sharded, SpanJob
from softadv.experiments.executors.images import ImageLoader
from softadv.experiments.executors.jobs import Send
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.run_grid import Training
from softadv.experiments.trial_job import TrialJob
from softadv.training.methods import Soft
from softadv.training.methods.base import EpochStart

HELD = "SOFTADV_TEST_HELD"


@dataclass(frozen=True, kw_only=True)
class Patient(Soft):
    """Soft training that waits in its second epoch while the file is there that the variable HELD names.

    A file beside it, which ends in the process's number, says that it is waiting.
    """

    def attacked(self, epoch: EpochStart) -> Tensor:
        held = Path(os.environ.get(HELD, ""))
        while epoch.number == 2 and held.is_file():
            held.with_name(f"{held.name}-{os.getpid()}").touch()
            time.sleep(0.01)
        return super().attacked(epoch)


PATIENT = f"{Patient.__module__}:{Patient.__name__}"


def die(grave: Path, *, times: int = 1) -> None:
    """Kill this process, unless that was done so many times already. grave: the file that counts them."""
    with grave.open("ab") as file:
        if file.tell() >= times:
            return
        file.write(b"x")
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class MortalTrial(TrialJob):
    """A trial's job that kills its worker at the start of these stages, so many times at each."""

    deaths: Mapping[str, int]
    graves: Path

    def work(self, run: RunFolder, data: Dataset, *, report: Report, on_kept) -> None:
        def deadly(what: str, work: float, *, before: bool = False, note: str = "") -> None:
            report(what, work, before=before, note=note)
            for number, (stage, times) in enumerate(self.deaths.items()):
                if what.startswith(stage):
                    die(self.graves / f"{self.name}-{number}", times=times)

        super().work(run, data, report=deadly, on_kept=on_kept)


@dataclass(frozen=True)
class MortalTraining(Training):
    """Training by MortalTrial. graves: a folder."""

    deaths: Mapping[str, int]
    graves: Path

    def job(self, job: TrialJob) -> TrialJob:
        return MortalTrial(**vars(job), deaths=self.deaths, graves=self.graves)


@dataclass(frozen=True, kw_only=True)
class MortalSpan(SpanJob):
    """A span's job that kills its worker once, when it has sent rows that begin with one of these images."""

    after: tuple[int, ...]
    graves: Path

    def run(self, *, images: ImageLoader, send: Send) -> None:
        def deadly(message: object) -> None:
            send(message)
            if isinstance(message, list) and message[0].index in self.after:
                die(self.graves / str(message[0].index))

        super().run(images=images, send=deadly)


@dataclass(frozen=True, kw_only=True)
class MortalSharded(Sharded):
    """A certification by MortalSpan. graves: a folder."""

    after: tuple[int, ...]
    graves: Path

    def _job(self, span, weights, threads) -> SpanJob:
        return MortalSpan(**vars(super()._job(span, weights, threads)), after=self.after, graves=self.graves)
