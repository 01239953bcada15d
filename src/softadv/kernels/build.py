"""Compiled kernels: load a C++ file as a library and call its functions, or say in one line why that is impossible.

A kernel is compiled for this machine when it is first needed, by the C++ compiler that is found (cache.py).
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from softadv.errors import SoftadvError, SoftadvWarning
from softadv.kernels import cache as kernel_cache
from softadv.kernels import threads
from softadv.kernels.cache import LoadedLibrary

# As measured (docs/measured.md), on the MNIST network.
_SLOWER = "certification takes about 8 times as long, an attack about 3 times"

_enabled: ContextVar[bool] = ContextVar("softadv_compiled", default=True)


def available(source: Path) -> bool:
    """Whether a kernel is used on the CPU. Warns once, with the reason, where it should be and cannot be loaded."""
    if not _enabled.get():
        return False
    found = load(source)
    if isinstance(found, str):
        _fall_back(found)
    return not isinstance(found, str)


def missing(source: Path) -> str | None:
    """Why a kernel cannot be loaded, or None where it can."""
    found = load(source)
    return found if isinstance(found, str) else None


@contextmanager
def disabled() -> Iterator[None]:
    """Compute in PyTorch even where compiled kernels are available, for comparisons."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


@cache
def load(source: Path) -> LoadedLibrary | str:
    """The loaded library of a kernel, or one line that says why there is none.

    source: the kernel's main file; its headers are the .h files in the same folder.
    """
    try:
        return kernel_cache.load_library(source)
    except (SoftadvError, OSError) as error:
        return " ".join(str(error).split())


def call_kernel(source: Path, function: str, what: ctypes.Structure, *more: ctypes._SimpleCData[Any]) -> None:
    """Call a function of an available kernel, on threads of its own (threads.py).

    Raises MemoryError where the kernel runs out of memory.
    """
    found = load(source)
    assert not isinstance(found, str)
    threads.end_spinning()
    if getattr(found.library, function)(ctypes.byref(what), *more):
        raise MemoryError(f"the compiled {source.name} ran out of memory")


@cache
def _fall_back(reason: str) -> None:
    warnings.warn(f"plain PyTorch computes, since {reason}: {_SLOWER}", SoftadvWarning, stacklevel=4)
