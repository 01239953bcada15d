"""The steps of projected gradient descent by a compiled kernel (attack_kernel/), on a CPU.

It takes the chains that gradients.py differentiates by hand, in float32, and goes where they lead: images come out
bit for bit as in PyTorch wherever the two agree on the sign of every slope.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from softadv import compiled
from softadv.gradients import plain_chain
from softadv.models import Normalize

_SOURCE = Path(__file__).with_name("attack_kernel") / "attack.cpp"
_MOST_ROWS = 32  # of a kernel; as in attack_kernel/block.h

# Channels, height, width.
_Shape = tuple[int, int, int]


def available() -> bool:
    """Whether the compiled kernel is used for models on the CPU."""
    return compiled.available(_SOURCE)


def missing() -> str | None:
    """Why there is no compiled kernel, or None where there is one."""
    return compiled.missing(_SOURCE)


def climb(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, *, eps: float, alpha: float, steps: int
) -> Tensor | None:
    """Take steps along the sign of the slope of the cross-entropy, each cut to the ball and to [0, 1].

    x, start: (N, C, H, W), the balls' centres and where to begin; y: int64 (N,). eps, alpha: in the units of x.
    The model is taken to be in eval mode, whatever mode it is in.
    Returns the images reached, (N, C, H, W), or None for what the kernel does not do.
    """
    tensors = (x, start, *model.parameters(), *model.buffers())
    if any(tensor.dtype != torch.float32 for tensor in tensors) or y.dtype != torch.int64:
        return None
    if any(tensor.device.type != "cpu" for tensor in (*tensors, y)) or not available():
        return None
    if x.ndim != 4 or 0 in x.shape or y.shape != x.shape[:1]:
        return None
    program = _Program.of(model, (x.shape[1], x.shape[2], x.shape[3]))
    if program is None or int(y.min()) < 0 or int(y.max()) >= program.classes:
        return None
    return program.climb(x.contiguous(), y.contiguous(), start.contiguous(), eps=eps, alpha=alpha, steps=steps)


class _Layer(ctypes.Structure):
    """Layer of attack_kernel/network.h."""

    _fields_ = (
        *((name, ctypes.c_int32 * 3) for name in ("entered", "left")),  # height, width, channels
        ("kind", ctypes.c_int32),
        ("relu", ctypes.c_int32),
        *((name, ctypes.c_int32 * 2) for name in ("kernel", "stride", "padding")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "mean", "deviation")),
    )


class _CAttack(ctypes.Structure):
    """Attack of attack_kernel/network.h."""

    _fields_ = (
        ("image", ctypes.c_int32 * 3),  # height, width, channels
        *((name, ctypes.c_int32) for name in ("layers", "images", "steps", "threads")),
        *((name, ctypes.c_float) for name in ("eps", "alpha")),
        *((name, ctypes.c_void_p) for name in ("layer", "x", "point", "label", "parallel")),
    )


_CONV, _NORMALIZE = 0, 1


@cache
def _workers() -> int | None:
    """Where GOMP_parallel lies, if PyTorch runs on an OpenMP that has it.

    Its workers spin for some milliseconds after each of PyTorch's own tasks, and would be in the way of other threads.
    """
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None


class _Program:
    """A chain as the kernel reads it, with the weights of this moment; holds the memory meanwhile."""

    def __init__(self, shape: _Shape) -> None:
        self._held: list[Tensor] = []
        self._layers: list[_Layer] = []
        self._shape = shape
        self._flat = False

    @classmethod
    def of(cls, model: nn.Module, shape: _Shape) -> _Program | None:
        """The program of a model for images of a shape, or None where there is none."""
        chain = plain_chain(model)
        program = cls(shape)
        if chain is None or not all(program._take(module) for module in chain):
            return None
        # Where the last plane has more than one pixel, the order of the classes would have to be minded.
        return program if program._layers and program._flat and program._shape[1:] == (1, 1) else None

    @property
    def classes(self) -> int:
        return self._shape[0]

    def climb(self, x: Tensor, y: Tensor, point: Tensor, *, eps: float, alpha: float, steps: int) -> Tensor:
        """Replace `point` by what the attack reaches from there. Raises MemoryError where memory runs out."""
        layers = (_Layer * len(self._layers))(*self._layers)
        _, channels, height, width = x.shape
        attack = _CAttack(
            image=(height, width, channels), layers=len(layers), images=len(x), steps=steps,
            threads=torch.get_num_threads(), eps=eps, alpha=alpha, layer=ctypes.addressof(layers),
            x=x.data_ptr(), point=point.data_ptr(), label=y.data_ptr(), parallel=_workers(),
        )  # fmt: skip
        library = compiled.load(_SOURCE)
        assert not isinstance(library, str)
        if library.climb(ctypes.byref(attack)):
            raise MemoryError("the attack's kernel ran out of memory")
        return point

    def _take(self, module: nn.Module) -> bool:
        """Add a layer; False where the kernel, or PyTorch itself, refuses it here."""
        channels, height, width = self._shape
        match module:
            case nn.ReLU():
                if not self._layers:
                    self._normalize(torch.zeros(channels), torch.ones(channels))  # leaves the image as it is
                self._layers[-1].relu = 1
            case nn.Flatten():
                self._flat = True
            case Normalize() if not self._flat and len(module.mean) in {1, channels}:
                self._normalize(module.mean.expand(channels), module.std.expand(channels))
            case nn.Conv2d() if not self._flat and module.in_channels == channels:
                (rows, columns), (down, right) = module.kernel_size, module.stride
                top, side = int(module.padding[0]), int(module.padding[1])
                after = ((height + 2 * top - rows) // down + 1, (width + 2 * side - columns) // right + 1)
                if min(after) < 1 or rows > _MOST_ROWS:
                    return False
                layer = self._conv(module.weight.permute(0, 2, 3, 1), module.bias, (module.out_channels, *after))
                layer.kernel, layer.stride, layer.padding = (rows, columns), (down, right), (top, side)
            case nn.Linear() if self._flat and module.in_features == channels * height * width:
                # A convolution of one pixel, whose channels are the neurons in the kernel's order.
                weight = module.weight.reshape(-1, channels, height, width).permute(0, 2, 3, 1)
                self._shape = (module.in_features, 1, 1)
                layer = self._conv(weight, module.bias, (module.out_features, 1, 1))
                layer.kernel = layer.stride = (1, 1)
            case _:
                return False
        return True

    def _normalize(self, mean: Tensor, deviation: Tensor) -> None:
        layer = _Layer(kind=_NORMALIZE, mean=self._pointer(mean), deviation=self._pointer(deviation))
        self._add(layer, self._shape)

    def _conv(self, weight: Tensor, bias: Tensor | None, after: _Shape) -> _Layer:
        layer = _Layer(kind=_CONV, weight=self._pointer(weight), bias=None if bias is None else self._pointer(bias))
        return self._add(layer, after)

    def _add(self, layer: _Layer, after: _Shape) -> _Layer:
        (channels, *sides), (channels_after, *sides_after) = self._shape, after
        layer.entered, layer.left = (*sides, channels), (*sides_after, channels_after)
        self._layers.append(layer)
        self._shape = after
        return layer

    def _pointer(self, tensor: Tensor) -> int:
        self._held.append(tensor.detach().contiguous())
        return self._held[-1].data_ptr()
