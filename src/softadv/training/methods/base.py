"""The base class of training methods: which images an epoch attacks, with which attack, and the loss."""

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

# (model in training mode, clean images, attacked images, labels) -> scalar loss.
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


class EpochStart(Protocol):
    """What a method can read and call before an epoch.

    number: the epoch, from 1. nth: the same without natural_epochs, so from 1 at the method's own first epoch.
    x: float (N, C, H, W), the training images as this epoch sees them; y: int64 (N,).
    eps: the radius of this epoch. rng: on the CPU; depends on the seed and the epoch only.
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
        """The last result of split(), possibly from an earlier epoch; None before the first."""

    def split(self, *, domain: Domain, certifier: Certifier, share: float = 1.0) -> Partition:
        """Certify the training images with the present weights, and store the result.

        share: certify only this fraction of them, those with the oldest verdicts; the others keep theirs.
        """

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        """The training's attack on images, with the present weights. Returns images of the shape of x."""


class Method:
    """A training method. A subclass selects the images to attack; its settings are fields of a frozen dataclass.

    title, color: its name and colour in figures, such as "#CC79A7".
    replays: the name of another method; this one attacks as many images in each epoch as a run of that method did, and
    needs a field `counts` for these numbers.
    loss: None is the cross-entropy of the attacked images, which the compiled kernels differentiate.
    divergence_weight: if the loss is that of TRADES, its beta; the kernels then differentiate it, too.
    """

    title: ClassVar[str]
    color: ClassVar[str]
    replays: ClassVar[str | None] = None
    attacks: ClassVar[bool] = True  # False: the weights do not depend on the radius
    certifies: ClassVar[bool] = False  # whether attacked() calls split()
    attack_passes: ClassVar[float] = 1.0  # the most times that an epoch attacks the whole training set
    loss: Loss | None = None
    divergence_weight: float | None = None

    def attacked(self, epoch: EpochStart) -> Tensor:
        """Which training images this epoch attacks, bool (N,)."""
        raise AttributeError(f"{type(self).__name__} does not say whom it attacks: it needs a method `attacked`")

    def splits_before(self, nth: int) -> bool:
        """Whether attacked() certifies training images before epoch nth (see EpochStart)."""
        return self.certifies

    def certified_share(self, nth: int) -> float:
        """The fraction of the training set that is certified before epoch nth, for estimates of its cost."""
        return float(self.splits_before(nth))

    def train_attack(self, attack: Attack) -> Attack:
        """The attack to train against. attack: the one that is evaluated."""
        return attack

    def training_radius(self, eps: float) -> float:
        """The radius to train at. eps: the one that is evaluated."""
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
    """Load a method by name, "trades" or "trades(beta=6)" or "package.module:Class"; or check a given method.

    settings: for the class, which must have all of them. Raises SoftadvError for an unknown name, for settings that the
    class does not have or that are out of range, and for a class without title or color.
    """
    if isinstance(what, Method):
        if settings:
            raise SoftadvError(f"method {type(what).__name__}: has its settings already, got {', '.join(settings)}")
        return what
    if isinstance(what, type) and issubclass(what, Method):
        raise SoftadvError(f"method {what.__name__}: is a class; make it a method first, such as {what.__name__}()")
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
