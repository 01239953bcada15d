"""One trial from its spec to its result, resuming from its last finished epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from softadv import environment
from softadv.attacks import make_attack
from softadv.certify import certify
from softadv.data import ImageData
from softadv.errors import SoftadvError
from softadv.evaluation import adversarial_accuracy, attack_images, certified_accuracy, natural_accuracy
from softadv.export import check_parity, export_onnx
from softadv.models import IMAGE_SHAPES, conv_small, count_neurons
from softadv.partition import Partition
from softadv.runs import (
    CHECKPOINT,
    EXAMPLES,
    MODEL,
    WEIGHTS,
    EpochMetrics,
    Result,
    RunFolder,
    read_tensors,
    tensors_sha256,
    write_tensors,
)
from softadv.spec import Trial
from softadv.training import Learner, generator_for, new_learner, train_epoch

# Told what is running, and how much more work has been done, in attack steps on one image.
Report = Callable[[str, float], None]

_EXAMPLES = 8
_PARITY_IMAGES = 1000

# Rough costs of one image, in attack steps on it: they steer the time that is said to be left.
_UPDATE = 4
_CERTIFICATION = {"deeppoly": 250, "deepzono": 250, "box": 4}


def run_trial(trial: Trial, *, run: RunFolder, data: ImageData, report: Report) -> Result:
    """Train, evaluate, certify and export; every finished epoch is kept in the run folder.

    data: the images the spec names, on the device to train on. A finished trial is not run again.
    Raises SoftadvError where the folder holds another trial, other images or damaged files.
    """
    run.begin(trial)
    finished = run.result()
    if finished is not None:
        _check_same_data(run, finished.data_fingerprint, data)
        report("finished before", expected_work(trial, data))
        return finished
    learner = new_learner(conv_small(trial.dataset, normalize=trial.normalize, seed=trial.seed), trial)
    learner.model.to(data.train_x.device)
    metrics = _restore(run, learner, data)
    report(f"epoch {len(metrics)}/{trial.epochs}", len(metrics) * _epoch_work(trial, data))
    for epoch in range(len(metrics) + 1, trial.epochs + 1):
        metrics.append(_one_epoch(learner, trial, data, epoch, report))
        # The metrics go first: a checkpoint never knows an epoch that they do not.
        run.write_metrics(metrics)
        write_tensors(run.path / CHECKPOINT, _state(learner), metadata={"epoch": str(epoch), "data": data.fingerprint})
    return _conclude(learner, trial, run, data, metrics, report)


def expected_work(trial: Trial, data: ImageData) -> float:
    """A trial's cost in attack steps on one image, for the display of progress."""
    final = sum(_CERTIFICATION[domain] for domain in trial.certified_domains) * _certified_count(trial, data)
    return trial.epochs * _epoch_work(trial, data) + final


def _epoch_work(trial: Trial, data: ImageData) -> float:
    per_image = _UPDATE + (0 if trial.method == "natural" else trial.steps)
    if trial.method == "soft":
        per_image += _CERTIFICATION[trial.domain] / trial.split_every
    return per_image * len(data.train_x) + trial.steps * len(data.test_x)


def _one_epoch(learner: Learner, trial: Trial, data: ImageData, epoch: int, report: Report) -> EpochMetrics:
    attack = make_attack(
        trial.attack, eps=trial.eps, alpha=trial.alpha, steps=trial.steps, random_start=trial.random_start
    )
    work = {
        "certifying": _CERTIFICATION[trial.domain],
        "training": _UPDATE + (0 if trial.method == "natural" else trial.steps),
        "evaluating": trial.steps,
    }
    seen = dict.fromkeys(work, 0)

    def progress(what: str, done: int) -> None:
        report(f"epoch {epoch}/{trial.epochs}: {what}", work[what] * (done - seen[what]))
        seen[what] = done

    trained = train_epoch(
        learner, data.train_x, data.train_y, trial=trial, epoch=epoch, attack=attack, on_progress=progress
    )
    started = time.perf_counter()
    natural = natural_accuracy(learner.model, data.test_x, data.test_y)
    adversarial = adversarial_accuracy(
        learner.model,
        data.test_x,
        data.test_y,
        attack=attack,
        generator=generator_for(trial, epoch, "evaluation", data.test_x.device),
        on_progress=lambda done: progress("evaluating", done),
    )
    split = learner.partition
    return EpochMetrics(
        epoch=epoch,
        loss=trained.loss,
        natural_accuracy=natural,
        adversarial_accuracy=adversarial,
        misclassified=None if split is None else int(split.misclassified.sum()),
        unverified=None if split is None else int(split.unverified.sum()),
        verified=None if split is None else int(split.verified.sum()),
        attack_seconds=trained.seconds.attack,
        certification_seconds=trained.seconds.certification,
        update_seconds=trained.seconds.update,
        evaluation_seconds=time.perf_counter() - started,
    )


