"""Stop at the proof: where verdicts alone are wanted, the last hidden layer is refined only as far as it takes.

Any bounds of neurons that hold make a relaxation that proves what it proves, by the same theorem (rounding.py). A
neuron that was not asked about has its interval. So neurons are asked about in order of what they weigh in the margins,
the side that is nearer to zero first, and the margins in between. What is not proven by then gets the rest of
DeepPoly's own pass, and with it DeepPoly's own bounds. A pass that stopped early may prove what the whole one does not:
a lower line is chosen by its area, and narrower bounds may choose a worse one.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from softadv.certify.graph import Network
from softadv.certify.ops import Dense, Interval, Relu

# As measured on the paper's networks: with so few neurons to refine, the margins are asked first; and so many at once.
_FEW, _FIRST = 16, 32


class Analysis(Protocol):
    """What bounds.Analysis is, as far as it is used here."""

    network: Network
    bounds: list[Interval]

    def ask(self, at: int, sides: tuple[Tensor, Tensor]) -> None: ...

    def finish(self, hidden: int) -> None: ...

    def minimum(self, objective: Tensor, asked: Tensor) -> Tensor: ...


def last_hidden(network: Network) -> int | None:
    """The ReLU's activation where a network ends in Linear, ReLU, Linear; None where it ends in another way."""
    nodes, at = network.nodes, len(network.nodes) - 1
    if at < 2 or nodes[at].inputs != (at,) or nodes[at - 1].inputs != (at - 1,):
        return None
    kinds = (
        isinstance(nodes[at - 2].step, Dense),
        isinstance(nodes[at - 1].step, Relu),
        isinstance(nodes[at].step, Dense),
    )
    return at if all(kinds) else None


def unstable(lower: Tensor, upper: Tensor) -> Tensor:
    """The neurons whose ReLU is neither a line nor zero."""
    return (lower < 0) & (upper > 0)


def prove(analysis: Analysis, at: int, objective: Tensor) -> Tensor:
    """Lower bounds (N, R) of the objective (N, R, K), a row of zeros or the difference of two outputs each.

    at: the last hidden ReLU, which the analysis has come to. A bound is positive as soon as that is proven; where it is
    not, the image's bounds are DeepPoly's, or larger. -inf for a row of zeros.
    """
    (before,) = analysis.network.nodes[at - 1].inputs
    last = analysis.network.nodes[at].step
    assert isinstance(last, Dense)
    lower, upper = analysis.bounds[before]
    asked = unstable(lower, upper)
    above = upper < -lower  # the upper bound is nearer to zero
    rows = objective.any(2)
    least = objective.new_full(rows.shape, -torch.inf)

    def open_images() -> Tensor:
        return (rows & ~(least > 0)).any(1)

    def ask(neurons: Tensor, *, nearer: bool) -> None:
        of_open = neurons & open_images()[:, None, None, None]
        analysis.ask(before, (of_open & (above ^ nearer), of_open & ~(above ^ nearer)))

    def ask_margins(images: Tensor) -> None:
        if images.any():
            analysis.finish(at)
            found = analysis.minimum(objective, rows & ~(least > 0) & images[:, None])
            torch.maximum(least, found, out=least)

    ask_margins(asked.flatten(1).sum(1) <= _FEW)
    # What an unstable neuron costs a margin at most: the height of its triangle, where the margin falls with it.
    height = torch.where(asked, -lower * upper / (upper - lower), torch.zeros_like(lower)).flatten(1)
    weight = (objective @ last.weight).clamp(max=0).neg().amax(1)
    heaviest = (height * weight).topk(min(_FIRST, height.shape[1]), dim=1).indices
    first = asked & torch.zeros_like(asked.flatten(1)).scatter(1, heaviest, True).reshape(asked.shape)
    ask(first, nearer=True)
    ask_margins(open_images())
    ask(asked & ~first, nearer=True)
    # Of a dead neuron nothing else matters; of one that is not, how large it can be matters to rounding.
    ask(asked & (analysis.bounds[before][1] > 0), nearer=False)
    analysis.finish(at)
    ask_margins(open_images())
    return least
