"""softadv.evaluate: natural, adversarial and certified accuracy of a model in one call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from softadv._float32 import float32_products
from softadv._modes import check_module, in_eval_mode
from softadv._ranges import MOST_IMAGES, MOST_SEED, UNIT, Clip, check_count, check_radius, shown
from softadv.attacks import AtRadius, Attack, load_attack, title_of
from softadv.certify.certifiers import CertifierSession, Engine, certifier_for
from softadv.certify.certifiers import certify as certify_images
from softadv.certify.domains import Domain
from softadv.data import Dataset, check_images, check_labels, check_pixels
from softadv.errors import SoftadvError
from softadv.models import first_scores
from softadv.training.evaluation import attack_images, predictions
from softadv.training.loop import Progress

T = TypeVar("T")
EvaluationData = Dataset | tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How many of `images` images are classified correctly."""

    correct: int
    images: int

    @property
    def value(self) -> float:
        """The fraction that is correct."""
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of the fraction (Wilson, JASA 1927)."""
        from scipy import stats  # noqa: PLC0415 (a fifth of a second, which most programs never need)

        low, high = stats.binomtest(self.correct, self.images).proportion_ci(method="wilson")
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.2f}% (95%: {100 * low:.2f} to {100 * high:.2f}, {self.images:,} images)"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of evaluate. adversarial: by attack name. certified: None where it was not requested.

    certifier: who certified, with version and soundness. computed_by: as in Certificates.
    """

    eps: float
    natural: Accuracy
    adversarial: Mapping[str, Accuracy]
    certified: Accuracy | None
    certifier: str = ""
    computed_by: str = ""

    def __str__(self) -> str:
        rows = [("natural", self.natural), *self.adversarial.items()]
        rows += [("certified", self.certified)] if self.certified is not None else []
        width = max(len(name) for name, _ in rows)
        return "\n".join([f"eps {self.eps:g}", *(f"{name:<{width}}  {accuracy}" for name, accuracy in rows)])


