"""The state that an epoch of training changes: the weights, the optimizer's state and the partition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from softadv.kernels import pgd as pgd_kernel
from softadv.kernels import weight_gradients
from softadv.kernels.cuda_graphs import Replays
from softadv.training.config import TrainConfig
from softadv.training.known_broken import Examples
from softadv.training.partition import Partition


@dataclass
class TrainState:
    """A model in training, on its device.

    partition: the last split of the training images; None before the first. examples: the last epoch's, of methods that
    certify; a checkpoint omits them, since the splits are the same without.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    partition: Partition | None = None
    replays: Replays = field(default_factory=Replays)  # of attacks and updates, on a GPU
    examples: Examples | None = None


def new_state(model: nn.Module, config: TrainConfig) -> TrainState:
    """The state at the start of training, with a fresh optimizer, on the device where the model is."""
    device = next(model.parameters()).device
    if device.type == "cpu":  # compile the kernels before time is measured
        pgd_kernel.available()
        weight_gradients.available()
    return TrainState(model, new_optimizer(model.parameters(), config), replays=Replays.on(device))


def new_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """The config's optimizer: on a GPU, one whose steps can be recorded; on a CPU, the fused one where possible."""
    own = list(parameters)
    if config.optimizer == "adam":
        # On a CPU the fused step ignores strides, so that it needs contiguous parameters.
        in_order = all(parameter.device.type == "cpu" and parameter.is_contiguous() for parameter in own)
        return torch.optim.Adam(
            own,
            lr=config.lr,
            weight_decay=config.weight_decay,
            capturable=own[0].is_cuda,
            fused=True if in_order else None,
        )
    return torch.optim.SGD(own, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
