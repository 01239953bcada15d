"""The two linear relaxations of ReLU, which are all that sets DeepPoly and DeepZono apart.

For l <= x <= u, both lay max(x, 0) between a lower line `slope * x` and an upper line
`slope * x + offset`. A stable neuron passes (l >= 0) or vanishes (u <= 0) without loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lines:
    """lower_slope * x <= max(x, 0) <= upper_slope * x + upper_offset, each (N, C, H, W)."""

    lower_slope: Tensor
    upper_slope: Tensor
    upper_offset: Tensor


Relaxation = Callable[[Tensor, Tensor], Lines]


def _upper_line(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The chord through (l, 0) and (u, u): slope u / (u - l), offset -slope * l; exact where stable."""
    unstable = (lower < 0) & (upper > 0)
    width = torch.where(unstable, upper - lower, torch.ones_like(upper))
    slope = torch.where(unstable, upper / width, (lower >= 0).to(upper.dtype))
    offset = torch.where(unstable, -slope * lower, torch.zeros_like(upper))
    return slope, offset


def deeppoly_lines(lower: Tensor, upper: Tensor) -> Lines:
    """Singh et al., An Abstract Domain for Certifying Neural Networks (POPL 2019), section 4.2.

    The lower line of an unstable neuron is x where u > -l, else 0: whichever leaves the smaller area.
    """
    slope, offset = _upper_line(lower, upper)
    steep = ((lower >= 0) | (upper > -lower)).to(lower.dtype)
    return Lines(steep, slope, offset)


def zonotope_lines(lower: Tensor, upper: Tensor) -> Lines:
    """Singh et al., Fast and Effective Robustness Certification (NeurIPS 2018), theorem 3.1.

    The zonotope's ReLU is slope * x + mu + mu * e with a new noise symbol e in [-1, 1] and
    mu = offset / 2: two parallel lines. The slopes do not depend on the sign of the coefficient, so
    substituting them backwards ends in the same linear form, with the same minimum over the noise
    symbols, as propagating the zonotope forwards.
    """
    slope, offset = _upper_line(lower, upper)
    return Lines(slope, slope, offset)
