"""One trial from its spec to its result, resuming from its last finished epoch; or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softadv._progress import CERTIFICATION_COST, UPDATE_COST, Report, stage
from softadv._versions import package_version
from softadv.attacks import TorchAttack
from softadv.certify.certifiers import certify
from softadv.data import Dataset
from softadv.errors import DivergedError, SoftadvError
from softadv.experiments import environment
from softadv.experiments.final_evaluation import conclude, conclusion_work, names_to_record
from softadv.experiments.records import Result, digest
from softadv.experiments.run_folder import CHECKPOINT, METRICS, RunFolder
from softadv.experiments.shared_training import take_over
from softadv.experiments.sources import check_sources, sources_of
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.kernels import pgd as attack_kernel
from softadv.kernels import weight_gradients
from softadv.models import load_model
from softadv.training.batches import check_augmentation
from softadv.training.checkpoint import load_checkpoint, save_checkpoint
from softadv.training.config import TrainConfig
from softadv.training.divergence import diverging
from softadv.training.early_stopping import final_epoch
from softadv.training.loop import Progress, TrainedEpoch
from softadv.training.records import EpochMetrics
from softadv.training.stacked import MembersDivergedError, Team, draws
from softadv.training.state import new_state
from softadv.training.trainer import Trainer

_KERNELS = {"attack": attack_kernel, "update": weight_gradients}


def _nobody() -> None:
    """What is told of a finished epoch where nobody asked."""


def run_trial(
    trial: Trial,
    *,
    run: RunFolder,
    data: Dataset,
    report: Report,
    on_kept: Callable[[], None] = _nobody,
    trained: RunFolder | None = None,
) -> Result:
    """Train, evaluate, certify and export; every finished epoch is kept in the run folder.

    data: the images the spec names, on the device to train on. A finished trial is not run again.
    on_kept: called whenever an epoch has been kept.
    trained: of a trial that has trained the same weights, which are then taken; None, and where this trial has begun a
    training of its own: it trains.
    Raises SoftadvError where the folder holds another trial, other images or damaged files, and where another process
    writes there; DivergedError where the training ends in NaN or infinity.
    """
    with run.begun(trial):
        finished = run.finished()
        if finished is not None:
            check_same_data(run, finished.data_fingerprint, data)
            report("finished before", expected_work(trial, data), before=True)
            return finished
        under_way = TrialRun.resume(trial, run=run, data=data, report=report)
        under_way.on_kept = on_kept
        if trained is not None and not under_way.epoch:
            under_way.take_over(trained)
        while not under_way.trainer.is_done:
            under_way.train_epoch()
        last = under_way.finish()
        with diverging(last.epoch):
            result = conclude(
                under_way.trainer.state.model, trial=trial, run=run, data=data, report=report, last=last,
            )  # fmt: skip
        return run.write_result(result)


def train_side_by_side(runs: Sequence[TrialRun]) -> None:
    """Train trials that differ in nothing but the seed to their last epoch, as one model.

    runs: one or more at the same epoch, of trials that can be stacked. Each keeps its epochs in its own folder, as if
    it were alone, so that from wherever this is stopped each can go on by itself. One that diverges
    stays at the epoch before, and the others go on.
    """
    # With random numbers of its own a member would not be what it is alone: then each trains by itself.
    first = runs[0].trainer
    going: Sequence[TrialRun] = [] if draws(first.state.model, first.train[0][:2]) else runs
    while going and not going[0].trainer.is_done:
        going = _train_team(going)


def _train_team(runs: Sequence[TrialRun]) -> Sequence[TrialRun]:
    """Train trials side by side to their last epoch, or until one diverges. Returns those that go on."""
    first = runs[0]
    team = Team([run.trainer.state for run in runs], [run.trainer.config for run in runs])
    for epoch in range(first.epoch + 1, first.trial.epochs + 1):
        told = [run.progress(epoch) for run in runs]
        try:
            trained = team.train_epoch(*first.trainer.train, epoch=epoch, on_progress=told)
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


def expected_work(trial: Trial, data: Dataset) -> float:
    """A trial's cost in attack steps on one image, for the display of progress."""
    return _training_work(trial, data, epochs=trial.epochs) + conclusion_work(trial, data)


