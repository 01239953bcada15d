"""The paper's network (table 1), for each dataset, and the layer that normalises its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softadv.errors import SoftadvError
from softadv.modes import in_eval_mode

CLASSES = 10

# Channels, height, width.
IMAGE_SHAPES: dict[str, tuple[int, int, int]] = {
    "digits": (1, 28, 28),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}

# Per-channel mean and standard deviation of the training images, in [0, 1]. softadv computed
# them from the data named in each dataset's fingerprint; four digits are plenty.
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3054,), (0.3238,)),
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


class Normalize(nn.Module):
    """(x - mean) / std per channel, as a first layer, so that a model always takes [0, 1] images."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """mean and std: one number per channel; std must be positive (else SoftadvError)."""
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise SoftadvError(f"Normalize: needs one positive std per mean, got mean {mean} and std {std}")
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W)."""
        return (x - self.mean[:, None, None]) / self.std[:, None, None]


def conv_small(dataset: str, *, normalize: bool = False, seed: int | None = None) -> nn.Sequential:
    """The paper's network for a dataset, freshly initialised, float32, on the CPU.

    Table 1 of the paper: convolutions of 16 and 32 filters 4x4, then linear layers of 100 and 10.
    The table's neuron counts (3,614 and 4,862) fix what it leaves out: stride 2 and no padding.

    dataset: "digits", "mnist" (1x28x28 images) or "cifar10" (3x32x32).
    normalize: put a Normalize layer with the dataset's statistics first.
    seed: seed of the initialisation; the global generator is left as it was. None draws from it.
    Raises SoftadvError for another dataset.
    """
    if dataset not in IMAGE_SHAPES:
        raise SoftadvError(f"dataset: unknown name {dataset!r}, expected one of {', '.join(IMAGE_SHAPES)}")
    channels, height, width = IMAGE_SHAPES[dataset]
    for _ in range(2):
        height, width = (height - 4) // 2 + 1, (width - 4) // 2 + 1
    # The generator is forked so that building a model never disturbs the caller's random numbers.
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs too
        return nn.Sequential(
            *([Normalize(*STATISTICS[dataset])] if normalize else []),
            nn.Conv2d(channels, 16, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * height * width, 100),
            nn.ReLU(),
            nn.Linear(100, CLASSES),
        )


def is_plain_sequential(model: nn.Module) -> bool:
    """Whether a model is a chain of its layers: a subclass of nn.Sequential may compute something else."""
    return isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward


@in_eval_mode
def count_neurons(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Outputs of all convolutional and linear layers for one image: the count of the paper's table 1."""
    total = 0

    def add(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        with torch.no_grad():
            parameter = next(model.parameters())
            model(torch.zeros(1, *image_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    return total
