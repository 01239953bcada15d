"""Stop at the proof: where only verdicts are needed, refine the last hidden layer only as far as a proof needs.

Any sound bounds of neurons give a sound relaxation (rounding.py); a neuron that is not refined keeps its interval. So
neurons are refined in the order of their weight in the margins, first the bound nearer to zero, and the margins are
tried in between. Images that are not proven by then get the rest of DeepPoly's pass, and with it DeepPoly's bounds.
A pass that stops early can prove an image that the whole pass does not: a lower line is chosen by its area, and with
narrower bounds that choice can be worse.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from softadv.certify.graph import Network
from softadv.certify.operators import Dense, Interval, Relu, unstable

# Neurons, as measured on the paper's networks: with at most _FEW to refine, the margins are tried first; _FIRST of
# them are refined in the first step.
_FEW, _FIRST = 16, 32


class RefinableAnalysis(Protocol):
    """The part of bounds.Analysis that is used here."""

    network: Network
    bounds: list[Interval]

    def ask(self, at: int, sides: tuple[Tensor, Tensor]) -> None: ...

    def finish(self, hidden: int) -> None: ...

    def minimum(self, objective: Tensor, asked: Tensor) -> Tensor: ...


def last_hidden(network: Network) -> int | None:
    """The number of the ReLU's activation if a network ends in Linear, ReLU, Linear; else None."""
    nodes, at = network.nodes, len(network.nodes) - 1
    if at < 2 or nodes[at].inputs != (at,) or nodes[at - 1].inputs != (at - 1,):
        return None
    kinds = (
        isinstance(nodes[at - 2].step, Dense),
        isinstance(nodes[at - 1].step, Relu),
        isinstance(nodes[at].step, Dense),
    )
    return at if all(kinds) else None


def prove(analysis: RefinableAnalysis, at: int, objective: Tensor, *, above: float) -> Tensor:
    """Lower bounds (N, R) of the objective (N, R, K), a row of zeros or the difference of two outputs each.

    at: the last hidden ReLU; the analysis has just reached it. A row is proven by any bound above `above`. An image
    that is not proven has DeepPoly's bounds, or larger ones. -inf for a row of zeros.
    """
    (before,) = analysis.network.nodes[at - 1].inputs
    last = analysis.network.nodes[at].step
    assert isinstance(last, Dense)
    lower, upper = analysis.bounds[before]
    asked = unstable(lower, upper)
    upper_is_nearer = upper < -lower  # to zero
    rows = objective.any(2)
    least = objective.new_full(rows.shape, -torch.inf)

    def open_images() -> Tensor:
        return (rows & ~(least > above)).any(1)

    def ask(neurons: Tensor, *, nearer: bool) -> None:
        of_open = neurons & open_images()[:, None, None, None]
        sides = upper_is_nearer ^ nearer
        analysis.ask(before, (of_open & sides, of_open & ~sides))

    def ask_margins(images: Tensor) -> None:
        if images.any():
            analysis.finish(at)
            found = analysis.minimum(objective, rows & ~(least > above) & images[:, None])
            torch.maximum(least, found, out=least)

    ask_margins(asked.flatten(1).sum(1) <= _FEW)
    # The most that an unstable neuron can cost a margin: the height of its triangle, if its coefficient is negative.
    height = torch.where(asked, -lower * upper / (upper - lower), torch.zeros_like(lower)).flatten(1)
    weight = (objective @ last.weight).clamp(max=0).neg().amax(1)
    heaviest = (height * weight).topk(min(_FIRST, height.shape[1]), dim=1).indices
    first = asked & torch.zeros_like(asked.flatten(1)).scatter(1, heaviest, True).reshape(asked.shape)
    ask(first, nearer=True)
    ask_margins(open_images())
    ask(asked & ~first, nearer=True)
    # A dead neuron needs no second bound. For the others the upper bound enters the rounding errors.
    ask(asked & (analysis.bounds[before][1] > 0), nearer=False)
    analysis.finish(at)
    ask_margins(open_images())
    return least
