"""The certified radius of each image, by bisection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softadv._ranges import UNIT, Clip, check_count, check_radius
from softadv.certify.api import Rounding, certify
from softadv.certify.domains import Domain

_MOST_HALVINGS = 60  # the bits of a float64, and more


def certified_radius(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    upper: float,
    halvings: int = 16,
    domain: Domain = "deeppoly",
    rounding: Rounding = "sound",
    clip: Clip = UNIT,
) -> Tensor:
    """The largest L-infinity radius proven for each image, float64 (N,) on the device of x.

    softadv.certify has verified each returned radius, and refused one that is at most upper / 2**halvings larger,
    except at upper itself. 0: only the image itself is verified. NaN: not even that.

    x: float (N, ...) within clip. y: int64 (N,). upper: the largest radius that is tried, in the units of x.
    halvings: how often the interval is halved, 0 to 60; each step certifies all images in one batch, each with its
    own radius. domain, rounding, clip: as in softadv.certify, whose errors are raised here, too.
    """
    upper = check_radius(upper, key="upper", clip=clip)
    halvings = check_count(halvings, key="halvings", most=_MOST_HALVINGS)
    proven = torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    refused = torch.full_like(proven, upper)

    def ask(images: Tensor, radii: Tensor) -> None:
        if not len(images):
            return
        found = certify(
            model, x[images], y[images], eps=radii.reshape(-1, *(1,) * (x.ndim - 1)), domain=domain,
            rounding=rounding, clip=clip, margins=False,
        ).verified.to(x.device)  # fmt: skip
        proven[images[found]] = radii[found]
        refused[images[~found]] = radii[~found]

    everything = torch.arange(len(x), device=x.device)
    if not len(x):
        return proven
    ask(everything, torch.zeros_like(proven))
    open_ = everything[proven == 0]
    ask(open_, refused[open_])
    for _ in range(halvings):
        open_ = everything[proven < refused]
        ask(open_, (proven[open_] + refused[open_]) / 2)
    return proven
