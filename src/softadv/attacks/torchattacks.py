"""Any attack of Torchattacks by name, made deterministic."""

from __future__ import annotations

import inspect
from collections.abc import Set
from typing import Any

import torch
from torch import Tensor, nn

from softadv._modes import eval_mode
from softadv.attacks.base import register
from softadv.data import check_finite
from softadv.errors import SoftadvError

AUTOATTACK = "torchattacks:AutoAttack"

# The attacks of Torchattacks that search the L-infinity ball, as a certifier does.
_LINF = {
    "APGD", "APGDT", "AutoAttack", "BIM", "DIFGSM", "EOTPGD", "FAB", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM",
    "PGD", "PGDRS", "RFGSM", "SINIFGSM", "Square", "TIFGSM", "TPGD", "UPGD", "VMIFGSM", "VNIFGSM",
}  # fmt: skip
# The targeted DLR loss (Croce and Hein, ICML 2020) takes the four largest scores.
_TARGETED_DLR, _LEAST_CLASSES = ("APGDT", "AutoAttack"), 4
_MOST_CLASSES = 10  # of more, the nine with the largest scores are the targets


@register("torchattacks:NAME")
class TorchAttack:
    """A class of Torchattacks as an attack; it gets those of the settings that its constructor accepts."""

    def __init__(self, name: str, **settings: Any) -> None:
        """name: of the class, such as "AutoAttack". settings: for its constructor, without eps, which the call gives.

        Raises SoftadvError for an unknown name, and for an attack without an eps.
        """
        kind, taken = _class_of(name)
        self.title = name
        self.norm = "Linf" if name in _LINF else None
        self._kind = kind
        self._seeded, self._targeted = "seed" in taken, "n_classes" in taken
        self._settings = {key: value for key, value in settings.items() if key in taken}

    @staticmethod
    def settings_of(name: str) -> Set[str]:
        """What a class of Torchattacks can be told, by name. Raises SoftadvError as the constructor does."""
        return _class_of(name)[1]

    def __repr__(self) -> str:
        return f"TorchAttack({self.title!r}, {', '.join(f'{key}={value}' for key, value in self._settings.items())})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        """x: float (N, C, H, W) in [0, 1]; y: int64 (N,). Returns images of the shape of x.

        Raises NotFiniteError where the attack finds NaN or infinity, SoftadvError as check_classes does.
        """
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        settings = self._settings | {"eps": eps} | ({"seed": seed} if self._seeded else {})
        # Torchattacks draws from the global generators: they are seeded here and restored afterwards. It fills memory
        # in order, and would put a whole model with a frozen layer in training mode.
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), eval_mode(model):
            if self._targeted:
                settings = {"n_classes": self._known_classes(model, x)} | settings
            torch.manual_seed(seed)
            found: Tensor = self._kind(model, **settings)(x.contiguous(), y).detach()
        check_finite(found, what=f"attack: {self.title}'s pixels for image")
        return found

    def check_classes(self, classes: int) -> None:
        """Raise SoftadvError for fewer classes than the attack needs."""
        if self.title in _TARGETED_DLR and classes < _LEAST_CLASSES:
            raise SoftadvError(f"attack: {self.title} needs {_LEAST_CLASSES} classes or more, there are {classes}")

    def _known_classes(self, model: nn.Module, x: Tensor) -> int:
        """What the attack is told of the number of classes: from it come its targets."""
        with torch.no_grad():
            classes: int = model(x[:1]).shape[1]
        self.check_classes(classes)
        return min(classes, _MOST_CLASSES)


def _class_of(name: str) -> tuple[Any, Set[str]]:
    """A class of Torchattacks, and what its constructor takes."""
    import torchattacks  # noqa: PLC0415 (a second of start-up, for those who ask for it)

    kind: Any = getattr(torchattacks, name, None)
    if name == "Attack" or not (isinstance(kind, type) and issubclass(kind, torchattacks.attack.Attack)):
        raise SoftadvError(f"attack: Torchattacks {torchattacks.__version__} has no attack {name!r}")
    taken = inspect.signature(kind).parameters.keys()
    if "eps" not in taken:
        raise SoftadvError(f"attack: 'torchattacks:{name}' has no eps, so it cannot be kept within the ball")
    return kind, taken
