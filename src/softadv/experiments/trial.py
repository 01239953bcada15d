"""One trial from its spec to its result, resuming from its last finished epoch; or several side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from softadv._progress import CERTIFICATION_COST, UPDATE_COST, Report, stage
from softadv._versions import package_version
from softadv.attacks.pgd import Pgd
from softadv.data import ImageData
from softadv.errors import DivergedError, SoftadvError
from softadv.experiments import environment
from softadv.experiments.final_evaluation import conclude, conclusion_work
from softadv.experiments.records import Result, digest
from softadv.experiments.run_folder import CHECKPOINT, METRICS, RunFolder
from softadv.experiments.spec import Trial
from softadv.kernels import pgd as compiled_attack
from softadv.kernels import weight_gradients as compiled_update
from softadv.models import conv_small
from softadv.training.checkpoint import load_checkpoint, save_checkpoint
from softadv.training.divergence import diverging
from softadv.training.evaluation import adversarial_accuracy, natural_accuracy
from softadv.training.loop import (
    Learner,
    Progress,
    TrainedEpoch,
    attack_of,
    generator_for,
    new_learner,
    replayed,
    train_epoch,
)
from softadv.training.records import EpochMetrics
from softadv.training.stacked import MembersDivergedError, Team

_KERNELS = {"attack": compiled_attack, "update": compiled_update}


def run_trial(trial: Trial, *, run: RunFolder, data: ImageData, report: Report) -> Result:
    """Train, evaluate, certify and export; every finished epoch is kept in the run folder.

    data: the images the spec names, on the device to train on. A finished trial is not run again.
    Raises SoftadvError where the folder holds another trial, other images or damaged files, and where another process
    writes there; DivergedError where the training ends in NaN or infinity.
    """
    with run.begun(trial):
        finished = run.finished()
        if finished is not None:
            _check_same_data(run, finished.data_fingerprint, data)
            report("finished before", expected_work(trial, data), before=True)
            return finished
        under_way = TrialRun.resume(trial, run=run, data=data, report=report)
        while under_way.epoch < trial.epochs:
            under_way.train_epoch()
        last = under_way.metrics[-1]
        with diverging(last.epoch):
            result = conclude(
                under_way.learner.model, trial=trial, run=run, data=data, report=report,
                natural=last.natural_accuracy, adversarial=last.adversarial_accuracy,
            )  # fmt: skip
        return run.write_result(result)


def train_side_by_side(runs: Sequence[TrialRun]) -> None:
    """Train trials that differ in nothing but the seed to their last epoch, as one model.

    runs: one or more at the same epoch, of trials that can be stacked. Each keeps its epochs in its own folder, as if
    it were alone, so that from wherever this is stopped each can go on by itself. One that diverges
    stays at the epoch before, and the others go on.
    """
    going: Sequence[TrialRun] = runs
    while going and going[0].epoch < going[0].trial.epochs:
        going = _train_team(going)


def _train_team(runs: Sequence[TrialRun]) -> Sequence[TrialRun]:
    """Train trials side by side to their last epoch, or until one diverges. Returns those that go on."""
    first = runs[0]
    team = Team([run.learner for run in runs], [run.trial for run in runs])
    attack = attack_of(first.trial)
    assert isinstance(attack, Pgd)
    for epoch in range(first.epoch + 1, first.trial.epochs + 1):
        told = [run.progress(epoch) for run in runs]
        data = first.data
        try:
            trained = team.train_epoch(data.train_x, data.train_y, epoch=epoch, attack=attack, on_progress=told)
        except MembersDivergedError as error:
            return [run for place, run in enumerate(runs) if place not in error.errors]
        well = [run for run, of_run in zip(runs, trained, strict=True) if _is_kept(run, of_run)]
        if len(well) < len(runs):
            return well
    return runs


def _is_kept(run: TrialRun, trained: TrainedEpoch) -> bool:
    """Keep a trial's epoch, unless its model's scores are NaN or infinite."""
    try:
        run.keep(trained)
    except DivergedError:
        return False
    return True


def expected_work(trial: Trial, data: ImageData) -> float:
    """A trial's cost in attack steps on one image, for the display of progress."""
    return _training_work(trial, data, epochs=trial.epochs) + conclusion_work(trial, data)


