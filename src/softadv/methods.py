"""A short name for the package of training methods, training/methods: softadv.methods.Soft."""

from __future__ import annotations

from typing import Any

from softadv.training import methods as _methods
from softadv.training.methods import *  # noqa: F403 (the very names, and no list of them to keep)
from softadv.training.methods import __all__  # noqa: F401 (for listings)


def __getattr__(name: str) -> Any:
    # Its files, too: softadv.methods.soft.
    return getattr(_methods, name)
