"""Runs a grid's trials on an executor: submits jobs, writes their files, and handles failures.

Only this process writes the run folders. A trial that fails or has bad input does not affect the others; one whose
worker is lost is restarted from its last finished epoch.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from softadv._io import write_text
from softadv._locks import held
from softadv._progress import Report
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.experiments.executors.in_process import InProcess
from softadv.experiments.executors.jobs import Ended, Executor, Handle, Lost, ProgressMessage
from softadv.experiments.grid import GridReport, GridRun, Prepared
from softadv.experiments.records import Result
from softadv.experiments.run_folder import (
    CHECKPOINT,
    METRICS,
    RESULT,
    SPEC,
    TRACEBACK,
    WEIGHTS,
    WRITTEN,
    RunFolder,
)
from softadv.experiments.shared_training import trained_by
from softadv.experiments.side_by_side import train_all_seeds
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import replayed_by
from softadv.experiments.trial import check_same_data, expected_work
from softadv.experiments.trial_job import Files, TrialJob

TRIES_AGAIN = 3  # of a trial whose workers are lost, without an epoch finished in between


class Task(Protocol):
    """What is done with each trial of a grid."""

    side_by_side: bool  # whether trials that differ in the seed alone can be trained as one model

    def check(self, done: Result, run: RunFolder, data: Dataset) -> None:
        """Raise SoftadvError where a finished trial's result is not what would come out now."""

    def work_on(self, trial: Trial, data: Dataset) -> float:
        """Its cost in attack steps on one image."""

    def job(self, job: TrialJob) -> TrialJob:
        """The job, given the one that trains. Raises SoftadvError where it lacks something."""


class Training:
    """Trials are trained, and what comes out is measured."""

    side_by_side = True

    def check(self, done: Result, run: RunFolder, data: Dataset) -> None:
        """Raise SoftadvError where a result is of other images."""
        check_same_data(run, done.data_fingerprint, data)

    def work_on(self, trial: Trial, data: Dataset) -> float:
        """The cost of the training and of what follows it."""
        return expected_work(trial, data)

    def job(self, job: TrialJob) -> TrialJob:
        """The same one."""
        return job


def run_grid(
    prepared: Prepared,
    *,
    report: GridReport,
    task: Task | None = None,
    executor: Executor | None = None,
    threads: int | None = None,
    side_by_side: bool | None = None,
) -> GridRun:
    """Run every trial that has not finished yet; one that replays another, or takes its weights, waits for that.

    A trial that fails leaves its traceback in its folder, one with bad input, such as a damaged checkpoint,
    leaves the message there; the next one goes on.

    task: what is done with each; None trains it. executor: where they run; None is here, one after another. The caller
        closes it. threads: of each trial; None: as many as there are where it runs.
    side_by_side: train trials that differ in nothing but the seed as one model, before the first of them is concluded.
        None does so on a GPU, which one of them does not fill. Here alone: with an executor of one's own it is ignored.
    Raises SoftadvError where another process writes to the grid's folder.
    """
    here = executor is None
    with held(prepared.lock, what=prepared.folder):
        task = task or Training()
        driver = _Driver(prepared, executor or InProcess(prepared.images), report, threads, task)
        if not here or not task.side_by_side:
            side_by_side = False
        elif side_by_side is None:
            side_by_side = any(data.train_x.is_cuda for data in prepared.datasets.values())
        return driver.run(side_by_side=side_by_side)


@dataclass
class _Flight:
    """A running trial. new_work: the work reported since its last files arrived."""

    trial: Trial
    run: RunFolder
    report: Report
    holding: ExitStack
    lost: int = 0
    new_work: float = 0.0


