"""The mode of a model: eval to attack, evaluate and certify, training to update; afterwards it is as it was.

In training mode a batch norm moves its statistics and a dropout draws random numbers, so that a model asked in the
wrong mode is changed, or is another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from torch import nn

_F = TypeVar("_F", bound=Callable[..., Any])


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode for a while, and each of its layers back into the mode it was in, also on an error."""
    with _mode(model, training=False):
        yield


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in training mode for a while, and each of its layers back into the mode it was in."""
    with _mode(model, training=True):
        yield


def in_eval_mode(function: _F) -> _F:
    """Let a function whose first argument is a model find it in eval mode."""

    @functools.wraps(function)
    def in_mode(model: nn.Module, *arguments: Any, **settings: Any) -> Any:
        with eval_mode(model):
            return function(model, *arguments, **settings)

    return cast(_F, in_mode)


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        yield
    finally:
        for module, mode in before:
            module.training = mode