def _conclude(
    learner: Learner, trial: Trial, run: RunFolder, data: ImageData, metrics: list[EpochMetrics], report: Report
) -> Result:
    """Everything that is done once, with the final weights."""
    model = learner.model
    weights = model.state_dict()
    write_tensors(
        run.path / WEIGHTS, weights, metadata={"dataset": trial.dataset, "normalize": str(trial.normalize).lower()}
    )
    report("exporting", 0)
    export_onnx(model, run.path / MODEL, image_shape=IMAGE_SHAPES[trial.dataset])
    parity = check_parity(model, run.path / MODEL, data.test_x[:_PARITY_IMAGES])
    _write_examples(learner, trial, run, data)
    certified = []
    count = _certified_count(trial, data)
    for domain in trial.certified_domains:
        seen = 0

        def progress(done: int, domain: str = domain) -> None:
            nonlocal seen
            report(f"certifying test images with {domain}", _CERTIFICATION[domain] * (done - seen))
            seen = done

        x, y = data.test_x[:count], data.test_y[:count]
        certified.append(certified_accuracy(model, x, y, eps=trial.eps, domain=domain, on_progress=progress))
    result = Result(
        trial=trial,
        natural_accuracy=metrics[-1].natural_accuracy,
        adversarial_accuracy=metrics[-1].adversarial_accuracy,
        certified=tuple(certified),
        parity=parity,
        neurons=count_neurons(model, IMAGE_SHAPES[trial.dataset]),
        train_images=len(data.train_x),
        test_images=len(data.test_x),
        data_fingerprint=data.fingerprint,
        data_source=data.source,
        weights_sha256=tensors_sha256(weights),
        environment=environment.describe(data.train_x.device),
    )
    run.write_result(result)
    return result


def _write_examples(learner: Learner, trial: Trial, run: RunFolder, data: ImageData) -> None:
    """The first test images, their attacks and what the model and the certifier say of them."""
    model, x, y = learner.model, data.test_x[:_EXAMPLES], data.test_y[:_EXAMPLES]
    attack = make_attack(
        trial.attack, eps=trial.eps, alpha=trial.alpha, steps=trial.steps, random_start=trial.random_start
    )
    attacked = attack_images(model, x, y, attack=attack, generator=generator_for(trial, 0, "examples", x.device))
    certificates = certify(model, x, y, eps=trial.eps, domain=trial.domain)
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
    write_tensors(run.path / EXAMPLES, tensors)


def _certified_count(trial: Trial, data: ImageData) -> int:
    return min(trial.certified_images or len(data.test_x), len(data.test_x))


def _state(learner: Learner) -> dict[str, Tensor]:
    """Everything the next epoch starts from, as tensors."""
    state = {f"model.{name}": value for name, value in learner.model.state_dict().items()}
    for index, entries in learner.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{key}": value for key, value in entries.items() if value is not None}
    if learner.partition is not None:
        split = learner.partition
        state["partition"] = torch.stack([split.misclassified, split.unverified, split.verified])
    return state


def _restore(run: RunFolder, learner: Learner, data: ImageData) -> list[EpochMetrics]:
    """Put a learner back to its last checkpoint, if there is one; returns the epochs before it."""
    path = run.path / CHECKPOINT
    if not path.exists():
        return []
    state, metadata = read_tensors(path)
    _check_same_data(run, metadata.get("data", ""), data)
    try:
        epoch = int(metadata["epoch"])
        learner.model.load_state_dict(_under(state, "model."))
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(state, "optimizer.").items():
            index, key = name.split(".")
            entries.setdefault(int(index), {})[key] = value
        groups = learner.optimizer.state_dict()["param_groups"]
        learner.optimizer.load_state_dict({"state": entries, "param_groups": groups})
    except (KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SoftadvError(f"{path}: not a checkpoint of this trial ({reason})") from error
    if "partition" in state:
        learner.partition = Partition(*state["partition"].to(data.train_x.device).unbind())
    metrics = run.metrics()[:epoch]
    if len(metrics) != epoch:
        raise SoftadvError(f"{run.path / 'metrics.json'}: ends before epoch {epoch} of the checkpoint; use --fresh")
    return metrics


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _check_same_data(run: RunFolder, recorded: str, data: ImageData) -> None:
    if recorded != data.fingerprint:
        raise SoftadvError(
            f"{run.path}: was run on other {data.name} images (fingerprint {recorded[:12]}, now "
            f"{data.fingerprint[:12]}); use --fresh or another --out"
        )
