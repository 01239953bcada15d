"""Is every point of this box classified as y?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from softadv.certify import backsubstitution, box
from softadv.certify.network import Network, read_network
from softadv.certify.relu import deeppoly_lines, zonotope_lines
from softadv.data import check_images
from softadv.errors import SoftadvError

Domain = Literal["box", "deepzono", "deeppoly"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)

# On a CPU more images at once are no faster: this much keeps both cores busy.
_CPU_BUDGET = 2**28


@dataclass(frozen=True)
class Certificates:
    """What was proven about N images; every tensor is on the device of the images.

    correct: bool (N,), the model classifies the image itself as y.
    verified: bool (N,), correct, and every point of the box is classified as y.
    margin: float (N,), the lower bound of the minimum over j != y of o_y - o_j over the box; NaN where
        it was not asked for.
    """

    correct: Tensor
    verified: Tensor
    margin: Tensor


def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    domain: Domain = "deeppoly",
    clip: tuple[float, float] = (0.0, 1.0),
    margins: bool = True,
    memory_budget: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Certificates:
    """Certify that a model classifies every point of an L-infinity ball as the image's label.

    The box of an image is {x' : |x' - x| <= eps and clip[0] <= x' <= clip[1]}, pixel by pixel.

    model: an nn.Sequential of Conv2d, ReLU, Linear, Flatten (and softadv's Normalize).
    x: float (N, C, H, W), pixels within clip. y: int64 (N,).
    eps: radius, in the units of x.
    domain: "box" (interval arithmetic), "deepzono" (Singh et al., NeurIPS 2018) or "deeppoly" (Singh
        et al., POPL 2019, with full back-substitution; CROWN's adaptive relaxation).
    margins: False computes no margin for misclassified images, which cannot be verified.
    memory_budget: bytes the analysis may use for tensors; the images are split into chunks that fit.
        Default: 256 MiB on a CPU, half of the free memory on a GPU.
    on_progress: called after each chunk with the number of images done so far.

    The analysis runs in the model's floating-point type on the model's device, and rounding errors
    are not bounded. Raises SoftadvError for a model that cannot be read, or inputs out of range.
    """
    if domain not in DOMAINS:
        raise SoftadvError(f"domain: unknown name {domain!r}, expected one of {', '.join(DOMAINS)}")
    check_images(x, y)
    network = read_network(model, (x.shape[1], x.shape[2], x.shape[3]))
    _check_ranges(x, y, eps=eps, clip=clip, classes=network.classes)
    weight = next(model.parameters(), x)
    lower_bounds, floats = _analysis(network, domain)
    chunk = max(1, (memory_budget or _default_budget(weight.device)) // (floats * weight.element_size()))

    correct = torch.empty(len(x), dtype=torch.bool, device=x.device)
    margin = torch.full((len(x),), float("nan"), dtype=weight.dtype, device=x.device)
    with torch.no_grad():
        for part in _slices(len(x), chunk):
            images, labels = x[part].to(weight), y[part].to(weight.device)
            right = model(images).argmax(1) == labels
            correct[part] = right.to(x.device)
            wanted = torch.ones_like(right) if margins else right
            if wanted.any():
                values = _margin(network, lower_bounds, images[wanted], labels[wanted], eps=eps, clip=clip)
                margin[part][wanted.to(x.device)] = values.to(x.device)
            if on_progress is not None:
                on_progress(part.stop)
    # Positive proof is asked for: NaN and infinity are not one.
    return Certificates(correct, correct & (margin > 0) & margin.isfinite(), margin)


_LowerBounds = Callable[[Network, Tensor, Tensor, Tensor], Tensor]


def _analysis(network: Network, domain: Domain) -> tuple[_LowerBounds, int]:
    """The function that answers for a domain, and the floating-point numbers one image takes at the peak."""
    if domain == "box":
        return box.margins, box.floats_per_image(network)
    relaxation = deeppoly_lines if domain == "deeppoly" else zonotope_lines
    analysis = partial(backsubstitution.margins, relaxation=relaxation)
    return analysis, backsubstitution.floats_per_image(network)


def _margin(
    network: Network, lower_bounds: _LowerBounds, x: Tensor, y: Tensor, *, eps: float, clip: tuple[float, float]
) -> Tensor:
    lower, upper = (x - eps).clamp(min=clip[0]), (x + eps).clamp(max=clip[1])
    identity = torch.eye(network.classes, dtype=x.dtype, device=x.device)
    objective = identity[y][:, None, :] - identity  # row j is o_y - o_j
    bounds = lower_bounds(network, lower, upper, objective)
    # Row y is zero by definition and not a competitor.
    return bounds.scatter(1, y[:, None], float("inf")).amin(1)


def _check_ranges(x: Tensor, y: Tensor, *, eps: float, clip: tuple[float, float], classes: int) -> None:
    if not 0 <= eps < float("inf"):
        raise SoftadvError(f"eps: expected a radius of 0 or more, got {eps}")
    if len(x) and (x.min() < clip[0] or x.max() > clip[1]):
        raise SoftadvError(f"x: pixels lie in [{x.min():g}, {x.max():g}], outside clip [{clip[0]:g}, {clip[1]:g}]")
    if len(y) and (y.min() < 0 or y.max() >= classes):
        raise SoftadvError(f"y: labels lie in {int(y.min())}..{int(y.max())}, the model has classes 0..{classes - 1}")


def _default_budget(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return _CPU_BUDGET


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
