"""The transposed convolution that attacks and certificates spend most of their time in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Under this many channels the library's kernel leaves most of a vector register idle.
_FEW_CHANNELS = 8


class TransposedConv:
    """F.conv_transpose2d with fixed weights, several times faster where the result is an image.

    Where the result has few channels, each of its stride x stride phases is an ordinary convolution
    with every stride-th weight; all phases are computed at once, as channels of one convolution, and
    then interleaved.
    """

    def __init__(self, weight: Tensor, *, stride: tuple[int, int]) -> None:
        """weight: (O, C, kh, kw), as nn.Conv2d keeps it."""
        self.stride = stride
        self.kernel = (weight.shape[2], weight.shape[3])
        few = weight.shape[1] < _FEW_CHANNELS and stride[0] == stride[1]
        self._phases = _phases(weight, stride[0]) if few else None
        self._weight = weight.contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor, *, extra: tuple[int, int] = (0, 0)) -> Tensor:
        """x: (N, O, H, W), fastest in channels-last memory. extra: rows and columns of zeros to add.

        Returns (N, C, (H - 1) * stride + kh + extra, (W - 1) * stride + kw + extra).
        """
        if self._phases is None:
            return F.conv_transpose2d(x, self._weight, stride=self.stride, output_padding=extra)
        reach = (self._phases.shape[2] - 1, self._phases.shape[3] - 1)
        full = F.pixel_shuffle(F.conv2d(x, self._phases, padding=reach), self.stride[0])
        height = (x.shape[2] - 1) * self.stride[0] + self.kernel[0] + extra[0]
        width = (x.shape[3] - 1) * self.stride[1] + self.kernel[1] + extra[1]
        if full.shape[2:] == (height, width):
            return full
        return F.pad(full, (0, width - full.shape[3], 0, height - full.shape[2]))


def _phases(weight: Tensor, step: int) -> Tensor:
    """The kernel (C * step * step, O, ceil(kh / step), ceil(kw / step)) of all phases at once."""
    padded = F.pad(weight, (0, -weight.shape[3] % step, 0, -weight.shape[2] % step))
    phases = [padded[:, :, i::step, j::step].flip(2, 3) for i in range(step) for j in range(step)]
    kernel = torch.stack(phases, 2).permute(1, 2, 0, 3, 4).flatten(0, 1)
    return kernel.contiguous(memory_format=torch.channels_last)
