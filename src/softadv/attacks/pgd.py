"""Attacks: projected gradient descent, and any of Torchattacks' by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from softadv._modes import eval_mode, in_eval_mode
from softadv._ranges import MOST_STEPS, UNIT, Clip, check_clip, check_count, check_radius
from softadv.data import check_finite, check_images, check_labels, check_pixels
from softadv.errors import SoftadvError
from softadv.kernels import pgd as compiled_attack
from softadv.kernels.input_gradients import input_gradient

PREFIX = "torchattacks:"
AUTOATTACK = f"{PREFIX}AutoAttack"
# The attacks of Torchattacks whose ball, unless they are told otherwise, is that of the L-infinity norm.
_LINF = {
    "APGD",
    "APGDT",
    "AutoAttack",
    "BIM",
    "DIFGSM",
    "EOTPGD",
    "FAB",
    "FFGSM",
    "FGSM",
    "Jitter",
    "MIFGSM",
    "NIFGSM",
} | {"PGD", "PGDRS", "RFGSM", "SINIFGSM", "Square", "TIFGSM", "TPGD", "UPGD", "VMIFGSM", "VNIFGSM"}

# A class of Torchattacks: a model and settings to a function of images and labels.
_Kind = Callable[..., Callable[[Tensor, Tensor], Tensor]]


class Attack(Protocol):
    """Finds, for each image, a point of its ball that the model may misclassify; softadv calls it in eval mode."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """x: float (N, C, H, W) in [0, 1]; y: int64 (N,). Returns images of the shape of x."""


@in_eval_mode
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    alpha: float,
    steps: int,
    random_start: bool = True,
    clip: Clip = UNIT,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent on the cross-entropy (Madry et al., ICLR 2018; equation 3 of the paper).

    x_{t+1} = P(x_t + alpha * sgn(grad_x L(x_t, y))), where P projects onto the L-infinity ball of radius
    eps around x, cut to clip.

    x: float (N, C, H, W), pixels within clip; y: int64 (N,), both on the model's device.
    eps, alpha: radius and step size, in the units of x. steps: gradient steps, 0 to 1,000,000.
    random_start: begin at a uniform point of the ball instead of at x.
    clip: the lowest and the highest pixel there can be.
    generator: source of the random start, on the device of x; None is PyTorch's own. Its numbers depend on the
        shape of x, and not on how x lies in memory.

    The model is used in eval mode and left in the mode it was in; its parameters get no gradients.
    Returns (N, C, H, W), detached. Raises SoftadvError for images that certify would refuse, labels that the model
    has no class for, and numbers out of range; NotFiniteError where the model's scores or the images found are NaN
    or infinite.
    """
    check_images(x, y)
    attack = Pgd(eps=eps, alpha=alpha, steps=steps, random_start=random_start, clip=clip)
    check_pixels(x, clip=attack.clip)
    if not len(x):
        return x.detach().clone()
    with torch.no_grad():
        scores = model(x[:1].clone())  # a model that begins with an in-place layer would change the image
    check_labels(y, classes=scores.shape[1])
    check_finite(scores, what="the scores of image")
    found = attack(model, x, y, generator=generator)
    check_finite(found, what="the pixels found for image")
    return found


@dataclass(frozen=True, kw_only=True)
class Pgd:
    """pgd on inputs that were checked when the run began, as training calls it for every batch.

    Its random start and its climb are apart, for the start's random numbers are drawn one by one.
    Raises SoftadvError for numbers out of range.
    """

    eps: float
    alpha: float
    steps: int
    random_start: bool = True
    clip: Clip = UNIT

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip", check_clip(self.clip))
        for key, value in _checked(self.eps, self.alpha, self.steps, clip=self.clip).items():
            object.__setattr__(self, key, value)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator | None) -> Tensor:
        """The images that pgd finds, (N, C, H, W)."""
        x = x.detach()
        return self.climb(model, x, y, self.start(x, generator=generator))

    def start(self, x: Tensor, *, generator: torch.Generator | None) -> Tensor:
        """Where the attack of each image begins: a tensor of its own, of the shape of x."""
        if not self.random_start:
            return x.clone()
        # Not empty_like: the numbers are drawn in the order of memory, and that of x is no business of theirs.
        noise = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        noise.uniform_(-self.eps, self.eps, generator=generator)
        return (x + noise).clamp_(*self.clip)

    def climb(self, model: nn.Module, x: Tensor, y: Tensor, point: Tensor) -> Tensor:
        """All steps from `point`, which may be overwritten; each image's are its own. Asks a GPU for no value."""
        found = compiled_attack.climb(
            model, x, y, point, eps=self.eps, alpha=self.alpha, steps=self.steps, clip=self.clip
        )
        if found is not None:
            return found
        lowest, highest = (x - self.eps).clamp_(min=self.clip[0]), (x + self.eps).clamp_(max=self.clip[1])
        with eval_mode(model):
            gradient = input_gradient(model)
            for _ in range(self.steps):
                point.add_(gradient(point, y).sign_(), alpha=self.alpha)
                torch.clamp(point, lowest, highest, out=point)
        return point


def _checked(eps: float, alpha: float, steps: int, *, clip: Clip = UNIT) -> dict[str, Any]:
    """An attack's numbers. Raises SoftadvError for those out of range."""
    return {
        "eps": check_radius(eps, key="eps", clip=clip),
        "alpha": check_radius(alpha, key="alpha", clip=clip),
        "steps": check_count(steps, key="steps", most=MOST_STEPS),
    }


def make_attack(name: str, *, eps: float, alpha: float, steps: int, random_start: bool = True) -> Attack:
    """The attack of a spec: "pgd", or "torchattacks:NAME" for a class of Torchattacks.

    A Torchattacks class gets those of eps, alpha, steps and random_start that its constructor takes.
    Raises SoftadvError for an unknown name, numbers out of range, and for an attack without an eps.
    """
    settings = _checked(eps, alpha, steps)
    if name == "pgd":
        return Pgd(**settings, random_start=random_start)
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
    settings["random_start"] = random_start
    return _Bridge(
        cast(_Kind, kind), name, {key: value for key, value in settings.items() if key in taken}, seeded="seed" in taken
    )


def is_linf(name: str) -> bool:
    """Whether the attack of this name is known to search the L-infinity ball, as a certifier does."""
    return name == "pgd" or (name.startswith(PREFIX) and name.removeprefix(PREFIX) in _LINF)


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
        # It draws them in the order of memory, and would put a model with a frozen layer in training mode as a whole.
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), eval_mode(model):
            torch.manual_seed(seed)
            found = self.kind(model, **settings)(x.contiguous(), y).detach()
        check_finite(found, what=f"attack: {self.title}'s pixels for image")
        moved = float((found - x).abs().max()) if len(x) else 0.0
        if not moved <= self.settings["eps"] * (1 + 1e-4) + 1e-6:
            raise SoftadvError(
                f"attack: {self.title} moved a pixel by {moved:g}, more than eps = {self.settings['eps']:g}"
            )
        return found
