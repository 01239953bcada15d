"""Box: one interval for each neuron, forwards through the network."""

from __future__ import annotations

import math

from torch import Tensor

from softadv.certify.network import Network, Relu
from softadv.certify.rows import Rows, Windows

# Of the largest activation, so many are alive at once at the peak (measured on the paper's networks: 7 to 14).
_ACTIVATIONS_ALIVE = 16


def floats_per_image(network: Network) -> int:
    """What one image needs at the peak, in floating-point numbers."""
    return _ACTIVATIONS_ALIVE * max(math.prod(step.in_shape) for step in network.steps)


def margins(network: Network, lower: Tensor, upper: Tensor, objective: Tensor) -> Tensor:
    """Lower bounds of linear functions of the network's output over boxes, by interval arithmetic.

    The objective is merged into the last linear step, so that o_y - o_j is bounded as one neuron and
    not as the difference of two intervals (Gowal et al., On the Effectiveness of Interval Bound
    Propagation, 2018, section 3).

    lower, upper: (N, C, H, W), the boxes. objective: (N, R, K), R functions of the K outputs.
    Returns (N, R).
    """
    last = network.steps[-1]
    for step in network.steps[:-1]:
        lower, upper = step.interval(lower, upper)
    n, count, classes = objective.shape
    coefs = objective.reshape(n, 1, count, 1, 1, classes)
    rows = Rows(coefs, coefs.new_zeros(1, 1, count), Windows.whole(1, 1))
    if isinstance(last, Relu):
        lower, upper = last.interval(lower, upper)
    else:
        rows = last.backward(rows)
    return rows.minimum(lower, upper).squeeze(1)
