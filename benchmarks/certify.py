"""How fast certification is: the paper's networks after a little adversarial training, and larger ones.

Contenders take turns in one process. Useful arithmetic is what back-substitution of all neurons that feed
a ReLU takes when receptive fields are exploited; the share is of the machine's float32 matrix product.

--against REV compares with a revision of softadv instead (against.py).
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections import defaultdict
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.against import compare
from benchmarks.measure import matrix_rate, peak_memory, print_machine, take_turns
from softadv import Dataset, certify, conv_small, count_neurons, load_dataset
from softadv.certify import DOMAINS, Rounding
from softadv.certify import backsub_cpp as native
from softadv.certify.backsub_cpp import CompiledBackSubstitution
from softadv.certify.bounds import BackSubstitution, Relaxed, Sides, lower_bounds
from softadv.certify.graph import Network
from softadv.certify.linear_forms import Patches
from softadv.certify.operators import Conv, Dense, Interval, Relu
from softadv.certify.rounding import box
from softadv.certify.trace import read_network
from softadv.data import find_dataset
from softadv.experiments.spec import Trial
from softadv.experiments.train_config import train_config
from softadv.models import load_model
from softadv.training.loop import train_epoch
from softadv.training.state import new_state

ROUNDS = 3
IMAGES = 2048
PLAIN_IMAGES = 256  # of the plain contender, which is slower
# Dataset: eps, alpha, steps, epochs and batch size of the training before.
SETTINGS = {"mnist": (0.1, 0.01, 20, 2, 128), "cifar10": (2 / 255, 0.001, 15, 2, 128)}
WITHOUT_DATA = {"digits": (0.1, 0.01, 20, 4, 32)}
# Larger networks need no training for their speed to be known, but a little makes ReLUs stable as they are in use.
CURVE = (("conv_small", 256), ("convmed", 64), ("convbig", 4))
CURVE_TRAINING = 4096
BUDGET = 2**28


def main() -> None:
    """Print every table, or the comparison with a revision."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="REV", help="compare with this revision, as git names it")
    revision = parser.parse_args().against
    if revision is not None:
        compare(revision)
        return
    print_machine()
    there = {name: setting for name, setting in SETTINGS.items() if find_dataset(name) is not None}
    for dataset, (eps, alpha, steps, epochs, batch_size) in (there or WITHOUT_DATA).items():
        trial = Trial(
            setting="benchmark", dataset=dataset, method="adversarial", seed=0, eps=eps, alpha=alpha, steps=steps,
            epochs=epochs, batch_size=batch_size,
        )  # fmt: skip
        data = load_dataset(dataset)
        model = trained(trial, data)
        x, y = data.test_x[:IMAGES], data.test_y[:IMAGES]
        print(f"\n{dataset} network after {epochs} epochs of adversarial training, eps {eps:.4g}, {len(x)} test images")
        print_speeds(model, x, y, eps=eps)
        print_stages(model, x[:PLAIN_IMAGES], y[:PLAIN_IMAGES], eps=eps)
    print_curve(load_dataset("mnist" if "mnist" in there else "digits"))
    if not torch.cuda.is_available():
        print("\nGPU: not measured, there is none")


def trained(trial: Trial, data: Dataset) -> nn.Module:
    """The trial's network after its training, without evaluation or a run folder."""
    config = train_config(trial)
    state = new_state(conv_small(trial.dataset, seed=trial.seed), config)
    for epoch in range(1, trial.epochs + 1):
        train_epoch(
            state, data.train_x, data.train_y, config=config, epoch=epoch,
            on_progress=lambda what, done: None,
        )  # fmt: skip
    return state.model


def print_speeds(model: nn.Module, x: Tensor, y: Tensor, *, eps: float) -> None:
    """Images/s of DeepPoly in each mode, against the same without the kernel, and of the other domains."""
    modes: list[tuple[Rounding, bool]] = [("none", True), ("sound", True), ("sound", False)]
    contenders = {
        f"DeepPoly, rounding {rounding}, {'margins for all' if margins else 'verdicts only'}": partial(
            certify, model, x, y, eps=eps, rounding=rounding, margins=margins
        )
        for rounding, margins in modes
    }
    plain = "DeepPoly, plain PyTorch, rounding none, margins for all"
    images = dict.fromkeys(contenders, len(x)) | {plain: min(PLAIN_IMAGES, len(x))}
    contenders[plain] = partial(_without_kernel, model, x[:PLAIN_IMAGES], y[:PLAIN_IMAGES], eps=eps)
    for domain in DOMAINS[:2]:
        contenders[f"{domain}, rounding sound, margins for all"] = partial(certify, model, x, y, eps=eps, domain=domain)
    seconds = take_turns(contenders, rounds=ROUNDS)
    speeds = {name: images.get(name, len(x)) / seconds[name] for name in contenders}
    rate, work = matrix_rate(), useful_flops(read_network(model, tuple(x.shape[1:])))
    for name, contender in contenders.items():
        line = f"{name}: {speeds[name]:,.0f} images/s, {speeds[name] / speeds[plain]:.1f} times plain PyTorch"
        if "box" not in name:
            line += f", {speeds[name] * work / 1e9 / rate:.0%} of the matrix-product rate"
        print(f"  {line}, {peak_memory(contender) / 2**20:,.0f} MiB")
    verified = {mode: int(certify(model, x, y, eps=eps, rounding=mode).verified.sum()) for mode in ("none", "sound")}
    print(f"  verified: {verified['none']} of {len(x)} with rounding none, {verified['sound']} sound")