@dataclass
class TrialRun:
    """A trial under way: its folder, its images, and the training."""

    trial: Trial
    run: RunFolder
    data: Dataset
    report: Report
    trainer: Trainer
    on_kept: Callable[[], None] = _nobody

    @classmethod
    def resume(cls, trial: Trial, *, run: RunFolder, data: Dataset, report: Report) -> TrialRun:
        """The trial where its last checkpoint left it, or at its start; the run folder must have been begun.

        Raises SoftadvError where the folder holds other images or damaged files.
        """
        environment.commit()  # asked before the training: its record comes at the end
        check_sources(run.path, sources_of(trial))
        config = train_config(trial, beside=run.path.parent)
        device = data.train_x.device
        model = load_model(trial.model, data, normalize=trial.normalize, seed=trial.seed).to(device)
        train, validation = split_off(data, trial.validation_images)
        trainer = Trainer(
            new_state(model, config), config, train=train, test=(data.test_x, data.test_y), validation=validation,
            engine=_engine(device),
        )  # fmt: skip
        under_way = cls(trial, run, data, report, trainer)
        under_way._restore()
        done = under_way.epoch
        if not done:
            _check_fit(trial, data, model)
        if done:
            report(f"epoch {done}/{trial.epochs}", _training_work(trial, data, epochs=done), before=True)
        return under_way

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 before the first."""
        return self.trainer.epoch

    def train_epoch(self) -> None:
        """Train the next epoch, evaluate it and keep it in the run folder. Raises DivergedError."""
        epoch = self.epoch + 1
        with diverging(epoch):
            self.trainer.run_epoch(self.progress(epoch))
        self._write()

    def progress(self, epoch: int) -> Progress:
        """What is to be told of an epoch's training and evaluation."""
        trial = self.trial
        at = f"epoch {epoch}/{trial.epochs}"
        stages = {
            "certifying": stage(self.report, f"{at}: certifying", cost=CERTIFICATION_COST[trial.domain]),
            "training": stage(self.report, f"{at}: training", cost=_training_cost(self.trainer.config, trial, epoch)),
            "evaluating": stage(self.report, f"{at}: evaluating", cost=trial.steps),
            "validating": stage(self.report, f"{at}: validating", cost=trial.steps),
        }
        return lambda what, done: stages[what](done)

    def keep(self, trained: TrainedEpoch) -> None:
        """Evaluate the epoch that the model has been trained for, and keep it in the run folder.

        Raises DivergedError where there is nothing to keep, since the model's scores are NaN or infinite.
        """
        epoch = self.epoch + 1
        with diverging(epoch):
            self.trainer.record(trained, self.progress(epoch))
        self._write()

    def take_over(self, other: RunFolder) -> None:
        """Take the weights that another trial has trained, instead of training. Raises SoftadvError, DivergedError."""
        metrics = take_over(self.trial, self.trainer.state.model, other=other)
        last = self.trial.epochs
        work = _training_work(self.trial, self.data, epochs=last)
        self.report(f"trained by {other.path.name}", work, before=True)
        with diverging(last):
            self.trainer.measure_last(metrics, self.progress(last))
        self.run.write_metrics(self.trainer.metrics)

    def finish(self) -> EpochMetrics:
        """The epoch whose weights are the trial's: the last one, or the best where it was to stop early."""
        self.trainer.finish()
        return final_epoch(self.trainer.metrics, patience=self.trial.patience)

    def _write(self) -> None:
        # The metrics go first: a checkpoint never knows an epoch that they do not.
        metrics = self.trainer.metrics
        self.run.write_metrics(metrics)
        save_checkpoint(
            self.run.path / CHECKPOINT, self.trainer.state, epoch=self.epoch, best=self.trainer.best,
            about=self._belongs_to(metrics),
        )  # fmt: skip
        self.on_kept()

    def _belongs_to(self, metrics: Sequence[EpochMetrics]) -> dict[str, str]:
        return {"data": self.data.fingerprint, "spec": digest(self.trial), "metrics": digest(*metrics)}

    def _restore(self) -> None:
        """Go back to the last checkpoint, if there is one, and to the epochs before it."""
        path = self.run.path / CHECKPOINT
        if not path.exists():
            return
        again = self.run.again()
        try:
            epoch, about = load_checkpoint(
                path, self.trainer.state, best=self.trainer.best, device=self.data.train_x.device
            )
        except SoftadvError as error:
            raise SoftadvError(f"{error}; {again}") from error
        check_same_data(self.run, about.get("data", ""), self.data)
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
        self.trainer.metrics = metrics

    def _fits_split(self, epoch: int) -> bool:
        """Whether there is a split of these images if an epoch so far made one, and none else."""
        config, split = self.trainer.config, self.trainer.state.partition
        if not any(config.splits_before(number) for number in range(1, epoch + 1)):
            return split is None
        return split is not None and len(split.verified) == len(self.data.train_x)


