"""CUDA graphs: GPU work that is recorded once for each shape, and then replayed in one launch.

The paper's networks are so small that a GPU computes a layer faster than the CPU can launch it. A CUDA graph launches a
whole attack, or a whole update, at once. It replays the same kernels on the same memory: inputs are copied to the
memory that was recorded, and weights and optimizer states must be changed in place.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)

# Libraries initialise themselves in their first calls, which cannot be recorded; PyTorch's manual recommends three.
WARM_UP = 3
_BUCKET = 16

_Run = Callable[[], Tensor]


class Recorder(Protocol):
    """Records functions without arguments; tests have a recorder that needs no GPU."""

    def warm_up(self, run: _Run) -> Tensor:
        """Run the function in the conditions of a recording. Returns its result."""

    def record(self, run: _Run) -> _Run:
        """Record the function without running it. Returns the replay. Raises RuntimeError where recording fails."""


class CudaRecorder:
    """Records CUDA graphs on a device, on a separate stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def warm_up(self, run: _Run) -> Tensor:
        """Run the function on the recording stream, synchronised with the work before and after it."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # From an optimizer with capturable=True that is not being recorded yet.
            warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
            found = run()
        here.wait_stream(self._stream)
        return found

    def record(self, run: _Run) -> _Run:
        """Record the function as a graph with its own memory pool."""
        graph = torch.cuda.CUDAGraph()
        # The outer block restores the caller's stream even if the inner one fails on exit.
        with torch.cuda.stream(self._stream), torch.cuda.graph(graph, stream=self._stream):
            found = run()

        def replay() -> Tensor:
            graph.replay()
            return found

        return replay


@dataclass
class _Entry:
    """One function at one shape: its input memory, and its replay once it is recorded."""

    inputs: tuple[Tensor, ...]
    calls: int = 0
    replay: _Run | None = None


class Replays:
    """Functions of tensors, each recorded once for each shape of its inputs and then replayed."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        """recorder: None records nothing and calls every function directly."""
        self._recorder = recorder
        self._entries: dict[Hashable, _Entry] = {}

    @classmethod
    def on(cls, device: torch.device) -> Replays:
        """Replays of CUDA graphs on a GPU; direct calls on any other device."""
        return cls(CudaRecorder(device) if device.type == "cuda" else None)

    def __deepcopy__(self, memo: object) -> Replays:
        # A recording is bound to the weights it was made with.
        return Replays(self._recorder)

    def run(self, key: Hashable, function: Callable[..., Tensor], *inputs: Tensor, rows: int | None = None) -> Tensor:
        """The result of function(*inputs), in new memory.

        key: identifies the function and everything it depends on, except for the inputs and the values of tensors that
            it refers to.
        inputs: N rows each; the function may change them. It must not read values back from the device.
        rows: pad the inputs to this many rows, at least N, so that fewer shapes are recorded. Only for functions whose
            rows are independent; the padding's content is arbitrary. The first N rows are returned.
        The first calls with a shape run directly, the next one is recorded. If recording fails, a warning is logged,
        and every later call runs directly.
        """
        if self._recorder is None:
            return function(*inputs)
        count = len(inputs[0])
        entry = self._entry(key, inputs, count if rows is None else rows)
        for buffer, given in zip(entry.inputs, inputs, strict=True):
            buffer[:count].copy_(given)

        def work() -> Tensor:
            return function(*entry.inputs)

        entry.calls += 1
        if entry.calls <= WARM_UP:
            found = self._recorder.warm_up(work)
        else:
            if entry.replay is None:
                try:
                    entry.replay = self._recorder.record(work)
                except RuntimeError as error:
                    reason = " ".join(str(error).split())
                    _LOG.warning("CUDA graphs are not used: %s could not be recorded (%s)", key, reason)
                    self.forget()
                    self._recorder = None
                    return function(*inputs)
            found = entry.replay()
        return (found if rows is None else found[:count]).clone()

    def forget(self) -> None:
        """Drop all recordings. Call it when weights or optimizer states have moved to other memory."""
        self._entries.clear()

    def _entry(self, key: Hashable, inputs: tuple[Tensor, ...], rows: int) -> _Entry:
        shapes = tuple((rows, *given.shape[1:], given.dtype) for given in inputs)
        if (key, shapes) not in self._entries:
            buffers = tuple(given.new_zeros(rows, *given.shape[1:]) for given in inputs)
            self._entries[key, shapes] = _Entry(buffers)
        return self._entries[key, shapes]


def bucket(count: int, *, most: int) -> int:
    """The padded number of rows for `count` rows: the next multiple of 16, but at most `most`."""
    return min(-(-count // _BUCKET) * _BUCKET, most)
