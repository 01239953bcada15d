"""softadv.train: train any model on any data set by any method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace

from torch import Tensor, nn

from softadv._ranges import MOST_EPOCHS, MOST_SEED, UNIT, Clip, check_clip, check_count, check_radius, shown
from softadv.attacks import Attack, load_attack, title_of
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.training.batches import check_augmentation
from softadv.training.config import Augmentation, OptimizerName, ScheduleName, TrainConfig, Update
from softadv.training.evaluate import check_fit, check_kinds
from softadv.training.history import History
from softadv.training.loop import Progress
from softadv.training.methods import Method, load_method
from softadv.training.records import EpochMetrics
from softadv.training.state import new_state
from softadv.training.trainer import Trainer

Callback = Callable[[EpochMetrics], object]


@dataclass(frozen=True)
class Trained:
    """A trained model, and its history."""

    model: nn.Module
    history: History


def train(
    model: nn.Module,
    data: Dataset | tuple[Tensor, Tensor],
    *,
    method: str | Method = "soft",
    eps: float,
    attack: str | Attack = "pgd",
    epochs: int = 30,
    seed: int = 0,
    batch_size: int = 128,
    optimizer: OptimizerName = "adam",
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    schedule: ScheduleName = "constant",
    schedule_epochs: Sequence[int] = (),
    schedule_factor: float = 0.1,
    eps_warmup_epochs: int = 0,
    clip_gradients: float | None = None,
    natural_epochs: int = 0,
    update: Update = "mixed",
    augment: Augmentation = "none",
    validation_images: int = 0,
    patience: int | None = None,
    evaluate_every: int = 1,
    clip: Clip = UNIT,
    callbacks: Sequence[Callback] = (),
    on_progress: Progress | None = None,
) -> Trained:
    """Train a model in place, by soft adversarial training or another method.

    model: any module from (N, C, H, W) images to (N, classes) scores; it is trained on the device where it is.
    data: a data set, whose test images are evaluated after every epoch; or images, float (N, C, H, W) within clip, and
    labels, int64 (N,), without any evaluation.
    method: "soft", "adversarial", "natural", "trades", …, "package.module:Class", or an object such as
    softadv.methods.Trades(beta=3.0). eps: L-infinity radius in the units of the images.
    attack: used for training and evaluation: a name or an attack, as in softadv.load_attack.
    validation_images: hold out this many images at the end of the training set, and evaluate them after every epoch.
    clip: the smallest and the largest pixel value, for the certifier and for the attack, which must have a setting
    `clip` if they are not 0 and 1.
    callbacks: each is called after every epoch with its EpochMetrics. on_progress: called with the name of the running
    part and the images done.
    The other settings are TrainConfig's.

    Equal seeds give equal weights, bit for bit, on one machine with one number of threads.
    Returns the same model, in the mode it was in, and its history.
    Raises SoftadvError for what is out of range or does not fit together, for augmentation of a data set whose mirrored
    images change class, and for an attack that leaves its ball or clip; DivergedError where the loss or the weights
    become NaN or infinite.
    """
    clip = check_clip(clip)
    check_kinds(model, data)
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise SoftadvError(f"callbacks: expected a list of functions of an epoch's metrics, got {shown(callbacks)}")
    config = TrainConfig(
        method=load_method(method),
        attack=_within(load_attack(attack), clip),
        eps=check_radius(eps, key="eps", clip=clip),
        epochs=check_count(epochs, key="epochs", least=1, most=MOST_EPOCHS),
        seed=check_count(seed, key="seed", most=MOST_SEED),
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        schedule_epochs=tuple(schedule_epochs) if isinstance(schedule_epochs, Iterable) else (schedule_epochs,),
        schedule_factor=schedule_factor,
        eps_warmup_epochs=eps_warmup_epochs,
        clip_gradients=clip_gradients,
        natural_epochs=natural_epochs,
        update=update,
        augment=augment,
        patience=patience,
        evaluate_every=evaluate_every,
        clip=clip,
    )
    first = next(model.parameters(), None)
    if first is None:
        raise SoftadvError("model: has no parameters to train")
    device = first.device
    if isinstance(data, Dataset):
        check_augmentation(augment, data)
        x, y, test = data.train_x, data.train_y, (data.test_x.to(device), data.test_y.to(device))
    else:
        (x, y), test = data, None
    x, y = x.to(device), y.to(device)
    check_fit(model, x, y, clip=clip)
    if not len(x):
        raise SoftadvError("data: no images to train on")
    if test is not None:
        try:
            check_fit(model, *test, clip=clip)
        except SoftadvError as error:
            raise SoftadvError(f"test images: {error}") from None
    kept = len(x) - check_count(validation_images, key="validation_images", most=len(x) - 1)
    if patience is not None and not validation_images:
        raise SoftadvError("patience: stopping early needs validation_images")
    trainer = Trainer(
        new_state(model, config),
        config,
        train=(x[:kept], y[:kept]),
        test=test,
        validation=(x[kept:], y[kept:]) if validation_images else None,
    )
    told = on_progress or (lambda what, done: None)
    while not trainer.is_done:
        metrics = trainer.run_epoch(told)
        for callback in callbacks:
            callback(metrics)
    trainer.finish()
    return Trained(model, History(tuple(trainer.metrics)))


def _within(attack: Attack, clip: Clip) -> Attack:
    """The attack with its pixels kept within clip. Raises SoftadvError where its own setting differs or is missing."""
    own: Clip = getattr(attack, "clip", UNIT)
    if own == clip:
        return attack
    if own != UNIT or not (is_dataclass(attack) and hasattr(attack, "clip")):
        raise SoftadvError(f"clip: {title_of(attack)} keeps pixels within {own}, not within {clip}")
    attack_within: Attack = replace(attack, clip=clip)
    return attack_within
