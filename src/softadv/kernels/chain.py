"""A chain of layers in the form that the compiled kernels read (cpp/gradients/network.h).

The kernels compute the chains that input_gradients.py differentiates by hand, in float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from softadv.kernels import threads
from softadv.kernels.input_gradients import plain_chain
from softadv.models import Normalize

_MOST_ROWS = 32  # rows of a convolution's kernel; kMostRuns of cpp/gradients/pass.h

# Neurons of a tile of `stride` pixels, for each of which the kernels keep a place.
_LARGEST_TILE = 2**22

_PlaneShape = tuple[int, int, int]  # channels, height, width


class CLayer(ctypes.Structure):
    """Layer of cpp/gradients/network.h."""

    _fields_ = (
        *((name, ctypes.c_int32 * 3) for name in ("entered", "left")),  # height, width, channels
        ("kind", ctypes.c_int32),
        ("relu", ctypes.c_int32),
        *((name, ctypes.c_int32 * 2) for name in ("kernel", "stride", "padding")),
        ("taps", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in ("weight", "bias", "mean", "deviation", "weight_gradient", "bias_gradient")
        ),
    )


class CNetwork(ctypes.Structure):
    """Network of cpp/gradients/network.h."""

    _fields_ = (
        ("image", ctypes.c_int32 * 3),  # height, width, channels
        *((name, ctypes.c_int32) for name in ("layers", "images", "threads")),
        *((name, ctypes.c_void_p) for name in ("layer", "x", "label", "target")),
    )


_CONV, _NORMALIZE = 0, 1


def in_memory(tensor: Tensor) -> Tensor:
    """A tensor whose numbers lie in memory row by row.

    They are not strided, not kept as the negatives of what lies there, and not zeros that PyTorch keeps without memory.
    """
    return (tensor.clone() if tensor._is_zerotensor() else tensor.resolve_neg()).contiguous()


class Chain:
    """A model with its present weights, and a batch of images; keeps their memory alive."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        """No layers yet. x: float32 (N, C, H, W); y: int64 (N,), or float32 (N, classes), on the CPU."""
        self._held: list[Tensor] = []
        self._layers: list[CLayer] = []
        self._weighted: list[tuple[CLayer, nn.Conv2d | nn.Linear]] = []
        self._x, self._y = in_memory(x), in_memory(y)
        self._shape: _PlaneShape = (x.shape[1], x.shape[2], x.shape[3])
        self._flat = False
        self._passed: ctypes.Array[CLayer] | None = None

    @classmethod
    def of(cls, model: nn.Module, x: Tensor, y: Tensor) -> Chain | None:
        """The chain of a model; None where the kernels do not support the model, the images or the labels.

        x: (N, C, H, W); y: labels, (N,), or a target probability for each class, (N, classes). The kernels take float32
        images, weights and targets, and int64 labels, on the CPU.
        """
        tensors = (x, *model.parameters(), *model.buffers())
        wanted = torch.int64 if y.ndim == 1 else torch.float32
        if any(tensor.dtype != torch.float32 for tensor in tensors) or y.dtype != wanted:
            return None
        if any(tensor.device.type != "cpu" for tensor in (*tensors, y)):
            return None
        if x.ndim != 4 or 0 in x.shape or y.ndim not in (1, 2) or len(y) != len(x):
            return None
        modules = plain_chain(model)
        chain = cls(x, y)
        if modules is None or not all(chain._take(module) for module in modules):
            return None
        # With more than one pixel in the last plane, the kernels' order of the classes would differ from PyTorch's.
        if not (chain._layers and chain._flat and chain._shape[1:] == (1, 1)):
            return None
        classes = chain._shape[0]
        fits = y.shape[1] == classes if y.ndim == 2 else int(y.min()) >= 0 and int(y.max()) < classes
        return chain if fits else None

    def weighted(self) -> Iterator[tuple[CLayer, nn.Conv2d | nn.Linear]]:
        """The layers with weights, first to last, and their modules. Set gradient pointers here, before network()."""
        yield from self._weighted

    def network(self) -> CNetwork:
        """The structure passed to a kernel. It points to memory that the chain owns, valid until the next call."""
        layers = (CLayer * len(self._layers))(*self._layers)
        _, channels, height, width = self._x.shape
        network = CNetwork(
            image=(height, width, channels), layers=len(layers), images=len(self._x), threads=threads.count(),
            layer=ctypes.addressof(layers), x=self._x.data_ptr(),
        )  # fmt: skip
        setattr(network, "label" if self._y.ndim == 1 else "target", self._y.data_ptr())
        self._passed = layers
        return network

    def _take(self, module: nn.Module) -> bool:
        """Add a layer; False where the kernels do not support it here, or PyTorch would raise."""
        channels, height, width = self._shape
        match module:
            case nn.ReLU():
                if not self._layers:
                    zeros = torch.zeros(channels, dtype=torch.float32, device="cpu")
                    self._normalize(zeros, torch.ones_like(zeros))  # leaves the image as it is
                self._layers[-1].relu = 1
            case nn.Flatten():
                self._flat = True
            case Normalize() if not self._flat and len(module.mean) in {1, channels}:
                self._normalize(module.mean.expand(channels), module.std.expand(channels))
            case nn.Conv2d() if not self._flat and _fits(module, channels):
                # The weight's shape counts, whatever the layer's attributes say.
                (rows, columns), (down, right) = module.weight.shape[2:], module.stride
                top, side = int(module.padding[0]), int(module.padding[1])
                after = ((height + 2 * top - rows) // down + 1, (width + 2 * side - columns) // right + 1)
                if min(after) < 1 or rows > _MOST_ROWS:
                    return False
                # A stride longer than the plane leaves one window, so it may be cut to the plane's size.
                down, right = min(down, height + 2 * top), min(right, width + 2 * side)
                if down * right * channels > _LARGEST_TILE:  # nearly all of it padding
                    return False
                layer = self._weigh(module, (len(module.weight), *after))
                layer.kernel, layer.stride, layer.padding = (rows, columns), (down, right), (top, side)
                layer.taps = rows * columns
            case nn.Linear() if self._flat and _fits(module, channels * height * width):
                # A convolution of one pixel, whose channels are the neurons in the kernel's order.
                self._shape = (channels * height * width, 1, 1)
                layer = self._weigh(module, (len(module.weight), 1, 1))
                layer.kernel = layer.stride = (1, 1)
                layer.taps = height * width
            case _:
                return False
        return True

    def _normalize(self, mean: Tensor, deviation: Tensor) -> None:
        layer = CLayer(kind=_NORMALIZE, mean=self._pointer(mean), deviation=self._pointer(deviation))
        self._add(layer, self._shape)

    def _weigh(self, module: nn.Conv2d | nn.Linear, after: _PlaneShape) -> CLayer:
        bias = None if module.bias is None else self._pointer(module.bias)
        layer = self._add(CLayer(kind=_CONV, weight=self._pointer(module.weight), bias=bias), after)
        self._weighted.append((layer, module))
        return layer

    def _add(self, layer: CLayer, after: _PlaneShape) -> CLayer:
        (channels, *sides), (channels_after, *sides_after) = self._shape, after
        layer.entered, layer.left = (*sides, channels), (*sides_after, channels_after)
        self._layers.append(layer)
        self._shape = after
        return layer

    def _pointer(self, tensor: Tensor) -> int:
        self._held.append(in_memory(tensor.detach()))
        return self._held[-1].data_ptr()


def _fits(module: nn.Conv2d | nn.Linear, inputs: int) -> bool:
    """Whether a layer's weight takes so many inputs, or channels, and its bias is one for each output."""
    weight, bias = module.weight, module.bias
    return weight.shape[1] == inputs and (bias is None or bias.shape == weight.shape[:1])