@dataclass
class TrialRun:
    """A trial under way: what it needs, its learner, and the epochs it has behind it."""

    trial: Trial
    run: RunFolder
    data: ImageData
    report: Report
    learner: Learner
    metrics: list[EpochMetrics]

    @classmethod
    def resume(cls, trial: Trial, *, run: RunFolder, data: ImageData, report: Report) -> TrialRun:
        """The trial where its last checkpoint left it, or at its start; the run folder must have been begun.

        Raises SoftadvError where the folder holds other images or damaged files.
        """
        environment.commit()  # asked before the training: its record comes at the end
        model = conv_small(trial.dataset, normalize=trial.normalize, seed=trial.seed).to(data.train_x.device)
        under_way = cls(trial, run, data, report, new_learner(model, trial), [])
        under_way._restore()
        done = under_way.epoch
        if done:
            report(f"epoch {done}/{trial.epochs}", _training_work(trial, data, epochs=done), before=True)
        return under_way

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 before the first."""
        return len(self.metrics)

    def train_epoch(self) -> None:
        """Train the next epoch, evaluate it and keep it in the run folder. Raises DivergedError."""
        data, epoch = self.data, self.epoch + 1
        with diverging(epoch):
            trained = train_epoch(
                self.learner,
                data.train_x,
                data.train_y,
                trial=self.trial,
                epoch=epoch,
                attack=attack_of(self.trial),
                on_progress=self.progress(epoch),
            )
        self.keep(trained)

    def progress(self, epoch: int) -> Progress:
        """What is to be told of an epoch's training."""
        trial = self.trial
        at = f"epoch {epoch}/{trial.epochs}"
        stages = {
            "certifying": stage(self.report, f"{at}: certifying", cost=CERTIFICATION_COST[trial.domain]),
            "training": stage(self.report, f"{at}: training", cost=_training_cost(trial)),
        }
        return lambda what, done: stages[what](done)

    def keep(self, trained: TrainedEpoch) -> None:
        """Evaluate the epoch that the learner has been trained for, and keep it in the run folder.

        Raises DivergedError where there is nothing to keep, since the model's scores are NaN or infinite.
        """
        epoch = self.epoch + 1
        with diverging(epoch):
            self.metrics.append(self._evaluate(trained, epoch))
        # The metrics go first: a checkpoint never knows an epoch that they do not.
        self.run.write_metrics(self.metrics)
        save_checkpoint(self.run.path / CHECKPOINT, self.learner, epoch=epoch, about=self._belongs_to(self.metrics))

    def _belongs_to(self, metrics: Sequence[EpochMetrics]) -> dict[str, str]:
        return {"data": self.data.fingerprint, "spec": digest(self.trial), "metrics": digest(*metrics)}

    def _evaluate(self, trained: TrainedEpoch, epoch: int) -> EpochMetrics:
        trial, data, learner = self.trial, self.data, self.learner
        started = time.perf_counter()
        adversarial = adversarial_accuracy(
            learner.model,
            data.test_x,
            data.test_y,
            attack=replayed(attack_of(trial), learner, most=len(data.test_x)),
            generator=generator_for(trial, epoch, "evaluation", data.test_x.device),
            on_progress=stage(self.report, f"epoch {epoch}/{trial.epochs}: evaluating", cost=trial.steps),
        )
        split = learner.partition
        return EpochMetrics(
            epoch=epoch,
            loss=trained.loss,
            natural_accuracy=natural_accuracy(learner.model, data.test_x, data.test_y),
            adversarial_accuracy=adversarial,
            misclassified=None if split is None else int(split.misclassified.sum()),
            unverified=None if split is None else int(split.unverified.sum()),
            verified=None if split is None else int(split.verified.sum()),
            certifier=None if split is None else split.certifier,
            engine=_engine(data.train_x.device),
            attack_seconds=trained.seconds.attack,
            certification_seconds=trained.seconds.certification,
            update_seconds=trained.seconds.update,
            evaluation_seconds=time.perf_counter() - started,
        )

    def _restore(self) -> None:
        """Put the learner back to its last checkpoint, if there is one, and the metrics to the epochs before it."""
        path = self.run.path / CHECKPOINT
        if not path.exists():
            return
        again = self.run.again()
        try:
            epoch, about = load_checkpoint(path, self.learner, device=self.data.train_x.device)
        except SoftadvError as error:
            raise SoftadvError(f"{error}; {again}") from error
        _check_same_data(self.run, about.get("data", ""), self.data)
        if "spec" in about:
            fits = about["spec"] == digest(self.trial)
        else:  # of an earlier version: the network and its optimizer fit, and so must the split
            fits = epoch <= self.trial.epochs and self._fits_split(epoch)
        if not fits:
            raise SoftadvError(f"{path}: not a checkpoint of this trial; {again}")
        metrics = self.run.metrics()[:epoch]
        if len(metrics) != epoch:
            raise SoftadvError(f"{self.run.path / METRICS}: ends before epoch {epoch}, the checkpoint's; {again}")
        if about.get("metrics", digest(*metrics)) != digest(*metrics):
            raise SoftadvError(f"{self.run.path / METRICS}: not the epochs of the checkpoint; {again}")
        self.metrics = metrics

    def _fits_split(self, epoch: int) -> bool:
        """Whether there is a split of these images if the epoch needed one, and none else."""
        split = self.learner.partition
        if self.trial.method != "soft" or epoch <= self.trial.natural_epochs:
            return split is None
        return split is not None and len(split.verified) == len(self.data.train_x)


def _engine(device: torch.device) -> str:
    """What there is to train an epoch with, in words for its record."""
    parts = [environment.device_name(device)]
    if device.type == "cpu":
        kernels = [name for name, kernel in _KERNELS.items() if kernel.available()]
        parts += [f"{torch.get_num_threads()} threads", f"kernels there: {', '.join(kernels) or 'none'}"]
    return ", ".join([*parts, f"softadv {package_version('softadv')}, commit {environment.commit()}"])


def _training_cost(trial: Trial) -> int:
    return UPDATE_COST + (0 if trial.method == "natural" else trial.steps)


def _training_work(trial: Trial, data: ImageData, *, epochs: int) -> float:
    """Of the first so many epochs."""
    splits = math.ceil(epochs / trial.split_every) if trial.method == "soft" else 0
    training = epochs * _training_cost(trial) + splits * CERTIFICATION_COST[trial.domain]
    return training * len(data.train_x) + epochs * trial.steps * len(data.test_x)


def _check_same_data(run: RunFolder, recorded: str, data: ImageData) -> None:
    if recorded != data.fingerprint:
        raise SoftadvError(
            f"{run.path}: was run on other {data.name} images (fingerprint {recorded[:12]}, now "
            f"{data.fingerprint[:12]}); use --fresh or another folder"
        )
