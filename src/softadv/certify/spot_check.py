"""Check, on some inputs, that the network that was read computes what an evaluator computes."""

from __future__ import annotations

import torch
from torch import Tensor

from softadv.certify.bounds import BackSubstitution, lower_bounds
from softadv.certify.graph import Network
from softadv.errors import SoftadvError


@torch.no_grad()
def check_scores(network: Network, x: Tensor, scores: Tensor, *, backsub: type[BackSubstitution]) -> None:
    """Raise SoftadvError where scores (N, K) of inputs (N, ...) are not those of the network, up to rounding."""
    if scores.shape != (len(x), network.classes):
        raise SoftadvError(f"model: returns scores of shape {tuple(scores.shape)}, {network.classes} a row were read")
    # Around a single point, intervals are as narrow as rounding errors.
    point = network.as_planes(x)
    lower_bounds(
        network, (point, point), point.new_zeros(len(x), 1, network.classes), domain="box",
        rounding=backsub.arithmetic(network, point.dtype), backsub=backsub, scores=scores,
    )  # fmt: skip
