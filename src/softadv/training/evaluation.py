"""The building blocks of evaluation: natural, adversarial and certified accuracy, with the model in eval mode.

The model is left in the mode it was in. All is computed in plain float32, whatever PyTorch is set to (_float32.py).
NotFiniteError is raised where scores or adversarial examples are NaN or infinite, since an accuracy would be
meaningless.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from softadv._float32 import float32_products
from softadv._modes import in_eval_mode
from softadv.certify.certifiers import CertifierSession, Engine, certifier_for
from softadv.certify.domains import Domain
from softadv.certify.records import Certified
from softadv.data import check_finite
from softadv.errors import SoftadvError

# Large enough to keep two cores busy, small enough for their caches.
_BATCH = 500

# An attack with its radius, as attacks.AtRadius: (model, x, y, *, generator) to images of the shape of x.
AttackAtRadius = Callable[..., Tensor]


@float32_products()
@in_eval_mode
def predictions(model: nn.Module, x: Tensor) -> Tensor:
    """The class of each image, int64 (N,). x: float (N, C, H, W).

    Raises SoftadvError where there are no images, NotFiniteError where a score is NaN or infinite.
    """
    return _scores(model, x).argmax(1)


def natural_accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The fraction of images classified correctly. x: float (N, C, H, W); y: int64 (N,)."""
    return int((predictions(model, x) == y).sum()) / len(x)


def adversarial_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: AttackAtRadius,
    generator: torch.Generator,
    on_progress: Callable[[int], None] | None = None,
) -> float:
    """The fraction of images that are still classified correctly after the attack."""
    attacked = attack_images(model, x, y, attack=attack, generator=generator, on_progress=on_progress)
    return natural_accuracy(model, attacked, y)


@float32_products()
@in_eval_mode
def attack_images(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: AttackAtRadius,
    generator: torch.Generator,
    on_progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Attack images batch by batch. Returns images of the shape of x.

    on_progress: called after each batch with the number of images done so far.
    """
    found = []
    done = 0
    for images, labels in zip(x.split(_BATCH), y.split(_BATCH), strict=True):
        found.append(attack(model, images, labels, generator=generator))
        done += len(images)
        if on_progress is not None:
            on_progress(done)
    attacked = torch.cat(found)
    check_finite(attacked, what="the pixels found for image")
    return attacked


@float32_products()
@in_eval_mode
def certified_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    domain: Domain,
    engine: Engine = "native",
    on_progress: Callable[[int], None] | None = None,
    on_engine: Callable[[str], object] | None = None,
) -> Certified:
    """How many images are classified correctly on their whole box, and the seconds it took to prove.

    on_engine: called with what computed (Certificates.computed_by).
    """
    _scores(model, x)  # raises for NaN scores, which would otherwise count as merely unverified
    started = time.perf_counter()
    with CertifierSession(certifier_for(engine, domain=domain)) as session:
        certificates, provenance = session.certify(
            model, x, y, eps=eps, domain=domain, margins=False, effort="exact", on_progress=on_progress
        )
    verified = int(certificates.verified.sum())
    if on_engine is not None:
        on_engine(certificates.computed_by)
    return Certified(
        domain=domain, images=len(x), verified=verified, seconds=time.perf_counter() - started,
        certifier=str(provenance),
    )  # fmt: skip


@torch.no_grad()
def _scores(model: nn.Module, x: Tensor) -> Tensor:
    if not len(x):
        raise SoftadvError("x: there is no image, so there is no accuracy")
    # A copy: a model that begins with an in-place layer would change the images.
    scores = torch.cat([model(images.clone()) for images in x.split(_BATCH)])
    check_finite(scores, what="the scores of image")
    return scores