@dataclass
class _Driver:
    prepared: Prepared
    executor: Executor
    report: GridReport
    threads: int | None
    task: Task
    under_way: dict[str, _Flight] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    told_before: set[Trial] = field(default_factory=set)  # of which it was told what an earlier run did

    def run(self, *, side_by_side: bool) -> GridRun:
        waiting = list(self.prepared.trials)
        try:
            while waiting or self.under_way:
                while self.executor.free and (trial := self._next(waiting)) is not None:
                    waiting.remove(trial)
                    if side_by_side and self._trained_by(trial) is None:
                        self.told_before |= train_all_seeds(
                            self.prepared, trial, but=self.told_before, report=self.report
                        )
                    self._begin(trial)
                if self.under_way:
                    self.executor.deliver(self._receive)
        finally:
            for flight in self.under_way.values():
                flight.holding.close()
        names = [trial.name for trial in self.prepared.trials]
        return GridRun(
            tuple(name for name in names if name in self.finished),
            tuple(name for name in names if name in self.failed),
            {name: self.refused[name] for name in names if name in self.refused},
        )

    def _next(self, waiting: list[Trial]) -> Trial | None:
        """The first trial that does not wait for another one, to replay it or to take its weights."""
        to_come = {trial.name for trial in waiting} | self.under_way.keys()
        for trial in waiting:
            needed = (replayed_by(trial), self._trained_by(trial))
            if not any(first is not None and first.name in to_come for first in needed):
                return trial
        return None

    def _trained_by(self, trial: Trial) -> Trial | None:
        return trained_by(trial, self.prepared.trials)

    def _begin(self, trial: Trial) -> None:
        """Take a trial's folder, and submit what is left to do of it, if anything is."""
        run, told = RunFolder(self.prepared.folder / trial.name), partial(self.report, trial.name)
        data = self.prepared.datasets[trial]
        holding = ExitStack()
        try:
            holding.enter_context(run.begun(trial))
        except SoftadvError as error:  # somebody else's folder, or another process writes there: nothing is left in it
            self._refuse(trial.name, str(error))
            return
        try:
            done = run.finished()
            if done is not None:
                self.task.check(done, run, data)
                if trial not in self.told_before:
                    told("finished before", self.task.work_on(trial, data), before=True)
                self.finished.add(trial.name)
                holding.close()
                return
            job = self._job(trial, run)
        except SoftadvError as error:
            self._refuse(trial.name, self._kept(run, str(error)))
            holding.close()
            return
        self.under_way[trial.name] = _Flight(trial, run, told, holding)
        self.executor.submit(job)

    def _job(self, trial: Trial, run: RunFolder) -> TrialJob:
        replayed, trained = replayed_by(trial), self._trained_by(trial)
        if trained is not None and (trained.name not in self.finished or (run.path / CHECKPOINT).exists()):
            trained = None  # it failed, or this one has begun a training of its own
        needed: dict[str, tuple[str, ...]] = {} if replayed is None else {replayed.name: (SPEC, METRICS, RESULT)}
        needed |= {} if trained is None else {trained.name: (SPEC, METRICS, WEIGHTS, RESULT)}
        training = TrialJob(
            trial=trial,
            folder=run.path,
            files=run.contents(WRITTEN),
            source=self.prepared.source(trial),
            device=self.prepared.device,
            threads=self.threads,
            beside={name: RunFolder(self.prepared.folder / name).contents(files) for name, files in needed.items()},
            trained_by=None if trained is None else trained.name,
        )
        return self.task.job(training)

    def _receive(self, handle: Handle, message: object) -> None:
        """Handle a message of a trial. Raises SoftadvError where its files cannot be written."""
        flight = self.under_way[handle.job.name]
        match message:
            case ProgressMessage():
                if not message.before:
                    flight.new_work += message.work
                elif flight.lost or flight.trial in self.told_before:
                    return
                flight.report(message.what, message.work, before=message.before, note=message.note)
            case Files():
                flight.run.receive(message.contents)
                flight.lost, flight.new_work = 0, 0.0
            case Lost():
                self._lost(flight, message.reason)
            case Ended():
                self._end(flight, message)

    def _lost(self, flight: _Flight, reason: str) -> None:
        """Restart a trial whose worker is gone, or give it up after too many tries."""
        flight.report("lost its worker", -flight.new_work)
        flight.new_work = 0.0
        flight.lost += 1
        if flight.lost > TRIES_AGAIN:
            self._end(flight, Ended("failed", f"given up after {flight.lost} workers, the last of which: {reason}"))
            return
        try:
            job = self._job(flight.trial, flight.run)
        except SoftadvError as error:
            self._end(flight, Ended("refused", str(error)))
            return
        self.executor.submit(job)

    def _end(self, flight: _Flight, ended: Ended) -> None:
        name = flight.trial.name
        reason = f"{ended.reason} (on {ended.where})" if ended.where else ended.reason
        if ended.outcome == "finished":
            self.finished.add(name)
            if self.executor.slots > 1:
                flight.report("finished", 0)
        elif (kept := self._kept(flight.run, reason)) != reason or ended.outcome == "refused":
            self._refuse(name, kept)
        else:
            self.report(name, "failed", 0)
            self.failed.add(name)
        del self.under_way[name]
        flight.holding.close()

    def _kept(self, run: RunFolder, reason: str) -> str:
        """Write into a trial's folder why it ended. Returns the reason, or, where that fails, one line with both."""
        try:
            write_text(run.path / TRACEBACK, f"{reason}\n")
        except SoftadvError as error:  # such as a full disk: the other trials go on
            return f"{reason.splitlines()[-1]}; {error}"
        return reason

    def _refuse(self, name: str, reason: str) -> None:
        self.report(name, "refused", 0)
        self.refused[name] = reason
