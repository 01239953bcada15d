"""Set a model's mode and restore it: eval for attacks, evaluation and certification; training for updates.

In training mode batch norm updates its statistics and dropout draws random numbers, so the wrong mode changes the model
or its outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from torch import nn

from softadv._ranges import shown
from softadv.errors import SoftadvError

_F = TypeVar("_F", bound=Callable[..., Any])


def check_module(model: object) -> None:
    """Raise SoftadvError unless a model is a module."""
    if not isinstance(model, nn.Module):
        raise SoftadvError(f"model: expected a torch.nn.Module, got {shown(model)}; softadv.load_model makes one")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode within the block; afterwards, also on an error, restore the mode of each layer."""
    with _mode(model, training=False):
        yield


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in training mode within the block; afterwards restore the mode of each layer."""
    with _mode(model, training=True):
        yield


def in_eval_mode(function: _F) -> _F:
    """A decorator: run a function with its first argument, a model, in eval mode."""

    @functools.wraps(function)
    def in_mode(model: nn.Module, *arguments: Any, **settings: Any) -> Any:
        with eval_mode(model):
            return function(model, *arguments, **settings)

    return cast(_F, in_mode)


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    check_module(model)
    before = [(module, module.training) for module in model.modules()]
    try:
        try:
            model.train(training)
        except NotImplementedError as error:  # what torch.export makes has the mode it was made in
            kind, wanted = type(model).__name__, "training" if training else "eval"
            raise SoftadvError(
                f"model: {kind} cannot be put in {wanted} mode; give the model that it was made of"
            ) from error
        yield
    finally:
        for module, mode in before:
            module.training = mode
