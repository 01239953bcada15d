"""Threads for the compiled kernels that sleep while they wait, instead of PyTorch's, which spin.

After each of PyTorch's operations the threads of its OpenMP library spin for milliseconds, in case more work comes. On
a busy machine, where one of the threads has to wait for a processor, that takes far longer than the work itself.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

# Images. Starting a smaller part costs more time than it saves.
_LEAST_IMAGES = 32
# Parts of Python hinder one another: on 16 threads of an H100's machine, 4 parts certified 1,537 MNIST images a second,
# 16 parts 1,045.
_MOST_PARTS = 4

_SOFT_PAUSE = 1  # omp_pause_soft
_PROCESS = os.getpid()  # not that of a process forked later

Result = TypeVar("Result")

# How many threads the kernels use; None: as many as PyTorch.
_count: ContextVar[int | None] = ContextVar("softadv_threads", default=None)


def count() -> int:
    """How many threads a kernel uses."""
    return _count.get() or torch.get_num_threads()


def are_their_own() -> bool:
    """Whether this is within of_their_own."""
    return _count.get() is not None


@contextmanager
def of_their_own() -> Iterator[None]:
    """Leave PyTorch one thread, and the kernels as many as PyTorch had: for work that runs many small operations."""
    before = torch.get_num_threads()
    token = _count.set(_count.get() or before)
    end_spinning()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _count.reset(token)


@contextmanager
def of_pytorch() -> Iterator[None]:
    """Within of_their_own, give PyTorch its threads back: for work of its own, whose bits depend on their number."""
    if not are_their_own():
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count())
    try:
        yield
    finally:
        end_spinning()
        torch.set_num_threads(before)


def end_spinning() -> None:
    """End PyTorch's waiting threads, which would compete with a kernel's; its next operation starts them again."""
    # A forked process has none, but the library would wait for those of the parent.
    if torch.get_num_threads() > 1 and os.getpid() == _PROCESS and (library := _openmp()) is not None:
        library.omp_pause_resource(_SOFT_PAUSE, library.omp_get_initial_device())


@cache
def _openmp() -> ctypes.CDLL | None:
    """PyTorch's OpenMP library, if it has one that can end its threads (OpenMP 5.0); else None."""
    try:
        library = ctypes.CDLL(None)
        return library if library.omp_pause_resource and library.omp_get_initial_device else None
    except (AttributeError, OSError, TypeError):  # the last on Windows, which has no such handle
        return None


def in_parts(function: Callable[..., Result], *tensors: Tensor) -> list[Result]:
    """function(*tensors) of parts of the images, on threads, so that PyTorch's own work is shared, too.

    tensors: (N, ...) each. Returns the results of the parts in order. Outside of of_their_own, or for few images, there
    is one part.
    """
    threads, images = _count.get() or 1, len(tensors[0])
    parts = min(threads, _MOST_PARTS, images // _LEAST_IMAGES)
    if parts < 2 or torch.is_autocast_enabled("cpu"):  # a new thread would not inherit autocast
        return [function(*tensors)]

    def run(part: tuple[Tensor, ...]) -> Result:
        torch.set_num_threads(1)  # of this thread's
        _count.set(-(-threads // parts))
        with torch.no_grad():
            return function(*part)

    chunks = zip(*(tensor.tensor_split(parts) for tensor in tensors), strict=True)
    with ThreadPoolExecutor(parts) as pool:
        return [done.result() for done in [pool.submit(copy_context().run, run, c) for c in chunks]]
