"""softadv's PGD against Torchattacks' PGD: same model, same batch, same start, taking turns."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torchattacks
from torch import Tensor, nn

from benchmarks.measure import matrix_rate, print_machine, take_turns
from softadv import conv_small, pgd
from softadv.attacks import PGD
from softadv.experiments.environment import pick_device
from softadv.kernels import build as compiled
from softadv.kernels import pgd as compiled_attack
from softadv.kernels.cuda_graphs import Replays
from softadv.models import IMAGE_SHAPES

BATCHES = (128, 512)
ROUNDS = 9
# Dataset: eps, alpha, steps of the paper's trials.
SETTINGS = {"mnist": (0.1, 0.01, 20), "cifar10": (8 / 255, 0.005, 15)}


def main() -> None:
    """Print image-steps a second, the ratios and the share of the matrix-product rate, for both networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda (default: cpu)")
    device = pick_device(parser.parse_args().device)
    print_machine(device)
    reason = compiled_attack.missing() if device.type == "cpu" else None
    if reason is not None:
        print(f"softadv's compiled attack is not measured: {reason}")
    for dataset in SETTINGS:
        for batch in BATCHES:
            compare_attacks(dataset, batch=batch, device=device)


def compare_attacks(dataset: str, *, batch: int, device: torch.device, rounds: int = ROUNDS) -> None:
    """Print the rates of Torchattacks and of softadv for one network."""
    eps, alpha, steps = SETTINGS[dataset]
    model = conv_small(dataset, seed=0).to(device)
    work = flops_of_a_step(model, torch.zeros(1, *IMAGE_SHAPES[dataset], device=device))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, *IMAGE_SHAPES[dataset], generator=generator).to(device)
    y = torch.randint(10, (batch,), generator=generator).to(device)
    ours = partial(pgd, model, x, y, eps=eps, alpha=alpha, steps=steps, random_start=False)
    contenders: dict[str, Callable[[], object]] = {
        "Torchattacks": partial(torchattacks.PGD(model, eps, alpha, steps, random_start=False), x, y),
        "softadv in PyTorch": partial(_in_pytorch, ours),
    }
    if device.type == "cpu" and compiled_attack.available():
        contenders["softadv compiled"] = ours
    if device.type == "cuda":
        climb = partial(PGD(alpha=alpha, steps=steps, random_start=False).climb, model, eps=eps)
        contenders["softadv as a CUDA graph"] = partial(Replays.on(device).run, "attack", climb, x, y, x.clone())
    seconds = take_turns(contenders, rounds=rounds, device=device)
    whole = matrix_rate(device)
    print(f"PGD on the {dataset} network, batch {batch}, {work / 1e6:.2f} MFLOP for a step of one image")
    for name, value in seconds.items():
        rate = batch * steps / value
        print(
            f"  {name}: {rate:,.0f} image-steps/s, {seconds['Torchattacks'] / value:.2f} times Torchattacks, "
            f"{rate * work / 1e9 / whole:.0%} of the matrix-product rate ({whole:.0f} GFLOP/s)"
        )


def _in_pytorch(attack: Callable[[], object]) -> None:
    with compiled.disabled():
        attack()


def flops_of_a_step(model: nn.Module, image: Tensor) -> int:
    """Floating-point operations of a step of PGD on one image: all products, forwards and back to the input."""
    products = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal products
        products += output.numel() * layer.get_parameter("weight")[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model(image)
    for hook in hooks:
        hook.remove()
    return 2 * 2 * products  # a product and a sum; two directions


if __name__ == "__main__":
    main()
