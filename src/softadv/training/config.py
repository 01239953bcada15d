"""The settings of the training loop, independent of any experiment."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch

from softadv._ranges import (
    MOST_EPOCHS,
    MOST_IMAGES,
    MOST_SEED,
    UNIT,
    Clip,
    check_count,
    check_radius,
    check_real,
    shown,
)
from softadv.attacks import Attack
from softadv.errors import SoftadvError
from softadv.training.methods import Method

OptimizerName = Literal["adam", "sgd"]
ScheduleName = Literal["constant", "cosine", "steps"]
Update = Literal["mixed", "two-pass"]
Augmentation = Literal["none", "crop-flip"]


def generator_for(seed: int, epoch: int, purpose: str, device: torch.device) -> torch.Generator:
    """A generator that depends on the seed, the epoch and the purpose, and on nothing else."""
    digest = hashlib.sha256(f"{seed} {epoch} {purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


_NAMES = {"optimizer": OptimizerName, "schedule": ScheduleName, "update": Update, "augment": Augmentation}
# The whole-number settings, each with its smallest and its largest value.
COUNTS = (
    ("epochs", 1, MOST_EPOCHS),
    ("seed", 0, MOST_SEED),
    ("batch_size", 1, MOST_IMAGES),
    ("natural_epochs", 0, MOST_EPOCHS),
    ("eps_warmup_epochs", 0, MOST_EPOCHS),
    ("evaluate_every", 1, MOST_EPOCHS),
    ("patience", 1, MOST_EPOCHS),
)


class Settings(Protocol):
    """The settings that TrainConfig and a trial's spec share."""

    @property
    def lr(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def schedule(self) -> ScheduleName: ...
    @property
    def schedule_epochs(self) -> tuple[int, ...]: ...
    @property
    def epochs(self) -> int: ...
    @property
    def natural_epochs(self) -> int: ...
    @property
    def eps_warmup_epochs(self) -> int: ...
    @property
    def augment(self) -> Augmentation: ...


def check_settings(settings: Settings, *, split_every: int, split: str) -> dict[str, Any]:
    """Raise SoftadvError, "KEY: WHAT", for a number out of its range, and for settings that do not fit together.

    split_every, split: of a method that certifies, as methods.Soft takes them.
    Returns the numbers as Python's own, by key, of whatever kind they are, such as NumPy's.
    """
    plain: dict[str, Any] = {}
    for key, least, most in COUNTS:
        value = getattr(settings, key)
        if key != "patience" or value is not None:
            plain[key] = check_count(value, key=key, least=least, most=most)
    for key in ("lr", "momentum", "weight_decay", "schedule_factor", "clip_gradients"):
        value = getattr(settings, key)
        if key != "clip_gradients" or value is not None:
            plain[key] = check_real(value, key=key)
        if key in ("lr", "clip_gradients") and value is not None and not 0 < value < math.inf:
            raise SoftadvError(f"{key}: must be positive and finite, got {value:g}")
        if key in ("weight_decay", "schedule_factor") and not 0 <= value < math.inf:
            raise SoftadvError(f"{key}: must be 0 or more and finite, got {value:g}")
    if not 0 <= settings.momentum < 1:
        raise SoftadvError(f"momentum: must be in [0, 1), got {settings.momentum:g}")
    plain["schedule_epochs"] = tuple(
        check_count(after, key="schedule_epochs", least=1, most=MOST_EPOCHS) for after in settings.schedule_epochs
    )
    if settings.schedule == "steps" and not settings.schedule_epochs:
        raise SoftadvError("schedule_epochs: the schedule steps needs the epochs after which the rate falls")
    if settings.schedule != "steps" and settings.schedule_epochs:
        raise SoftadvError(f"schedule_epochs: without effect on the schedule {settings.schedule}")
    if settings.natural_epochs >= settings.epochs:
        natural = f"{settings.natural_epochs} of {settings.epochs}"
        raise SoftadvError(f"natural_epochs: must be less than epochs, got {natural}")
    if (split_every != 1 or split != "full") and (settings.augment != "none" or settings.eps_warmup_epochs):
        key = "augment" if settings.augment != "none" else "eps_warmup_epochs"
        needed = "split_every = 1" if split_every != 1 else 'split = "full"'
        raise SoftadvError(f"{key}: needs {needed}, or images would be spared that were never certified so")
    return plain


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. Settings that are off by default do not change the bits of a run while they are off.

    eps: L-infinity radius that is evaluated, in the units of the images; a method may train at another radius.
    momentum: of sgd. weight_decay: as torch.optim takes it.
    schedule: the learning rate over epochs: constant; cosine, from lr down to 0 (Loshchilov and Hutter, ICLR 2017,
    without restarts); steps, times `schedule_factor` after each epoch of `schedule_epochs`.
    eps_warmup_epochs: over so many epochs the radius grows evenly from eps / (n + 1) to eps.
    clip_gradients: the largest L2 norm of an update's gradient; None does not clip.
    natural_epochs: train naturally for this many epochs first, whatever the method.
    update: shuffled batches of clean and attacked images, or all clean batches first, then the attacked ones.
    patience: stop after this many epochs without a better adversarial accuracy on the validation images, and restore
    the best weights; None never stops early.
    evaluate_every: the number of epochs between evaluations; the last epoch is always evaluated. The weights do not
    depend on it, except that early stopping is decided after evaluated epochs.
    clip: the smallest and the largest pixel value for the certifier; the attack has its own setting.
    tf32: let a GPU compute float32 products in TF32, with 10-bit mantissas.
    Raises SoftadvError for what is out of range or does not fit together.
    """

    method: Method
    attack: Attack
    eps: float
    epochs: int
    seed: int = 0
    batch_size: int = 128
    optimizer: OptimizerName = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: ScheduleName = "constant"
    schedule_epochs: tuple[int, ...] = ()
    schedule_factor: float = 0.1
    eps_warmup_epochs: int = 0
    clip_gradients: float | None = None
    natural_epochs: int = 0
    update: Update = "mixed"
    augment: Augmentation = "none"
    patience: int | None = None
    evaluate_every: int = 1
    clip: Clip = UNIT
    tf32: bool = False

    def __post_init__(self) -> None:
        for key, names in _NAMES.items():
            if getattr(self, key) not in get_args(names):
                known = ", ".join(get_args(names))
                raise SoftadvError(f"{key}: unknown value {shown(getattr(self, key))}, expected one of {known}")
        split = "rolling" if getattr(self.method, "split", None) == "rolling" else "full"
        plain = check_settings(self, split_every=getattr(self.method, "split_every", 1), split=split)
        for key, value in plain.items():
            object.__setattr__(self, key, value)
        trained_at = f"method {type(self.method).__name__}: training radius"
        check_radius(self.method.training_radius(self.eps), key=trained_at, clip=self.clip)
        self.method.train_attack(self.attack)  # a method may refuse the attack: fail now, not in the first epoch

    @property
    def keeps_examples(self) -> bool:
        """Whether the next epoch can use this one's adversarial examples: only if it certifies the same images."""
        return self.method.certifies and self.augment == "none"

    @property
    def train_attack(self) -> Attack:
        """The attack that the method trains against; evaluation uses `attack`."""
        return self.method.train_attack(self.attack)

    def radius(self, epoch: int) -> float:
        """The radius that an epoch, from 1, trains at; 0 in natural epochs, which attack nothing."""
        radius = self.method.training_radius(self.eps)
        nth = max(epoch - self.natural_epochs, 0)
        return radius if nth > self.eps_warmup_epochs else radius * nth / (self.eps_warmup_epochs + 1)

    def generator(self, epoch: int, purpose: str, device: torch.device) -> torch.Generator:
        """A generator that depends on the seed, the epoch and the purpose, and on nothing else."""
        return generator_for(self.seed, epoch, purpose, device)

    def attack_passes(self, epoch: int) -> float:
        """The most times that an epoch attacks the whole training set, for estimates of its cost."""
        return 0.0 if epoch <= self.natural_epochs else self.method.attack_passes

    def evaluates(self, epoch: int) -> bool:
        """Whether an epoch, counted from 1, is evaluated at its end."""
        return epoch % self.evaluate_every == 0 or epoch == self.epochs

    def splits_before(self, epoch: int) -> bool:
        """Whether training images are certified before this epoch; only the method decides."""
        nth = epoch - self.natural_epochs
        return nth > 0 and self.method.splits_before(nth)

    def certified_share(self, epoch: int) -> float:
        """The fraction of the training set that is certified before this epoch."""
        nth = epoch - self.natural_epochs
        return self.method.certified_share(nth) if nth > 0 else 0.0
