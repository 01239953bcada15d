"""The boxes to certify: L-infinity balls of one radius or of several, or given bounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softadv._ranges import UNIT, Clip, check_clip, check_radius
from softadv.certify.operators import Interval
from softadv.certify.rounding import box, outwards
from softadv.data import check_pixels
from softadv.errors import SoftadvError

Radius = float | Tensor


@dataclass(frozen=True)
class Boxes:
    """One box for each of N inputs: either eps and clip, or lower and upper. A tensor has one row per input, or one row
    for all.
    """

    eps: Radius = 0.0
    clip: Clip = UNIT
    lower: Tensor | None = None
    upper: Tensor | None = None

    def bounds(self, x: Tensor, part: Tensor, *, dtype: torch.dtype, sound: bool) -> Interval:
        """The lower and upper bounds of the boxes of inputs x; part: int64 (N,), their positions among all inputs."""
        if self.lower is None or self.upper is None:
            eps = _part(self.eps, part, x.device) if isinstance(self.eps, Tensor) else self.eps
            return box(x, eps=eps, clip=self.clip, dtype=dtype, sound=sound)
        lower, upper = (_part(bound, part, x.device).expand_as(x) for bound in (self.lower, self.upper))
        if not sound:
            return lower.to(dtype), upper.to(dtype)
        return outwards(lower.double(), upper.double(), dtype)


def make_boxes(
    x: Tensor, *, eps: Radius | None, clip: Clip = UNIT, lower: Tensor | None = None, upper: Tensor | None = None
) -> Boxes:
    """The boxes of inputs x, checked.

    x: float (N, ...). eps: a number, or a tensor that broadcasts to x: (C, 1, 1), or (N, 1, 1, 1). lower, upper:
    instead of eps, bounds that broadcast to x and contain it; clip does not apply to them.
    Raises SoftadvError that names the argument that does not fit, and the input.
    """
    clip = check_clip(clip)
    if lower is None and upper is None:
        if eps is None:
            raise SoftadvError("eps: a radius is needed, or lower= and upper=")
        radius = _radius(eps, x, clip)
        check_pixels(x, clip=clip)
        return Boxes(radius, clip)
    if eps is not None:
        raise SoftadvError("eps: give a radius, or lower= and upper=, not both")
    if lower is None or upper is None:
        raise SoftadvError(f"{'lower' if lower is None else 'upper'}: both lower= and upper= are needed")
    bounds = []
    for key, bound in (("lower", lower), ("upper", upper)):
        if not isinstance(bound, Tensor) or not bound.is_floating_point():
            got = bound.dtype if isinstance(bound, Tensor) else f"a {type(bound).__name__}"
            raise SoftadvError(f"{key}: expected a float tensor, got {got}")
        rows = _rows(bound, x, key=key)
        _check(x, rows.isfinite(), f"{key}: is NaN or infinite")
        bounds.append(rows)
    below, above = (bound.to(x.device) for bound in bounds)
    _check(x, below <= above, "lower: is above upper")
    _check(x, (below <= x) & (x <= above), "x: is outside lower and upper")
    return Boxes(lower=below, upper=above)


def _radius(eps: Radius, x: Tensor, clip: Clip) -> Radius:
    if not isinstance(eps, Tensor) or eps.ndim == 0:
        return check_radius(eps, clip=clip)
    if not eps.is_floating_point():
        raise SoftadvError(f"eps: expected a float tensor, got {eps.dtype}")
    rows = _rows(eps, x, key="eps")
    _check(x, (rows >= 0) & rows.isfinite(), "eps: must be 0 or more and finite")
    most = float(rows.max()) if rows.numel() else 0.0
    check_radius(most, clip=clip)
    return rows


def _rows(values: Tensor, x: Tensor, *, key: str) -> Tensor:
    """A tensor that broadcasts to x, with as many dimensions."""
    try:
        fits = torch.broadcast_shapes(values.shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise SoftadvError(f"{key}: shape {tuple(values.shape)} does not broadcast to that of x, {tuple(x.shape)}")
    return values.detach().resolve_neg().reshape(*(1,) * (x.ndim - values.ndim), *values.shape)


def _check(x: Tensor, holds: Tensor, complaint: str) -> None:
    if not holds.all():
        bad = int((~holds.expand(x.shape)).flatten(1).any(1).nonzero()[0])
        raise SoftadvError(f"{complaint} for input {bad}")


def _part(values: Tensor, part: Tensor, device: torch.device) -> Tensor:
    return (values[part.to(values.device)] if len(values) > 1 else values).to(device)
