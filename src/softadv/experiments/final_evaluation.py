"""The final evaluation of a trial: measurements, export and examples with its final weights."""

from __future__ import annotations

import json
import time

from torch import nn

from softadv._io import tensors_sha256, write_tensors
from softadv._progress import AUTOATTACK_COST, CERTIFICATION_COST, Report, stage
from softadv.attacks import AUTOATTACK, AtRadius, load_attack
from softadv.certify.certifiers import certify
from softadv.certify.onnx import NotExportedError, check_parity, export_onnx
from softadv.certify.records import Certified, Parity
from softadv.data import Dataset
from softadv.experiments import environment
from softadv.experiments.load_model import about_weights
from softadv.experiments.names import Names
from softadv.experiments.records import Autoattacked, Result
from softadv.experiments.run_folder import EXAMPLES, MODEL, WEIGHTS, RunFolder
from softadv.experiments.sources import sources_of
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import attack_of, method_of
from softadv.models import count_neurons
from softadv.training.config import generator_for
from softadv.training.evaluation import adversarial_accuracy, attack_images, certified_accuracy, predictions
from softadv.training.records import EpochMetrics

_EXAMPLES = 8
_PARITY_IMAGES = 1000


def conclude(
    model: nn.Module,
    *,
    trial: Trial,
    run: RunFolder,
    data: Dataset,
    report: Report,
    last: EpochMetrics,
) -> Result:
    """Write weights, ONNX model and examples into the run folder; certify, and run AutoAttack if the trial says so.

    last: the epoch that ended with these weights; one that was evaluated.
    The result itself is returned and not written.
    """
    assert last.natural_accuracy is not None  # the last epoch is always evaluated, and of others only those
    assert last.adversarial_accuracy is not None
    weights, method = model.state_dict(), method_of(trial)
    write_tensors(run.path / WEIGHTS, weights, metadata=about_weights(trial))
    report("exporting", 0)
    parity = _export(model, run=run, data=data)
    _write_examples(model, trial=trial, run=run, data=data)
    return Result(
        trial=trial,
        natural_accuracy=last.natural_accuracy,
        adversarial_accuracy=last.adversarial_accuracy,
        certified=_certify_test_images(model, trial=trial, data=data, report=report),
        autoattack=_autoattack(model, trial=trial, data=data, report=report),
        parity=parity,
        neurons=count_neurons(model, data.image_shape),
        train_images=len(data.train_x),
        test_images=len(data.test_x),
        data_fingerprint=data.fingerprint,
        data_source=data.source,
        weights_sha256=tensors_sha256(weights),
        environment=environment.describe(data.train_x.device),
        names=names_to_record(trial, data),
        own_loss=method.loss is not None and method.divergence_weight is None,
    )


def names_to_record(trial: Trial, data: Dataset) -> Names:
    """The names and colours with which a page can show the trial without importing its code.

    Raises SoftadvError for a title that is not one line of text.
    """
    method = method_of(trial)
    return Names(
        method_title=method.title,
        method_color=method.color,
        dataset_title=data.title,
        class_names=data.class_names,
        sources=sources_of(trial),
    )


def conclusion_work(trial: Trial, data: Dataset) -> float:
    """The cost of conclude in attack steps on one image, for the display of progress."""
    certification = sum(CERTIFICATION_COST[domain] for domain in trial.certified_domains)
    autoattack = AUTOATTACK_COST * min(trial.autoattack_images, len(data.test_x))
    return certification * _certified_count(trial, data) + autoattack


def _export(model: nn.Module, *, run: RunFolder, data: Dataset) -> Parity | None:
    """None for a model that softadv cannot export, such as a residual network."""
    path = run.path / MODEL
    try:
        export_onnx(model, path, image_shape=data.image_shape)
    except NotExportedError:
        return None
    return check_parity(model, path, data.test_x[:_PARITY_IMAGES])


def _certify_test_images(model: nn.Module, *, trial: Trial, data: Dataset, report: Report) -> tuple[Certified, ...]:
    count = _certified_count(trial, data)
    x, y = data.test_x[:count], data.test_y[:count]
    return tuple(
        certified_accuracy(
            model,
            x,
            y,
            eps=trial.eps,
            domain=domain,
            # Another certifier answers for the trial's own domain.
            engine=trial.certifier if domain == trial.domain else "native",
            on_progress=stage(report, f"certifying test images: {domain}", cost=CERTIFICATION_COST[domain]),
        )
        for domain in trial.certified_domains
    )


def _autoattack(model: nn.Module, *, trial: Trial, data: Dataset, report: Report) -> Autoattacked | None:
    """AutoAttack (Croce and Hein, ICML 2020), which does not depend on the attack that was trained against."""
    count = min(trial.autoattack_images, len(data.test_x))
    if not count:
        return None
    started = time.perf_counter()
    x, y = data.test_x[:count], data.test_y[:count]
    accuracy = adversarial_accuracy(
        model,
        x,
        y,
        attack=AtRadius(load_attack(AUTOATTACK, alpha=trial.alpha, steps=trial.steps), trial.eps),
        generator=generator_for(trial.seed, 0, "autoattack", x.device),
        on_progress=stage(report, "AutoAttack", cost=AUTOATTACK_COST),
    )
    return Autoattacked(images=count, correct=round(accuracy * count), seconds=time.perf_counter() - started)


def _write_examples(model: nn.Module, *, trial: Trial, run: RunFolder, data: Dataset) -> None:
    """The first test images, their attacks and what the model and the certifier say of them."""
    x, y = data.test_x[:_EXAMPLES], data.test_y[:_EXAMPLES]
    generator = generator_for(trial.seed, 0, "examples", x.device)
    attacked = attack_images(model, x, y, attack=AtRadius(attack_of(trial), trial.eps), generator=generator)
    certificates = certify(model, x, y, eps=trial.eps, domain=trial.domain, engine=trial.certifier)
    tensors = {
        "image": x,
        "attacked": attacked,
        "label": y,
        "predicted": predictions(model, x),
        "predicted_attacked": predictions(model, attacked),
        "verified": certificates.verified,
        "margin": certificates.margin,
    }
    # The page is drawn where the data need not be.
    write_tensors(run.path / EXAMPLES, tensors, metadata={"class_names": json.dumps(data.class_names)})


def _certified_count(trial: Trial, data: Dataset) -> int:
    return min(trial.certified_images or len(data.test_x), len(data.test_x))
