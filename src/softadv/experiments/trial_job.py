"""A trial as a job: it runs in a folder of its own, wherever that is, and its files come back after every epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from softadv._progress import Report
from softadv._scratch import Scratch
from softadv.data import Dataset
from softadv.errors import DivergedError, SoftadvError
from softadv.experiments.environment import pick_device
from softadv.experiments.executors.images import ImageLoader, Source
from softadv.experiments.executors.jobs import Send, report_to
from softadv.experiments.run_folder import WRITTEN, RunFolder
from softadv.experiments.spec import Trial
from softadv.experiments.trial import run_trial


@dataclass(frozen=True)
class Files:
    """Files of a trial's folder that are new or have changed, by name."""

    contents: Mapping[str, bytes]


@dataclass(frozen=True)
class TrialJob:
    """Everything that it takes to run a trial, or to go on with it.

    folder: where it lies on the driver's machine, for messages alone. files: those of its run folder so far, by name.
    beside: files of the trial that it replays, if there is one: by the trial's name, and by their own.
    trained_by: the name of the trial, among those, whose weights it takes instead of training; None: it trains.
    device: "auto", "cpu" or "cuda", where it runs.
    """

    trial: Trial
    folder: Path
    files: Mapping[str, bytes]
    source: Source
    device: str
    threads: int | None = None
    beside: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    trained_by: str | None = None

    @property
    def name(self) -> str:
        """The trial's."""
        return self.trial.name

    def run(self, *, images: ImageLoader, send: Send) -> None:
        """Run the trial to its end. Raises what run_trial raises, with the driver's paths in its messages."""
        device = pick_device(self.device)
        data = images(self.source)
        if data.train_x.device.type != device.type:
            data = data.to(device)
        with Scratch("softadv-trial-") as place:
            for name, files in {**self.beside, self.name: self.files}.items():
                (place / name).mkdir()
                RunFolder(place / name).receive(files)
            run = RunFolder(place / self.name)
            sent = {name: _digest(content) for name, content in self.files.items()}

            def send_files() -> None:
                there = run.contents(WRITTEN)
                new = {name: content for name, content in there.items() if _digest(content) != sent.get(name)}
                sent.update({name: _digest(content) for name, content in new.items()})
                send(Files(new))

            try:
                self.work(run, data, report=report_to(send), on_kept=send_files)
            except DivergedError:
                raise
            except SoftadvError as error:
                raise SoftadvError(str(error).replace(str(place), str(self.folder.parent))) from error
            send_files()

    def work(self, run: RunFolder, data: Dataset, *, report: Report, on_kept: Callable[[], None]) -> None:
        """Train the trial to its end. run: its folder here. data: its images, where they are to be.

        Raises what run_trial raises.
        """
        trained = None if self.trained_by is None else RunFolder(run.path.parent / self.trained_by)
        run_trial(self.trial, run=run, data=data, report=report, on_kept=on_kept, trained=trained)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
