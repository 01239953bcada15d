"""One trial from its spec to its result, resuming from its last finished epoch."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import nn

from softadv import environment
from softadv.attacks import AUTOATTACK, Attack, make_attack
from softadv.certifiers import certify
from softadv.checkpoint import load_checkpoint, save_checkpoint
from softadv.data import ImageData
from softadv.errors import SoftadvError
from softadv.evaluation import adversarial_accuracy, attack_images, certified_accuracy, natural_accuracy
from softadv.export import check_parity, export_onnx
from softadv.models import IMAGE_SHAPES, conv_small, count_neurons
from softadv.progress import AUTOATTACK_COST, CERTIFICATION_COST, UPDATE_COST, Report, stage
from softadv.runs import (
    CHECKPOINT,
    EXAMPLES,
    MODEL,
    WEIGHTS,
    Autoattacked,
    Certified,
    EpochMetrics,
    Parity,
    Result,
    RunFolder,
    tensors_sha256,
    write_tensors,
)
from softadv.spec import Trial
from softadv.training import Learner, generator_for, new_learner, train_epoch

_EXAMPLES = 8
_PARITY_IMAGES = 1000


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
    learner = new_learner(conv_small(trial.dataset, normalize=trial.normalize, seed=trial.seed), trial)
    learner.model.to(data.train_x.device)
    metrics = _restore(job, learner)
    if metrics:
        report(f"epoch {len(metrics)}/{trial.epochs}", _training_work(trial, data, epochs=len(metrics)), before=True)
    for epoch in range(len(metrics) + 1, trial.epochs + 1):
        metrics.append(_one_epoch(job, learner, epoch))
        # The metrics go first: a checkpoint never knows an epoch that they do not.
        run.write_metrics(metrics)
        save_checkpoint(run.path / CHECKPOINT, learner, epoch=epoch, data_fingerprint=data.fingerprint)
    result = _conclude(job, learner.model, metrics[-1])
    run.write_result(result)
    return result


def expected_work(trial: Trial, data: ImageData) -> float:
    """A trial's cost in attack steps on one image, for the display of progress."""
    final = sum(CERTIFICATION_COST[domain] for domain in trial.certified_domains) * _certified_count(trial, data)
    final += AUTOATTACK_COST * min(trial.autoattack_images, len(data.test_x))
    return _training_work(trial, data, epochs=trial.epochs) + final


def attack_of(trial: Trial) -> Attack:
    """The attack that a trial trains against and is evaluated with. Raises SoftadvError for an unknown name."""
    return make_attack(
        trial.attack, eps=trial.eps, alpha=trial.alpha, steps=trial.steps, random_start=trial.random_start
    )


@dataclass(frozen=True)
class _Job:
    """What every step of a trial needs."""

    trial: Trial
    run: RunFolder
    data: ImageData
    report: Report

    @property
    def attack(self) -> Attack:
        return attack_of(self.trial)


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
        attack=job.attack,
        on_progress=lambda what, done: stages[what](done),
    )
    started = time.perf_counter()
    adversarial = adversarial_accuracy(
        learner.model,
        data.test_x,
        data.test_y,
        attack=job.attack,
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


def _conclude(job: _Job, model: nn.Module, last: EpochMetrics) -> Result:
    """Everything that is done once, with the final weights."""
    trial, data = job.trial, job.data
    weights = model.state_dict()
    about = {"dataset": trial.dataset, "normalize": str(trial.normalize).lower()}
    write_tensors(job.run.path / WEIGHTS, weights, metadata=about)
    parity = _export(job, model)
    _write_examples(job, model)
    return Result(
        trial=trial,
        natural_accuracy=last.natural_accuracy,
        adversarial_accuracy=last.adversarial_accuracy,
        certified=_certify_test_images(job, model),
        parity=parity,
        neurons=count_neurons(model, IMAGE_SHAPES[trial.dataset]),
        train_images=len(data.train_x),
        test_images=len(data.test_x),
        data_fingerprint=data.fingerprint,
        data_source=data.source,
        weights_sha256=tensors_sha256(weights),
        environment=environment.describe(data.train_x.device),
        autoattack=_autoattack(job, model),
    )


def _export(job: _Job, model: nn.Module) -> Parity:
    job.report("exporting", 0)
    path = job.run.path / MODEL
    export_onnx(model, path, image_shape=IMAGE_SHAPES[job.trial.dataset])
    return check_parity(model, path, job.data.test_x[:_PARITY_IMAGES])


def _certify_test_images(job: _Job, model: nn.Module) -> tuple[Certified, ...]:
    count = _certified_count(job.trial, job.data)
    x, y = job.data.test_x[:count], job.data.test_y[:count]
    return tuple(
        certified_accuracy(
            model,
            x,
            y,
            eps=job.trial.eps,
            domain=domain,
            # Another certifier answers for the trial's own domain.
            engine=job.trial.certifier if domain == job.trial.domain else "native",
            on_progress=stage(job.report, f"certifying test images: {domain}", cost=CERTIFICATION_COST[domain]),
        )
        for domain in job.trial.certified_domains
    )


def _autoattack(job: _Job, model: nn.Module) -> Autoattacked | None:
    """AutoAttack (Croce and Hein, ICML 2020), which does not depend on the attack that was trained against."""
    trial, count = job.trial, min(job.trial.autoattack_images, len(job.data.test_x))
    if not count:
        return None
    started = time.perf_counter()
    x, y = job.data.test_x[:count], job.data.test_y[:count]
    accuracy = adversarial_accuracy(
        model,
        x,
        y,
        attack=make_attack(AUTOATTACK, eps=trial.eps, alpha=trial.alpha, steps=trial.steps),
        generator=generator_for(trial, 0, "autoattack", x.device),
        on_progress=stage(job.report, "AutoAttack", cost=AUTOATTACK_COST),
    )
    return Autoattacked(images=count, correct=round(accuracy * count), seconds=time.perf_counter() - started)


def _write_examples(job: _Job, model: nn.Module) -> None:
    """The first test images, their attacks and what the model and the certifier say of them."""
    x, y = job.data.test_x[:_EXAMPLES], job.data.test_y[:_EXAMPLES]
    generator = generator_for(job.trial, 0, "examples", x.device)
    attacked = attack_images(model, x, y, attack=job.attack, generator=generator)
    certificates = certify(model, x, y, eps=job.trial.eps, domain=job.trial.domain, engine=job.trial.certifier)
    with torch.no_grad():
        tensors = {
            "image": x,
            "attacked": attacked,
            "label": y,
            "predicted": model(x).argmax(1),
            "predicted_attacked": model(attacked).argmax(1),
            "verified": certificates.verified,
            "margin": certificates.margin,
        }
    write_tensors(job.run.path / EXAMPLES, tensors)


def _certified_count(trial: Trial, data: ImageData) -> int:
    return min(trial.certified_images or len(data.test_x), len(data.test_x))


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
