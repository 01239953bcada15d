"""Callbacks for softadv.train that pass each epoch's numbers to a logger. The loggers are imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from softadv.errors import SoftadvError


class Logger(Protocol):
    """Anything with a method log(dict, step), as a run of wandb or trackio has it."""

    def log(self, numbers: dict[str, float], step: int) -> Any: ...


class Epoch(Protocol):
    """The argument of a callback: softadv's record of an epoch."""

    epoch: int

    def numbers(self) -> dict[str, float]: ...


def log_to(logger: Logger | Callable[..., Any]) -> Callable[[Epoch], None]:
    """A callback that calls `logger.log(numbers, step=epoch)` after each epoch.

    logger: a run of wandb or trackio, or any object with such a method; or the function itself, as mlflow.log_metrics.
    Raises SoftadvError for anything else.
    """
    function: Any = getattr(logger, "log", logger)
    if not callable(function):
        raise SoftadvError(f"loggers.log_to: expected a logger or a function (dict, step), got {type(logger).__name__}")

    def log(epoch: Epoch) -> None:
        function(epoch.numbers(), step=epoch.epoch)

    return log


def tensorboard(folder: Path | str) -> Callable[[Epoch], None]:
    """A callback that writes TensorBoard event files into a folder.

    Raises SoftadvError where TensorBoard is not installed.
    """
    try:
        writer_of = importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise SoftadvError("loggers.tensorboard: TensorBoard is not installed; pip install tensorboard") from error
    writer = writer_of(str(folder))

    def log(epoch: Epoch) -> None:
        for name, value in epoch.numbers().items():
            writer.add_scalar(name, value, epoch.epoch)
        writer.flush()

    return log
