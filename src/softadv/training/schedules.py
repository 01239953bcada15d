"""The learning rate over epochs."""

from __future__ import annotations

import math

from softadv.training.config import TrainConfig


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch, counted from 1. A constant schedule returns config.lr itself, unrounded."""
    match config.schedule:
        case "constant":
            return config.lr
        case "cosine":
            return config.lr * (1 + math.cos(math.pi * (epoch - 1) / config.epochs)) / 2
        case "steps":
            passed = sum(epoch > after for after in config.schedule_epochs)
            return config.lr * config.schedule_factor**passed