def _without_kernel(model: nn.Module, x: Tensor, y: Tensor, *, eps: float) -> None:
    with native.disabled():
        certify(model, x, y, eps=eps, rounding="none")


def print_stages(model: nn.Module, x: Tensor, y: Tensor, *, eps: float) -> None:
    """Where the time of a sound analysis goes."""
    if not native.available():
        print("  stages: not measured, there is no compiled kernel")
        return
    network = read_network(model, tuple(x.shape[1:]))
    stages: defaultdict[str, float] = defaultdict(float)
    backsub = _timed(stages)
    started = time.perf_counter()
    with torch.no_grad():
        lower, upper = box(x, eps=eps, clip=(0.0, 1.0), dtype=x.dtype, sound=True)
        identity = torch.eye(network.classes)
        lower_bounds(
            network, (lower, upper), identity[y][:, None, :] - identity, domain="deeppoly",
            rounding=backsub.arithmetic(network, x.dtype), backsub=backsub, scores=model(x),
        )  # fmt: skip
    total = time.perf_counter() - started
    stages["intervals, lines and rounding errors"] = total - sum(stages.values())
    print("  stages: " + ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in stages.items()))


def _timed(stages: defaultdict[str, float]) -> type[BackSubstitution]:
    """The compiled back-substitution, noting the seconds of each call."""

    class Timed(CompiledBackSubstitution):
        @staticmethod
        def bounds(relaxed: Relaxed, activation: int, asked: Sides, known: Interval) -> Interval:
            started = time.perf_counter()
            found = CompiledBackSubstitution.bounds(relaxed, activation, asked, known)
            stages[f"bounds of {relaxed.network.nodes[activation - 1].name}"] += time.perf_counter() - started
            return found

        @staticmethod
        def minimum(relaxed: Relaxed, forms: Tensor, asked: Tensor) -> Tensor:
            started = time.perf_counter()
            found = CompiledBackSubstitution.minimum(relaxed, forms, asked)
            stages["margins"] += time.perf_counter() - started
            return found

    return Timed


def print_curve(data: Dataset) -> None:
    """Images/s against neurons, within one memory budget."""
    print(f"\nlarger networks on {data.name}, eps 0.1, sound, margins for all, budget {BUDGET / 2**20:.0f} MiB")
    rate = matrix_rate()
    for name, images in CURVE:
        model = briefly_trained(load_model(name, data, seed=0), data)
        x, y = data.test_x[:images], data.test_y[:images]
        ask = partial(certify, model, x, y, eps=0.1, memory_budget=BUDGET)
        seconds = take_turns({name: ask}, rounds=1)[name]
        shape = (x.shape[1], x.shape[2], x.shape[3])
        share = len(x) / seconds * useful_flops(read_network(model, shape)) / 1e9 / rate
        print(
            f"  {name}, {count_neurons(model, shape):,} neurons: {len(x) / seconds:,.2f} images/s, {share:.0%} of the "
            f"matrix-product rate, {peak_memory(ask) / 2**20:,.0f} MiB"
        )


def briefly_trained(model: nn.Module, data: Dataset) -> nn.Module:
    """A model after one epoch of natural training on a few images."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for start in range(0, min(CURVE_TRAINING, len(data.train_x)), 128):
        x, y = data.train_x[start : start + 128], data.train_y[start : start + 128]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.requires_grad_(False)


def useful_flops(network: Network) -> int:
    """Floating-point operations of one image's verdict, back-substituting every neuron that feeds a ReLU.

    Two for each product of a coefficient and a weight inside a neuron's receptive field. The first
    layer's bounds are intervals; the forms themselves cost nothing.
    """
    asked = [node.inputs[0] for node in network.nodes if isinstance(node.step, Relu)]
    total = _flops_from(network, len(network.nodes), network.classes)
    for at in asked[1:]:
        channels, height, width = network.shapes[at]
        total += _flops_from(network, at, 2 * channels * height * width)
    return total


def _flops_from(network: Network, activation: int, rows: int) -> int:
    patches = Patches.neurons(*network.shapes[activation][1:])
    total = 0
    for at, node in network.backwards(start=activation):
        if isinstance(node.step, Conv | Dense) and at != activation:  # the neuron's own weights are its form
            total += 2 * rows * patches.size[0] * patches.size[1] * node.step.weight.numel()
        patches = node.step.input_patches(patches)
    return total


if __name__ == "__main__":
    main()
