"""Linear forms over an activation, one for each neuron whose bound is sought.

Back-substitution carries "this neuron is at least coefs · activation + const" from layer to layer.
A neuron of a convolution depends on a small window of each earlier layer, so the coefficients are
kept for that window alone, position by position; a neuron of a linear layer has one window that is
the whole plane. Both are the same tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Where the windows of a grid of positions lie in a plane.

    Position (i, j) covers the pixels from (i * stride - padding, j * stride - padding) on. Pixels
    outside the plane are zero padding.
    """

    positions: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    size: tuple[int, int]

    @staticmethod
    def whole(height: int, width: int) -> Windows:
        """One window that is the whole plane."""
        return Windows(positions=(1, 1), stride=(1, 1), padding=(0, 0), size=(height, width))

    def through(self, *, stride: tuple[int, int], padding: tuple[int, int], kernel: tuple[int, int]) -> Windows:
        """The windows in a convolution's input, of these windows in its output."""
        return Windows(
            positions=self.positions,
            stride=(self.stride[0] * stride[0], self.stride[1] * stride[1]),
            padding=(self.padding[0] * stride[0] + padding[0], self.padding[1] * stride[1] + padding[1]),
            size=((self.size[0] - 1) * stride[0] + kernel[0], (self.size[1] - 1) * stride[1] + kernel[1]),
        )

    def inside(self, height: int, width: int) -> bool:
        """Whether no window reaches over the plane's edge."""
        return all(
            padding == 0 and (count - 1) * stride + size <= side
            for padding, count, stride, size, side in zip(
                self.padding, self.positions, self.stride, self.size, (height, width), strict=True
            )
        )

    def cut(self, plane: Tensor) -> Tensor:
        """Cut the windows out of planes.

        plane: (N, C, H, W). Returns (N, P, h, w, C), zero outside the plane.
        """
        n, channels, height, width = plane.shape
        # From the first window's start to the last one's end; the plane may reach beyond that.
        tall = (self.positions[0] - 1) * self.stride[0] + self.size[0]
        wide = (self.positions[1] - 1) * self.stride[1] + self.size[1]
        below, right = max(tall - self.padding[0] - height, 0), max(wide - self.padding[1] - width, 0)
        padded = F.pad(plane, (self.padding[1], right, self.padding[0], below))[:, :, :tall, :wide]
        views = padded.unfold(2, self.size[0], self.stride[0]).unfold(3, self.size[1], self.stride[1])
        return views.permute(0, 2, 3, 4, 5, 1).reshape(n, -1, *self.size, channels)


@dataclass(frozen=True)
class Rows:
    """Lower linear bounds: neuron r at position p of image n is at least coefs · window + const.

    coefs: (N or 1, P or 1, R, h, w, C), channels last because convolutions are fastest so.
    const: (N or 1, P or 1, R).
    """

    coefs: Tensor
    const: Tensor
    windows: Windows

    def minimum(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The smallest value over a box of activations: bounds (N, C, H, W) to (N, P, R)."""
        coefs = self.coefs.flatten(3)
        center = self.windows.cut((lower + upper) / 2).flatten(2).unsqueeze(3)
        radius = self.windows.cut((upper - lower) / 2).flatten(2).unsqueeze(3)
        value = torch.matmul(coefs, center) - torch.matmul(coefs.abs(), radius)
        return value.squeeze(3) + self.const
