"""Back-substitution by the compiled kernel (kernels/cpp/certify), on a CPU.

Without a compiler (kernels/build.py) everything runs in PyTorch (backsub_torch.py), several times slower.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from softadv.certify.bounds import BackSubstitution, Relaxed, Sides
from softadv.certify.graph import Network, Node
from softadv.certify.linear_cpp import SOURCE, back, linear_bounds, ordered
from softadv.certify.operators import (
    Activation,
    Add,
    Conv,
    Copy,
    Dense,
    Flatten,
    Gather,
    Interval,
    Lines,
    MaxPool,
    Relu,
    Scale,
    Step,
)  # fmt: skip
from softadv.certify.rounding import Arithmetic
from softadv.errors import SoftadvError
from softadv.kernels import build as compiled
from softadv.kernels import threads

# kAddends and kDepth of kernels/cpp/certify/forms.h.
_ADDENDS = 16
_DEPTH = 32

# Certify in PyTorch even where the compiled kernel is available, to compare the two.
disabled = compiled.disabled


def available() -> bool:
    """Whether the compiled kernel is used for models on the CPU."""
    return compiled.available(SOURCE)


def missing() -> str | None:
    """Why there is no compiled kernel, or None where there is one."""
    return compiled.missing(SOURCE)


class CompiledBackSubstitution(BackSubstitution):
    """Blocks of forms, one in each SIMD lane, spread over the threads that PyTorch uses."""

    sparing = True

    @staticmethod
    def arithmetic(network: Network, dtype: torch.dtype) -> Arithmetic:
        # A constant: kAddends neurons of at most two terms each, then float64. A coefficient: kDepth products, then one
        # addition for each kDepth of them and each tap.
        depth = 4 * network.neurons if dtype == torch.float64 else 2 * _ADDENDS + 4
        return Arithmetic(
            dtype, depth, depth_of_sum=lambda terms, taps: min(terms, _DEPTH) + taps * (terms // _DEPTH + 1)
        )

    @staticmethod
    def floats_per_image(network: Network) -> int:
        return 0  # a worker's forms do not depend on the number of images

    @staticmethod
    def linear(
        step: Conv | Dense, known: Interval, *, rectified: bool, rounding: Arithmetic | None
    ) -> tuple[Interval, Tensor | None] | None:
        return linear_bounds(step, *known, rectified=rectified, rounding=rounding, threads=threads.count())

    @staticmethod
    def bounds(relaxed: Relaxed, activation: int, asked: Sides, known: Interval) -> Interval:
        sides = asked[0].to(torch.uint8) + 2 * asked[1].to(torch.uint8)
        if not sides.any():
            return known
        lower, upper = (ordered(bound).clone() for bound in known)
        with _Program(relaxed) as program:
            program.call("bounds", activation, ordered(sides), lower, upper)
        return back(lower), back(upper)

    @staticmethod
    def minimum(relaxed: Relaxed, forms: Tensor, asked: Tensor) -> Tensor:
        least = forms.new_full(forms.shape[:2], -torch.inf)
        with _Program(relaxed) as program:
            program.call(
                "minimum", len(relaxed.network.nodes), forms.shape[1], asked.to(torch.uint8), forms.contiguous(), least
            )
        return least


_KINDS = {Conv: 0, Dense: 0, Scale: 1, Flatten: 2, Copy: 3, Add: 4, Relu: 5, MaxPool: 6, Gather: 7}


def knows(step: Step) -> bool:
    """Whether the kernel substitutes back through a step."""
    return isinstance(step, Activation) or type(step) in _KINDS


def _kind(step: Step) -> int:
    """A step's number in the kernel. Every activation counts as a ReLU: the kernel only reads its lines."""
    return _KINDS[Relu if isinstance(step, Activation) else type(step)]


class _Step(ctypes.Structure):
    """Step of kernels/cpp/certify/forms.h."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        *((name, ctypes.c_int32 * 2) for name in ("inputs", "kernel", "stride", "padding", "dilation")),
        ("groups", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "used", "weight", "bias", "error", "lower_slope", "upper_slope", "lower_offset", "upper_offset",
                "choice",
            )
        ),
    )  # fmt: skip


class _CProgram(ctypes.Structure):
    """Program of kernels/cpp/certify/forms.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("steps", "images", "threads")),
        *((name, ctypes.c_void_p) for name in ("step", "plane", "center", "radius")),
    )


