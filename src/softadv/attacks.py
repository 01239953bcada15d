"""Attacks: projected gradient descent, and any of Torchattacks' by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from softadv import compiled_attack
from softadv.data import check_images
from softadv.errors import SoftadvError
from softadv.gradients import input_gradient

PREFIX = "torchattacks:"
AUTOATTACK = f"{PREFIX}AutoAttack"

# A class of Torchattacks: a model and settings to a function of images and labels.
_Kind = Callable[..., Callable[[Tensor, Tensor], Tensor]]


class Attack(Protocol):
    """Finds, for each image, a point of its ball that the model may misclassify."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """x: float (N, C, H, W) in [0, 1]; y: int64 (N,). Returns images of the shape of x."""


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    alpha: float,
    steps: int,
    random_start: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent on the cross-entropy (Madry et al., ICLR 2018; equation 3 of the paper).

    x_{t+1} = P(x_t + alpha * sgn(grad_x L(x_t, y))), where P projects onto the L-infinity ball of radius
    eps around x, cut to [0, 1].

    x: float (N, C, H, W) in [0, 1]; y: int64 (N,), both on the model's device.
    eps, alpha: radius and step size, in the units of x. steps: gradient steps.
    random_start: begin at a uniform point of the ball instead of at x.
    generator: source of the random start, on the device of x; None is PyTorch's own.

    The model is used in eval mode and left in the mode it was in; its parameters get no gradients.
    Returns (N, C, H, W), detached. Raises SoftadvError for images that certify
    would refuse, labels that the model has no class for, and numbers that are negative or not finite.
    """
    check_images(x, y)
    if not (0 <= eps < float("inf") and 0 <= alpha < float("inf") and steps >= 0):
        raise SoftadvError(f"pgd: eps, alpha and steps must be 0 or more, got {eps}, {alpha}, {steps}")
    with torch.no_grad():
        classes = model(x[:1]).shape[1] if len(x) else 0
    if len(y) and (y.min() < 0 or y.max() >= classes):
        raise SoftadvError(f"y: labels lie in {int(y.min())}..{int(y.max())}, the model has classes 0..{classes - 1}")
    attack = Pgd(eps=eps, alpha=alpha, steps=steps, random_start=random_start)
    return attack(model, x, y, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Pgd:
    """pgd on inputs that were checked when the run began, as training calls it for every batch.

    Its random start and its climb are apart, for the start's random numbers are drawn one by one.
    """

    eps: float
    alpha: float
    steps: int
    random_start: bool = True

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator | None) -> Tensor:
        """The images that pgd finds, (N, C, H, W)."""
        x = x.detach()
        return self.climb(model, x, y, self.start(x, generator=generator))

    def start(self, x: Tensor, *, generator: torch.Generator | None) -> Tensor:
        """Where the attack of each image begins: a tensor of its own, of the shape of x."""
        if not self.random_start:
            return x.clone()
        noise = torch.empty_like(x).uniform_(-self.eps, self.eps, generator=generator)
        return (x + noise).clamp_(0, 1)

    def climb(self, model: nn.Module, x: Tensor, y: Tensor, point: Tensor) -> Tensor:
        """All steps from `point`, which may be overwritten; each image's are its own. Asks a GPU for no value."""
        found = compiled_attack.climb(model, x, y, point, eps=self.eps, alpha=self.alpha, steps=self.steps)
        if found is not None:
            return found
        lowest, highest = (x - self.eps).clamp_(min=0), (x + self.eps).clamp_(max=1)
        with eval_mode(model):
            gradient = input_gradient(model)
            for _ in range(self.steps):
                point.add_(gradient(point, y).sign_(), alpha=self.alpha)
                torch.clamp(point, lowest, highest, out=point)
        return point


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode for a while, and each of its layers back into the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def make_attack(name: str, *, eps: float, alpha: float, steps: int, random_start: bool = True) -> Attack:
    """The attack of a spec: "pgd", or "torchattacks:NAME" for a class of Torchattacks.

    A Torchattacks class gets those of eps, alpha, steps and random_start that its constructor takes.
    Raises SoftadvError for an unknown name, and for an attack without an eps.
    """
    if name == "pgd":
        return Pgd(eps=eps, alpha=alpha, steps=steps, random_start=random_start)
    if not name.startswith(PREFIX):
        raise SoftadvError(f'attack: unknown name {name!r}, expected "pgd" or "{PREFIX}NAME"')
    import torchattacks  # noqa: PLC0415 (a second of start-up, for runs that ask for it)

    wanted = name.removeprefix(PREFIX)
    kind: Any = getattr(torchattacks, wanted, None)
    if wanted == "Attack" or not (isinstance(kind, type) and issubclass(kind, torchattacks.attack.Attack)):
        raise SoftadvError(f"attack: Torchattacks {torchattacks.__version__} has no attack {wanted!r}")
    taken = inspect.signature(kind).parameters
    if "eps" not in taken:
        raise SoftadvError(f"attack: {name!r} has no eps, so it cannot be kept within the ball")
    settings = {"eps": eps, "alpha": alpha, "steps": steps, "random_start": random_start}
    return _Bridge(
        cast(_Kind, kind), name, {key: value for key, value in settings.items() if key in taken}, seeded="seed" in taken
    )


@dataclass(frozen=True)
class _Bridge:
    """A Torchattacks class as an Attack: deterministic, and held to its ball."""

    kind: _Kind
    title: str
    settings: dict[str, float]
    seeded: bool

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        settings = self.settings | ({"seed": seed} if self.seeded else {})
        # Torchattacks draws from the global generators: they are lent a seed and put back.
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(seed)
            found = self.kind(model, **settings)(x, y).detach()
        moved = float((found - x).abs().max()) if len(x) else 0.0
        if not moved <= self.settings["eps"] * (1 + 1e-4) + 1e-6:
            raise SoftadvError(
                f"attack: {self.title} moved a pixel by {moved:g}, more than eps = {self.settings['eps']:g}"
            )
        return found
