"""DeepPoly and DeepZono: bounds by substituting linear forms back to the input.

The bounds of every layer that feeds a ReLU, and at last the margins, come from full
back-substitution to the input box. Which of the two domains it is depends only on the lines
that bound the ReLU (relu.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from softadv.certify.network import Conv, Dense, Network, Relu
from softadv.certify.relu import Lines, Relaxation
from softadv.certify.rows import Rows, Windows


def margins(network: Network, lower: Tensor, upper: Tensor, objective: Tensor, *, relaxation: Relaxation) -> Tensor:
    """Lower bounds of linear functions of the network's output over boxes.

    lower, upper: (N, C, H, W), the boxes. objective: (N, R, K), R functions of the K outputs.
    Returns (N, R); NaN for a box whose bounds overflow, since nothing follows from them.
    """
    analysis = _Analysis(network, lower, upper)
    overflown = torch.zeros(len(lower), dtype=torch.bool, device=lower.device)
    for at, step in enumerate(network.steps):
        if isinstance(step, Relu):
            below, above = analysis.bounds(before=at)
            overflown |= ~(below.isfinite() & above.isfinite()).flatten(1).all(1)
            analysis.lines[at] = relaxation(below, above)
    n, count, classes = objective.shape
    coefs = objective.reshape(n, 1, count, 1, 1, classes)
    rows = Rows(coefs, coefs.new_zeros(1, 1, count), Windows.whole(1, 1))
    least = analysis.minimum(rows, before=len(network.steps)).squeeze(1)
    return least.masked_fill(overflown[:, None], float("nan"))


# Of the largest rows, so many are alive at once at the peak (measured on the paper's networks: 2.6 to 3.1).
_ROWS_ALIVE = 4


def floats_per_image(network: Network) -> int:
    """What one image needs at the peak, in floating-point numbers."""
    return _ROWS_ALIVE * _largest_rows(network)


def _largest_rows(network: Network) -> int:
    """The number of coefficients of the largest rows of one image."""
    largest = network.classes**2
    for before, step in enumerate(network.steps):
        if not isinstance(step, Conv | Dense):
            continue
        windows = step.rows().windows
        count = 2 * windows.positions[0] * windows.positions[1] * step.out_shape[0]
        for at in reversed(range(before)):
            windows = network.steps[at].input_windows(windows)
            channels = network.steps[at].in_shape[0]
            largest = max(largest, count * channels * windows.size[0] * windows.size[1])
    return largest


class _Analysis:
    """The lines of the ReLUs passed so far, for one batch of boxes."""

    def __init__(self, network: Network, lower: Tensor, upper: Tensor) -> None:
        self.steps = network.steps
        self.lower, self.upper = lower, upper
        self.lines: dict[int, Lines] = {}

    def bounds(self, *, before: int) -> tuple[Tensor, Tensor]:
        """Bounds of the activation that enters step `before`, each (N, C, H, W)."""
        if before == 0:
            return self.lower, self.upper
        step = self.steps[before - 1]
        if not isinstance(step, Conv | Dense):
            # Nothing is lost in these steps: the bounds pass through.
            return step.interval(*self.bounds(before=before - 1))
        rows = step.rows()
        # The upper bound of a form is minus the lower bound of its negative.
        both = Rows(torch.cat([rows.coefs, -rows.coefs], 2), torch.cat([rows.const, -rows.const], 2), rows.windows)
        least = self.minimum(both, before=before - 1)  # (N, P, 2 C)
        least = least.transpose(1, 2).reshape(len(self.lower), 2, *step.out_shape)
        return least[:, 0], -least[:, 1]

    def minimum(self, rows: Rows, *, before: int) -> Tensor:
        """Lower bounds (N, P, R) of forms over the activation that enters step `before`."""
        for at in reversed(range(before)):
            step = self.steps[at]
            rows = _relu_backward(rows, self.lines[at]) if isinstance(step, Relu) else step.backward(rows)
        return rows.minimum(self.lower, self.upper)


def _relu_backward(rows: Rows, lines: Lines) -> Rows:
    """Replace each ReLU's output by the line that keeps the form a lower bound."""
    cut = rows.windows.cut
    lower_slope, upper_slope = cut(lines.lower_slope).unsqueeze(2), cut(lines.upper_slope).unsqueeze(2)
    offset = cut(lines.upper_offset).flatten(2).unsqueeze(3)
    const = rows.const + torch.matmul(rows.coefs.clamp(max=0).flatten(3), offset).squeeze(3)
    coefs = torch.where(rows.coefs < 0, upper_slope, lower_slope).mul_(rows.coefs)
    return Rows(coefs, const, rows.windows)
