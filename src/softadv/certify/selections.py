"""Padding, concatenation and channel selection as convolutions with weights 0 and 1, so that nothing rounds."""

from __future__ import annotations

import torch
from torch import Tensor

from softadv.certify.linear_forms import PlaneShape
from softadv.certify.operators import Conv, Step


def padded(shape: PlaneShape, *, left: int, right: int, top: int, bottom: int, like: Tensor) -> Step:
    """An image with zeros around it."""
    # PyTorch pads both sides alike. A kernel with one tap at its corner cuts the surplus off one side.
    padding, kernel = (max(top, bottom), max(left, right)), (1 + abs(top - bottom), 1 + abs(left - right))
    weight = like.detach().new_zeros(shape[0], 1, *kernel)
    weight[:, :, padding[0] - top, padding[1] - left] = 1
    out_shape = (shape[0], shape[1] + top + bottom, shape[2] + left + right)
    return Conv(weight, _zero(weight), (1, 1), padding, (1, 1), shape[0], shape, out_shape, selects=True)


def placed(shape: PlaneShape, *, first: int, channels: int, like: Tensor) -> Step:
    """An activation placed into `channels` channels, from channel `first` on; the others are zero."""
    weight = like.detach().new_zeros(channels, shape[0], 1, 1)
    weight[torch.arange(first, first + shape[0]), torch.arange(shape[0])] = 1
    return _chosen(shape, weight)


def selected(shape: PlaneShape, index: Tensor, *, like: Tensor) -> Step:
    """Some channels of an activation; index: int64 (K,), each at most once."""
    weight = like.detach().new_zeros(len(index), shape[0], 1, 1)
    weight[torch.arange(len(index)), index.cpu()] = 1
    return _chosen(shape, weight)


def _chosen(shape: PlaneShape, weight: Tensor) -> Step:
    out_shape = (len(weight), *shape[1:])
    return Conv(weight, _zero(weight), (1, 1), (0, 0), (1, 1), 1, shape, out_shape, selects=True)


def _zero(weight: Tensor) -> Tensor:
    return weight.new_zeros(len(weight))