class _Program:
    """The network and the bounds so far, as the kernel reads them. Keeps their memory alive during the call."""

    def __init__(self, relaxed: Relaxed) -> None:
        self._held: list[Any] = []
        self._memo = relaxed.memo
        self._dtype = relaxed.center.dtype
        network = relaxed.network
        known = [self._step(node, relaxed, at) for at, node in enumerate(network.nodes, 1)]
        planes = [size for channels, height, width in network.shapes for size in (height, width, channels)]
        self._suffix = "float" if self._dtype == torch.float32 else "double"
        self._program = _CProgram(
            steps=len(known),
            images=len(relaxed.center),
            threads=threads.count(),
            step=self._hold((_Step * len(known))(*known)),
            plane=self._hold((ctypes.c_int32 * len(planes))(*planes)),
            center=self._plane(relaxed.center),
            radius=self._plane(relaxed.radius),
        )

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.clear()

    def call(self, function: str, *arguments: int | Tensor) -> None:
        """Call a function of the kernel. Raises MemoryError where it runs out of memory."""
        values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int32(a) for a in arguments]
        compiled.call_kernel(SOURCE, f"{function}_{self._suffix}", self._program, *values)

    def _hold(self, array: ctypes.Array[Any]) -> int:
        self._held.append(array)
        return ctypes.addressof(array)

    def _tensor(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        if tensor.is_floating_point() and tensor.dtype != self._dtype:
            raise SoftadvError(f"model: holds numbers of type {tensor.dtype} beside {self._dtype}")
        tensor = tensor.resolve_neg()
        self._held.append(tensor)
        return tensor.data_ptr()

    def _plane(self, plane: Tensor | None) -> int | None:
        return None if plane is None else self._tensor(self._once(plane, ordered))

    def _once(self, key: Any, made_from: Callable[[Any], Tensor]) -> Tensor:
        """made_from(key), computed at the first call of an analysis; key: a tensor, or lines."""
        if id(key) not in self._memo:
            self._memo[id(key)] = key, made_from(key)
        return self._memo[id(key)][1]

    def _used(self, relaxed: Relaxed, at: int) -> int | None:
        """A mask of an activation's neurons that matter: outputs of dead ReLUs are left out. None: all of them."""
        maker = relaxed.network.before(at, Flatten)
        if not maker or not isinstance(relaxed.network.nodes[maker - 1].step, Relu) or maker not in relaxed.lines:
            return None
        shape = relaxed.network.shapes[at]
        return self._tensor(self._once(relaxed.lines[maker], lambda lines: ordered(_passes(lines).reshape(-1, *shape))))

    def _step(self, node: Node, relaxed: Relaxed, at: int) -> _Step:
        inputs = (*node.inputs, 0)[:2]
        found = _Step(kind=_kind(node.step), inputs=inputs, groups=1)
        found.error = self._plane(relaxed.errors.get(at))
        if isinstance(node.step, Conv | Dense):
            found.used = self._used(relaxed, node.inputs[0])
        match node.step:
            case Conv() as step:
                found.kernel, found.stride = tuple(step.weight.shape[2:]), step.stride
                found.padding, found.dilation, found.groups = step.padding, step.dilation, step.groups
                found.weight, found.bias = self._plane(step.weight), self._tensor(step.bias.contiguous())
            case Dense() as step:
                found.kernel = found.stride = found.dilation = (1, 1)
                found.weight, found.bias = self._tensor(step.weight.contiguous()), self._tensor(step.bias.contiguous())
            case Scale() as step:
                found.weight, found.bias = self._plane(step.factor[None]), self._tensor(step.bias.contiguous())
            case Gather() as step:
                found.choice = self._tensor(_gathered(step))
            case Relu() | MaxPool() | Activation() if at in relaxed.lines:
                lines = relaxed.lines[at]
                found.lower_slope, found.upper_slope = self._plane(lines.lower_slope), self._plane(lines.upper_slope)
                found.upper_offset, found.lower_offset = (
                    self._plane(lines.upper_offset),
                    self._plane(lines.lower_offset),
                )
                if isinstance(node.step, MaxPool) and lines.choice is not None:
                    found.choice = self._tensor(_chosen(node.step, lines.choice))
        return found


def _passes(lines: Lines) -> Tensor:
    """bool (N, C, H, W): the neurons that the output of a ReLU depends on."""
    passes = (lines.lower_slope != 0) | (lines.upper_slope != 0) | (lines.upper_offset != 0)
    return passes if lines.lower_offset is None else passes | (lines.lower_offset != 0)


def _gathered(step: Gather) -> Tensor:
    """The inputs that are gathered, as the kernel counts neurons: int32 (H', W', C')."""
    channels, height, width = step.in_shape
    pixels = height * width
    index = step.index % pixels * channels + step.index // pixels
    return ordered(torch.where(step.index < 0, -1, index).reshape(1, *step.out_shape)).to(torch.int32)


def _chosen(pool: MaxPool, choice: Tensor) -> Tensor:
    """The chosen inputs as the kernel counts neurons: int32 (N, H', W', C)."""
    channels, _, width = pool.in_shape
    _, rows, columns = pool.out_shape
    tap = ordered(choice)
    y = torch.arange(rows)[:, None, None] * pool.stride[0] - pool.padding[0] + tap // pool.kernel[1]
    x = torch.arange(columns)[:, None] * pool.stride[1] - pool.padding[1] + tap % pool.kernel[1]
    return ((y * width + x) * channels + torch.arange(channels)).to(torch.int32).contiguous()
