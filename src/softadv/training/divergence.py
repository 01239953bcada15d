"""Detect NaN or infinity in an epoch's training, and the step where it began; once, at the end of the epoch.

The losses stay on their device until then, since reading them at every step would stall a GPU at every step.
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
    """The error of an epoch that diverged, or None. Waits for a GPU once.

    losses: of the steps so far, float (steps,). total: the summed loss that the epoch reports, float (). weights: the
    trained tensors, by name. All on one device. epoch: its number, from 1. steps: the epoch's number of steps.
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
    """Turn a NotFiniteError anywhere in an epoch into a DivergedError of that epoch."""
    try:
        yield
    except DivergedError:
        raise
    except NotFiniteError as error:
        raise DivergedError(str(error), epoch=epoch) from error
