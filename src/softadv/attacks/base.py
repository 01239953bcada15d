"""What an attack is, and how one is found by name."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from softadv._ranges import MOST_STEPS, UNIT, Clip, check_count, check_radius
from softadv.errors import SoftadvError
from softadv.registry import Registry, call


class Attack(Protocol):
    """Searches each image's ball for a point that the model misclassifies; called with the model in eval mode.

    Optional attributes: `title`, its name in tables; `norm`, the norm of its ball ("Linf" is the certifier's).
    Training and evaluation refuse points that lie further than eps from x in any pixel, unless the attack has another
    norm, and points outside of the range of the pixels. They give it copies of x and y, so that it may work in place.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        """x: float (N, C, H, W) in [0, 1]; y: int64 (N,), on the model's device. eps: radius in the units of x.

        generator: the source of every random choice, on the device of x. Returns images of the shape of x.
        """


# A registered name stands for a class, which is built with the settings it accepts, or for a finished attack. One with
# a WORD stands for what makes an attack of the word and the settings. A class that takes any **settings, and uses some,
# names those in settings_of(WORD).
Factory = Callable[..., Any]
_SETTINGS = frozenset({"steps", "alpha", "random_start"})

_EXPECTED = "an attack, or a class of attacks"
# By how much examples may leave their ball: roundings of the largest number involved, and a part of the radius.
_ROUNDINGS, _RELATIVE = 8, 1e-4
attacks: Registry[Factory] = Registry("attack", expected=_EXPECTED)
register = attacks.register


def load_attack(
    what: str | Attack, *, steps: int = 20, alpha: float | None = None, random_start: bool = True
) -> Attack:
    """Load an attack by name: "pgd", "torchattacks:NAME", "package.module:attribute"; or check a given attack.

    steps, alpha, random_start: settings for a class; it gets those that its constructor accepts. alpha is in the units
    of the images; None leaves it to the attack.
    Raises SoftadvError for an unknown name, for settings out of range, and for an object that is no attack.
    """
    if not isinstance(what, str):
        return _checked(attacks.get(what), where=f"attack {title_of(what)}")
    steps = check_count(steps, key="steps", most=MOST_STEPS)
    alpha = None if alpha is None else check_radius(alpha, key="alpha")
    found = attacks.get(what)
    if not _makes_one(what, found):
        return _checked(found, where=f"attack {what}")
    wanted: dict[str, Any] = {"steps": steps, "random_start": random_start}
    wanted |= {} if alpha is None else {"alpha": alpha}
    taken = settings_taken(what)
    settings = {key: value for key, value in wanted.items() if key in taken}
    return _checked(call(f"attack {what}", found, **settings), where=f"attack {what}")


def settings_taken(what: str) -> Set[str]:
    """Those of "steps", "alpha" and "random_start" that an attack, by name, is built with; a finished one takes none.

    Raises SoftadvError for an unknown name.
    """
    found = attacks.get(what)
    if not _makes_one(what, found):
        return frozenset()
    says: Callable[..., Set[str]] | None = getattr(_unbound(found), "settings_of", None)
    if says is not None:
        return _SETTINGS & says(*getattr(found, "args", ()))
    parameters = inspect.signature(found).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return _SETTINGS if anything else _SETTINGS & parameters.keys()


def _unbound(found: Factory) -> Factory:
    return found.func if isinstance(found, functools.partial) else found  # "NAME:WORD" is a partial with the word bound


def _makes_one(what: str, found: Factory) -> bool:
    return isinstance(_unbound(found), type) or (":" in what and attacks.is_registered(what))


def _checked(attack: Any, *, where: str) -> Attack:
    if isinstance(attack, type):
        raise SoftadvError(f"{where}: is a class; make it an attack first, such as {attack.__name__}()")
    if not callable(attack):
        raise SoftadvError(f"{where}: expected {_EXPECTED}, got a {type(attack).__name__}")
    found: Attack = attack
    return found


def check_examples(found: object, x: Tensor, *, attack: Any) -> Tensor:
    """What an attack returned for images x, detached, if it is a tensor like them; else SoftadvError.

    It must have the shape, type and device of x: another shape may broadcast against the labels, and an accuracy would
    be counted on images that do not exist. Without a graph, a loss of the examples has the weights' gradient alone.
    """
    if not isinstance(found, Tensor):
        raise SoftadvError(f"attack {title_of(attack)}: must return a tensor of images, got a {type(found).__name__}")
    if found.shape != x.shape or found.dtype != x.dtype or found.device != x.device:
        wanted, got = (f"{t.dtype} of shape {tuple(t.shape)} on {t.device}" for t in (x, found))
        raise SoftadvError(f"attack {title_of(attack)}: must return images as it gets them, {wanted}, got {got}")
    return found.detach()


def extremes(found: Tensor, x: Tensor) -> Tensor:
    """What check_ball needs to know of adversarial examples, (5,) on their device: the larger, the further out.

    The largest change of a pixel; minus the smallest and the largest pixel of the examples; the same two of x. Of
    several batches it is the maximum. No host-device sync. found, x: (N, C, H, W), N at least 1.
    """
    (low, high), (x_low, x_high) = found.aminmax(), x.aminmax()
    return torch.stack([torch.linalg.vector_norm(found - x, ord=math.inf), -low, high, -x_low, x_high])


def check_ball(reached: Tensor, *, attack: Attack, eps: float, clip: Clip) -> None:
    """Raise SoftadvError where adversarial examples have left their balls or clip, by more than rounding.

    reached: as extremes returns it. What is NaN or infinite is left to check_finite.
    """
    change, lowest, highest, x_lowest, x_highest = reached.tolist()
    rounding = _ROUNDINGS * torch.finfo(reached.dtype).eps * max(abs(x_lowest), abs(x_highest), eps) + _RELATIVE * eps
    where = f"attack {title_of(attack)}"
    if getattr(attack, "norm", None) in (None, "Linf") and eps + rounding < change < math.inf:
        raise SoftadvError(f"{where}: moved a pixel by {change:g}, more than eps = {eps:g}")
    for pixel in (-lowest, highest):
        if not clip[0] - rounding <= pixel <= clip[1] + rounding and math.isfinite(pixel):
            raise SoftadvError(f"{where}: made a pixel {pixel:g}, outside of [{clip[0]:g}, {clip[1]:g}]")


def attacked_copies(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator
) -> Tensor:
    """What an attack finds for x, checked by check_examples; x and y stay as they are, also if it works in place."""
    return check_examples(attack(model, x.clone(), y.clone(), eps=eps, generator=generator), x, attack=attack)


@dataclass(frozen=True)
class AtRadius:
    """An attack with its radius; its examples are checked to be images within their balls and within clip."""

    attack: Attack
    eps: float
    clip: Clip = UNIT

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """Examples of the shape of x. Arguments as an Attack takes them. Raises SoftadvError where they are none."""
        found = attacked_copies(self.attack, model, x, y, eps=self.eps, generator=generator)
        if len(x):
            check_ball(extremes(found, x), attack=self.attack, eps=self.eps, clip=self.clip)
        return found


def is_linf(attack: Attack) -> bool:
    """Whether an attack declares the L-infinity ball, the certifier's."""
    return getattr(attack, "norm", None) == "Linf"


def title_of(attack: Attack) -> str:
    """An attack's name in tables."""
    name = getattr(attack, "title", None) or getattr(attack, "__name__", None) or type(attack).__name__
    return str(name)
