"""What a training method is: whom it attacks in an epoch, with which attack, and what it minimises."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from softadv._ranges import shown
from softadv.attacks import Attack
from softadv.certify.domains import Certifier, Domain
from softadv.errors import SoftadvError
from softadv.registry import Registry, call
from softadv.training.method_names import parse_method
from softadv.training.partition import Partition

# A model in training mode, clean images, the same images after the attack, labels: to the loss, a scalar.
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


class EpochStart(Protocol):
    """What a method may look at, and ask for, before an epoch.

    number: from 1. nth: from 1, counted from the method's own first epoch: natural ones may come before it.
    x: float (N, C, H, W), the training images as this epoch sees them; y: int64 (N,).
    eps: the radius of this epoch. rng: on the CPU; depends on the seed, the epoch and nothing else.
    """

    number: int
    nth: int
    x: Tensor
    y: Tensor
    eps: float
    rng: torch.Generator

    @property
    def model(self) -> nn.Module:
        """With the weights at the start of the epoch, in eval mode."""

    @property
    def last_split(self) -> Partition | None:
        """The last that split() made, maybe in an earlier epoch; None before the first."""

    def split(self, *, domain: Domain, certifier: Certifier, share: float = 1.0) -> Partition:
        """Certify the training images with the present weights, and keep the result.

        share: certify only this share of them, whose verdicts are oldest; the others keep theirs.
        """

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        """The training's attack on images, with the present weights. Returns images of the shape of x."""


class Method:
    """A training method. A subclass says whom to attack; frozen dataclass fields are its settings.

    title, color: how figures show it. A colour is written "#CC79A7".
    replays: the name of a method whose numbers of attacked images this one takes over, epoch by epoch; it then has a
    field `counts`.
    loss: None for the cross-entropy of the attacked images, which the compiled kernels differentiate.
    divergence_weight: where the loss is TRADES', its beta: then the kernels differentiate it, too.
    """

    title: ClassVar[str]
    color: ClassVar[str]
    replays: ClassVar[str | None] = None
    certifies: ClassVar[bool] = False  # whether attacked() asks for splits
    attack_passes: ClassVar[float] = 1.0  # how many times an epoch attacks the training set at most
    loss: Loss | None = None
    divergence_weight: float | None = None

    def attacked(self, epoch: EpochStart) -> Tensor:
        """Which training images this epoch attacks, bool (N,)."""
        raise AttributeError(f"{type(self).__name__} does not say whom it attacks: it needs a method `attacked`")

    def splits_before(self, nth: int) -> bool:
        """Whether attacked() certifies the training set before this epoch, counted from the method's own first."""
        return self.certifies

    def certified_share(self, nth: int) -> float:
        """How much of the training set that certifies, for estimates of an epoch's cost."""
        return float(self.splits_before(nth))

    def train_attack(self, attack: Attack) -> Attack:
        """The attack to train against, made of the one that the training was given."""
        return attack

    def training_radius(self, eps: float) -> float:
        """The radius to train at, where `eps` is the one evaluated."""
        return eps


def _is_method(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Method)


methods: Registry[type[Method]] = Registry(
    "method", accepts=_is_method, expected="a subclass of softadv.methods.Method"
)
register = methods.register


def settings_of(method: Method) -> dict[str, object]:
    """The settings of a method that are not their defaults, by name."""
    if not is_dataclass(method):
        return {}
    return {
        field.name: value
        for field in fields(method)
        if (value := getattr(method, field.name)) != field.default or field.default is MISSING
    }


def load_method(what: str | Method, **settings: Any) -> Method:
    """A method: by its registered name, maybe with settings ("trades(beta=6)"), as "package.module:Class", or itself.

    settings: for the class, which takes all of them. Raises SoftadvError for an unknown name, for settings that the
    class does not have or that are out of range, and for a class that says neither title nor colour.
    """
    if isinstance(what, Method):
        if settings:
            raise SoftadvError(f"method {type(what).__name__}: has its settings already, got {', '.join(settings)}")
        return what
    if not isinstance(what, str):
        raise SoftadvError(f"method: expected a name, or an object of a softadv.methods.Method, got {shown(what)}")
    name, own = parse_method(what)
    settings = own | settings
    kind = methods.get(name)
    known: list[str] = [field.name for field in fields(kind)] if is_dataclass(kind) else []
    for key in settings:
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise SoftadvError(f"method {what}: no setting {key!r}; {has}")
    for key in ("title", "color"):
        if not isinstance(getattr(kind, key, None), str):
            raise SoftadvError(f"method {what}: class {kind.__name__} has no {key}, by which figures show it")
    if re.fullmatch("#[0-9A-Fa-f]{6}", kind.color) is None:
        raise SoftadvError(f"method {what}: color: expected one such as #CC79A7, got {shown(kind.color)}")
    method: Method = call(f"method {what}", kind, **settings)
    return method
