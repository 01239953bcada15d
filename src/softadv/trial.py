"""One trial from its spec to its result, resuming from its last finished epoch."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from softadv.checkpoint import load_checkpoint, save_checkpoint
from softadv.conclusion import conclude, conclusion_work
from softadv.data import ImageData
from softadv.errors import SoftadvError
from softadv.evaluation import adversarial_accuracy, natural_accuracy
from softadv.models import conv_small
from softadv.progress import CERTIFICATION_COST, UPDATE_COST, Report, stage
from softadv.runs import CHECKPOINT, EpochMetrics, Result, RunFolder
from softadv.spec import Trial
from softadv.training import Learner, attack_of, generator_for, new_learner, train_epoch


def run_trial(trial: Trial, *, run: RunFolder, data: ImageData, report: Report) -> Result:
    """Train, evaluate, certify and export; every finished epoch is kept in the run folder.

    data: the images the spec names, on the device to train on. A finished trial is not run again.
    Raises SoftadvError where the folder holds another trial, other images or damaged files.
    """
    run.begin(trial)
    finished = run.result()
    if finished is not None:
        _check_same_data(run, finished.data_fingerprint, data)
        report("finished before", expected_work(trial, data), before=True)
        return finished
    job = _Job(trial, run, data, report)
    model = conv_small(trial.dataset, normalize=trial.normalize, seed=trial.seed).to(data.train_x.device)
    learner = new_learner(model, trial)
    metrics = _restore(job, learner)
    if metrics:
        report(f"epoch {len(metrics)}/{trial.epochs}", _training_work(trial, data, epochs=len(metrics)), before=True)
    for epoch in range(len(metrics) + 1, trial.epochs + 1):
        metrics.append(_one_epoch(job, learner, epoch))
        # The metrics go first: a checkpoint never knows an epoch that they do not.
        run.write_metrics(metrics)
        save_checkpoint(run.path / CHECKPOINT, learner, epoch=epoch, data_fingerprint=data.fingerprint)
    last = metrics[-1]
    result = conclude(
        learner.model, trial=trial, run=run, data=data, report=report,
        natural=last.natural_accuracy, adversarial=last.adversarial_accuracy,
    )  # fmt: skip
    run.write_result(result)
    return result


def expected_work(trial: Trial, data: ImageData) -> float:
    """A trial's cost in attack steps on one image, for the display of progress."""
    return _training_work(trial, data, epochs=trial.epochs) + conclusion_work(trial, data)


@dataclass(frozen=True)
class _Job:
    """What every step of a trial needs."""

    trial: Trial
    run: RunFolder
    data: ImageData
    report: Report


def _training_cost(trial: Trial) -> int:
    return UPDATE_COST + (0 if trial.method == "natural" else trial.steps)


def _training_work(trial: Trial, data: ImageData, *, epochs: int) -> float:
    """Of the first so many epochs."""
    splits = math.ceil(epochs / trial.split_every) if trial.method == "soft" else 0
    training = epochs * _training_cost(trial) + splits * CERTIFICATION_COST[trial.domain]
    return training * len(data.train_x) + epochs * trial.steps * len(data.test_x)


def _one_epoch(job: _Job, learner: Learner, epoch: int) -> EpochMetrics:
    trial, data = job.trial, job.data
    at = f"epoch {epoch}/{trial.epochs}"
    stages = {
        "certifying": stage(job.report, f"{at}: certifying", cost=CERTIFICATION_COST[trial.domain]),
        "training": stage(job.report, f"{at}: training", cost=_training_cost(trial)),
    }
    trained = train_epoch(
        learner,
        data.train_x,
        data.train_y,
        trial=trial,
        epoch=epoch,
        attack=attack_of(trial),
        on_progress=lambda what, done: stages[what](done),
    )
    started = time.perf_counter()
    adversarial = adversarial_accuracy(
        learner.model,
        data.test_x,
        data.test_y,
        attack=attack_of(trial),
        generator=generator_for(trial, epoch, "evaluation", data.test_x.device),
        on_progress=stage(job.report, f"{at}: evaluating", cost=trial.steps),
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
        attack_seconds=trained.seconds.attack,
        certification_seconds=trained.seconds.certification,
        update_seconds=trained.seconds.update,
        evaluation_seconds=time.perf_counter() - started,
    )


def _restore(job: _Job, learner: Learner) -> list[EpochMetrics]:
    """Put a learner back to its last checkpoint, if there is one; returns the epochs before it."""
    path = job.run.path / CHECKPOINT
    if not path.exists():
        return []
    epoch, fingerprint = load_checkpoint(path, learner, device=job.data.train_x.device)
    _check_same_data(job.run, fingerprint, job.data)
    metrics = job.run.metrics()[:epoch]
    if len(metrics) != epoch:
        raise SoftadvError(f"{job.run.path / 'metrics.json'}: ends before epoch {epoch}, the checkpoint's; use --fresh")
    return metrics


def _check_same_data(run: RunFolder, recorded: str, data: ImageData) -> None:
    if recorded != data.fingerprint:
        raise SoftadvError(
            f"{run.path}: was run on other {data.name} images (fingerprint {recorded[:12]}, now "
            f"{data.fingerprint[:12]}); use --fresh or another folder"
        )
