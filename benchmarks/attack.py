"""softadv's PGD against Torchattacks' PGD: same model, same batch, same start, taking turns."""

from __future__ import annotations

from functools import partial

import torch
import torchattacks

from benchmarks.measure import print_machine, take_turns
from softadv import conv_small, pgd
from softadv.models import IMAGE_SHAPES

BATCH = 128
ROUNDS = 15
# Dataset: eps, alpha, steps of the paper's trials.
SETTINGS = {"mnist": (0.1, 0.01, 20), "cifar10": (8 / 255, 0.005, 15)}


def main() -> None:
    """Print image-steps a second and the ratio, for both of the paper's networks."""
    print_machine()
    for dataset, (eps, alpha, steps) in SETTINGS.items():
        generator = torch.Generator().manual_seed(0)
        model = conv_small(dataset, seed=0)
        x = torch.rand(BATCH, *IMAGE_SHAPES[dataset], generator=generator)
        y = torch.randint(10, (BATCH,), generator=generator)
        theirs = torchattacks.PGD(model, eps, alpha, steps, random_start=False)
        ours = partial(pgd, model, x, y, eps=eps, alpha=alpha, steps=steps, random_start=False)
        seconds = take_turns({"Torchattacks": partial(theirs, x, y), "softadv": ours}, rounds=ROUNDS)
        rates = ", ".join(f"{name} {BATCH * steps / value:,.0f}" for name, value in seconds.items())
        ratio = seconds["Torchattacks"] / seconds["softadv"]
        print(f"PGD on the {dataset} network, batch {BATCH}: image-steps/s {rates}; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