def _check_fit(trial: Trial, data: Dataset, model: nn.Module) -> None:
    """Raise SoftadvError, before any epoch, for what would only be refused during the training or at its end."""
    check_augmentation(trial.augment, data)
    names_to_record(trial, data)
    if trial.autoattack_images:
        TorchAttack("AutoAttack").check_classes(data.classes)
    # The examples are certified by the trial's own domain, whatever the test images are certified by.
    for domain in dict.fromkeys((*trial.certified_domains, trial.domain)):
        engine = trial.certifier if domain == trial.domain else "native"
        certify(model, data.test_x[:1], data.test_y[:1], eps=trial.eps, domain=domain, engine=engine)


def split_off(data: Dataset, validation_images: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """The training images to train on, and the last so many of them for validation.

    Raises SoftadvError where none would be left to train on.
    """
    if validation_images >= len(data.train_x):
        raise SoftadvError(f"validation_images: {validation_images} of {len(data.train_x)} training images")
    kept = len(data.train_x) - validation_images
    validation = (data.train_x[kept:], data.train_y[kept:]) if validation_images else None
    return (data.train_x[:kept], data.train_y[:kept]), validation


def _engine(device: torch.device) -> str:
    """What there is to train an epoch with, in words for its record."""
    parts = [environment.device_name(device)]
    if device.type == "cpu":
        kernels = [name for name, kernel in _KERNELS.items() if kernel.available()]
        parts += [f"{torch.get_num_threads()} threads", f"kernels there: {', '.join(kernels) or 'none'}"]
    return ", ".join([*parts, f"softadv {package_version('softadv')}, commit {environment.commit()}"])


def _training_cost(config: TrainConfig, trial: Trial, epoch: int) -> float:
    return UPDATE_COST + config.attack_passes(epoch) * trial.steps


def _training_work(trial: Trial, data: Dataset, *, epochs: int) -> float:
    """Of the first so many epochs."""
    config = train_config(trial)
    numbers = range(1, epochs + 1)
    splits = sum(config.certified_share(number) for number in numbers)
    training = sum(_training_cost(config, trial, number) for number in numbers)
    training += splits * CERTIFICATION_COST[trial.domain]
    evaluated = len(data.test_x) + trial.validation_images
    evaluations = sum(map(config.evaluates, numbers))
    return training * (len(data.train_x) - trial.validation_images) + evaluations * trial.steps * evaluated


def check_same_data(run: RunFolder, recorded: str, data: Dataset) -> None:
    """Raise SoftadvError where a run folder's images, by their recorded fingerprint, are others."""
    if recorded != data.fingerprint:
        raise SoftadvError(
            f"{run.path}: was run on other {data.name} images (fingerprint {recorded[:12]}, now "
            f"{data.fingerprint[:12]}); use --fresh or another folder"
        )
