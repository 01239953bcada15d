"""What TRADES and friendly adversarial training gain by the compiled kernels: their attacks, and whole epochs.

Each against the same work in PyTorch: by autograd, as one writes it, and with the gradients of kernels/input_gradients.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.attack import SETTINGS
from benchmarks.measure import print_machine, take_turns
from softadv import PGD, conv_small, load_dataset
from softadv.attacks import Attack
from softadv.kernels import build
from softadv.training.config import TrainConfig
from softadv.training.loop import train_epoch
from softadv.training.methods import Adversarial, Fat, Method, Trades
from softadv.training.state import TrainState, new_state

RIVALS: tuple[Method, ...] = (Trades(), Fat(tau=0), Fat(tau=2))
BATCH = 128


def main() -> None:
    """Print milliseconds of a batch's attack and seconds of an epoch, and how many times the kernels' that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1280, help="training images of a measured epoch (default: 1280)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender (default: 3)")
    arguments = parser.parse_args()
    print_machine()
    for dataset, (eps, alpha, steps) in SETTINGS.items():
        data = load_dataset(dataset).first(train=arguments.images)
        images = data.train_x, data.train_y
        plain = TrainConfig(method=Adversarial(), attack=PGD(steps=steps, alpha=alpha), eps=eps, epochs=9)
        state = new_state(conv_small(dataset, seed=0), plain)
        for epoch in range(1, 5):  # so that some images are classified correctly
            _epoch(state, images, plain, epoch)
        print(f"{dataset}, batches of {BATCH}, {len(data.train_x):,} images an epoch")
        for method in RIVALS:
            config = TrainConfig(method=method, attack=plain.attack, eps=eps, epochs=9)
            attack = partial(_attack, config.train_attack, state.model, images, eps)
            compare(f"{method}: the attack of a batch", attack, unit="ms", rounds=arguments.rounds)
            epoch_of = partial(_again, state, images, config)
            compare(f"{method}: an epoch", epoch_of, unit="s", rounds=arguments.rounds)


def compare(what: str, work: Callable[..., object], *, unit: str, rounds: int) -> None:
    """Print how long some work takes with the kernels and without, in turns."""

    def by_hand() -> None:
        with build.disabled():
            work(wrap=False)

    contenders = {"kernels": partial(work, wrap=False), "autograd": partial(work, wrap=True), "by hand": by_hand}
    seconds = take_turns(contenders, rounds=rounds)
    scale = 1000 if unit == "ms" else 1
    shown = ", ".join(
        f"{name} {scale * value:.2f} {unit} ({value / seconds['kernels']:.2f} times)" for name, value in seconds.items()
    )
    print(f"  {what}: {shown}")


class Wrapped(nn.Module):
    """A model that no kernel looks into, so that autograd differentiates it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """As the model's."""
        scores: Tensor = self.model(x)
        return scores


def _attack(attack: Attack, model: nn.Module, images: tuple[Tensor, Tensor], eps: float, *, wrap: bool) -> None:
    x, y = images
    attack(Wrapped(model) if wrap else model, x[:BATCH], y[:BATCH], eps=eps, generator=torch.Generator().manual_seed(0))


def _epoch(state: TrainState, images: tuple[Tensor, Tensor], config: TrainConfig, epoch: int) -> None:
    train_epoch(state, *images, config=config, epoch=epoch, on_progress=lambda what, done: None)


def _again(state: TrainState, images: tuple[Tensor, Tensor], config: TrainConfig, *, wrap: bool) -> None:
    model = copy.deepcopy(state.model)
    _epoch(new_state(Wrapped(model) if wrap else model, config), images, config, 5)


if __name__ == "__main__":
    main()
