"""Whether an epoch's training ended in NaN or infinity, and at which step: asked once, when the epoch is over.

The losses stay on their device until then, since asking a GPU at every step would make it wait for every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from softadv.errors import DivergedError, NotFiniteError


def divergence(
    losses: Tensor, total: Tensor, weights: Mapping[str, Tensor], *, epoch: int, steps: int
) -> DivergedError | None:
    """The error of an epoch that diverged, or None, for which a GPU is waited for once.

    losses: of the steps so far, float (steps,). total: the sum that the epoch reports, float (). weights: what was
    trained, by name. All on one device. epoch: its number, from 1. steps: how many it has.
    """
    finite = {name: value.isfinite().all() for name, value in weights.items() if value.is_floating_point()}
    if torch.stack([losses.isfinite().all(), total.isfinite(), *finite.values()]).all():
        return None
    last = len(losses)
    bad = (~losses.isfinite()).nonzero().flatten().tolist()
    if bad:
        return DivergedError(f"the loss is {float(losses[bad[0]])}", epoch=epoch, step=bad[0] + 1, steps=steps)
    for name, is_finite in finite.items():
        if not is_finite:
            return DivergedError(f"{name} is NaN or infinite afterwards", epoch=epoch, step=last, steps=steps)
    return DivergedError(f"the sum of the losses is {float(total)}", epoch=epoch, step=last, steps=steps)


@contextmanager
def diverging(epoch: int) -> Iterator[None]:
    """Numbers that are not finite, whoever meets them in an epoch's work, are a divergence of its training."""
    try:
        yield
    except DivergedError:
        raise
    except NotFiniteError as error:
        raise DivergedError(str(error), epoch=epoch) from error