@float32_products()
def evaluate(
    model: nn.Module,
    data: EvaluationData,
    *,
    eps: float,
    attacks: Sequence[str | Attack] = ("pgd",),
    certify: int | bool = False,
    domain: Domain = "deeppoly",
    engine: Engine = "native",
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Natural, adversarial and certified accuracy of a model, in eval mode, on test images.

    data: a data set, of which the test images are used; or images, float (N, C, H, W) in [0, 1], and labels, int64
    (N,).
    eps: L-infinity radius in the units of the images. attacks: a list of names or attacks, as in softadv.load_attack; a
    second one of the same name is counted as "PGD (2)".
    certify: True certifies all images; a number n certifies the first n. domain, engine: as in softadv.certify.
    seed: of the attacks' random choices. on_progress: called with the name of the running part and the images done.

    All is computed in plain float32, and holds for the model computed so: TF32 and what else
    torch.set_float32_matmul_precision allows is off within the call.
    Raises SoftadvError for a model or data of another kind, for images or labels that do not fit the model, for an
    attack that leaves its ball or [0, 1], and for scores that are not finite.
    """
    eps = check_radius(eps)
    seed = check_count(seed, key="seed", most=MOST_SEED)
    check_kinds(model, data)
    x, y = (data.test_x, data.test_y) if isinstance(data, Dataset) else data
    if not len(x):
        raise SoftadvError("data: no images to evaluate on")
    asked = len(x) * certify if isinstance(certify, bool) else certify
    count = min(check_count(asked, key="certify", most=MOST_IMAGES), len(x))
    device = next(iter(model.parameters()), x).device
    x, y = x.to(device), y.to(device)
    check_fit(model, x, y)
    told = on_progress or (lambda what, done: None)
    adversarial: dict[str, Accuracy] = {}
    named = [attacks] if isinstance(attacks, str) else _listed(attacks, key="attacks", of="names or attacks")
    for attack in map(load_attack, named):
        title = _free(title_of(attack), adversarial)
        attacked = attack_images(
            model, x, y, attack=AtRadius(attack, eps), generator=torch.Generator(device).manual_seed(seed),
            on_progress=partial(told, title),
        )  # fmt: skip
        adversarial[title] = _accuracy(model, attacked, y)
    measured = Evaluation(eps=eps, natural=_accuracy(model, x, y), adversarial=adversarial, certified=None)
    if count:
        with CertifierSession(certifier_for(engine, domain=domain)) as session:
            found, provenance = session.certify(
                model, x[:count], y[:count], eps=eps, domain=domain, margins=False,
                on_progress=partial(told, "certifying"),
            )  # fmt: skip
        certified = Accuracy(correct=int(found.verified.sum()), images=count)
        measured = replace(measured, certified=certified, certifier=str(provenance), computed_by=found.computed_by)
    return measured


@float32_products()
def certified_curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Sequence[float],
    domain: Domain = "deeppoly",
    engine: Engine = "native",
    on_progress: Progress | None = None,
    on_engine: Callable[[str], object] | None = None,
) -> dict[float, Accuracy]:
    """Certified accuracy at each of several radii, by radius in the given order.

    x: float (N, C, H, W) in [0, 1]; y: int64 (N,). eps: radii in the units of x.
    The largest radius is certified first. A proof for a ball covers all smaller balls around the image, so images
    verified at one radius are not certified again. An image counts as verified at a radius if it was verified there or
    at a larger one.
    All is computed in plain float32, as in softadv.evaluate.
    on_progress: called with "eps RADIUS" and the images certified there. on_engine: called at each radius with what
    computed (Certificates.computed_by).
    Raises what softadv.certify raises.
    """
    if not len(x):
        raise SoftadvError("x: no images to certify")
    radii = [check_radius(radius) for radius in _listed(eps, key="eps", of="radii")]
    proven = torch.zeros_like(y, dtype=torch.bool)
    found = {}
    for radius in sorted(set(radii), reverse=True):
        open_ = (~proven).nonzero()[:, 0]
        if len(open_):
            verdicts = certify_images(
                model, x[open_], y[open_], eps=radius, domain=domain, engine=engine, margins=False,
                on_progress=partial(on_progress, f"eps {radius:g}") if on_progress else None,
            )  # fmt: skip
            proven[open_[verdicts.verified]] = True
            if on_engine is not None:
                on_engine(verdicts.computed_by)
        found[radius] = Accuracy(correct=int(proven.sum()), images=len(x))
    return {radius: found[radius] for radius in radii}


def _listed(several: Iterable[T], *, key: str, of: str) -> list[T]:
    try:
        return list(several)
    except TypeError:
        raise SoftadvError(f"{key}: expected a list of {of}, got {shown(several)}") from None


def check_kinds(model: object, data: object) -> None:
    """Raise SoftadvError unless model is a module, and data a data set or a pair of tensors."""
    check_module(model)
    is_pair = isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    if not (is_pair or isinstance(data, Dataset)):
        found = shown(data) if isinstance(data, str) else f"a {type(data).__name__}"
        raise SoftadvError(
            f"data: expected a softadv.Dataset, or tensors (images, labels), got {found}; "
            "softadv.load_dataset makes one"
        )


@float32_products()
@in_eval_mode
def check_fit(model: nn.Module, x: Tensor, y: Tensor, *, clip: Clip = UNIT) -> None:
    """Raise SoftadvError for images or labels that do not fit each other, the model, or the range of the pixels."""
    check_images(x, y)
    check_pixels(x, clip=clip)
    if not len(x):
        return
    scores = first_scores(model, x)
    check_labels(y, classes=scores.shape[1])


def _free(title: str, taken: Container[str]) -> str:
    """A unique name: the second attack with the same title becomes "title (2)"."""
    names = (title if nth == 1 else f"{title} ({nth})" for nth in itertools.count(1))
    return next(name for name in names if name not in taken)


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> Accuracy:
    return Accuracy(correct=int((predictions(model, x) == y).sum()), images=len(x))
