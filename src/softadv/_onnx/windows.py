"""The windows of convolutions and poolings, as ONNX describes them: padding of each side, and sizes rounded up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from softadv._onnx.calls import Function, Gathered, OperatorCall
from softadv._onnx.constants import UnreadError
from softadv._onnx.file import MOST_NUMBERS


@dataclass(frozen=True)
class Windows:
    """Windows of an image (C, H, W), or of (C, L), which is read as (C, L, 1).

    pads: at the top, left, bottom and right. flat: whether it was (C, L). beyond: how many more rows and columns the
    last windows reach over the padding where sizes are rounded up.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    shape: tuple[int, int, int]
    flat: bool
    beyond: tuple[int, int]

    @staticmethod
    def of(call: OperatorCall, kernel: list[int]) -> Windows:
        sizes = list(call.shapes[0][1:])
        count = len(sizes)
        if count not in (1, 2) or len(kernel) != count:
            raise UnreadError(f"its input has shape (N, {', '.join(map(str, call.shapes[0]))}), not that of images")
        strides, dilations = (list(call.options.get(key, [1] * count)) for key in ("strides", "dilations"))
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = list(call.options.get("pads", [0] * 2 * count))
        if len(pads) != 2 * count or min(*strides, *dilations, *kernel) < 1 or min(pads) < 0:
            raise UnreadError(f"has strides {strides}, dilations {dilations} and pads {pads}")
        auto = call.options.get("auto_pad", "NOTSET") or "NOTSET"
        if auto == "VALID":
            pads = [0] * 2 * count
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            whole = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(sizes, strides, reach, strict=True)]
            less, more = [n // 2 for n in whole], [n - n // 2 for n in whole]
            pads = less + more if auto == "SAME_UPPER" else more + less
        elif auto != "NOTSET":
            raise UnreadError(f"has auto_pad={auto}")
        beyond = [0] * count
        ceil = bool(call.options.get("ceil_mode", 0))
        if ceil and auto == "VALID" and any((n - r) % s for n, s, r in zip(sizes, strides, reach, strict=True)):
            # the standard's formula has no window more, onnxruntime has one
            raise UnreadError("has ceil_mode beside auto_pad=VALID, and windows that do not fill its input")
        if ceil and auto == "NOTSET":
            for at, (n, s, r) in enumerate(zip(sizes, strides, reach, strict=True)):
                padded = n + pads[at] + pads[at + count]
                last = -(-max(padded - r, 0) // s) * s
                if last >= n + pads[at]:  # readers differ on whether it is one: onnxruntime may refuse the file
                    raise UnreadError("has ceil_mode and a window that begins behind its input")
                beyond[at] = max(last + r - padded, 0)
        padded = prod(n + pads[at] + pads[at + count] + beyond[at] for at, n in enumerate(sizes))
        if call.shapes[0][0] * padded > MOST_NUMBERS or prod(kernel) > MOST_NUMBERS:
            raise UnreadError(f"has windows of {kernel} on an input of {padded:,} numbers a channel, with its padding")
        if count == 1:
            kernel, strides, dilations, sizes = [*kernel, 1], [*strides, 1], [*dilations, 1], [*sizes, 1]
            pads, beyond = [pads[0], 0, pads[1], 0], [*beyond, 0]
        return Windows(
            (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1]),
            (pads[0], pads[1], pads[2], pads[3]), (call.shapes[0][0], sizes[0], sizes[1]), count == 1,
            (beyond[0], beyond[1]),
        )  # fmt: skip

    @property
    def is_even(self) -> bool:
        """Whether both sides of each dimension have the same padding, of at most half a window."""
        top, left, bottom, right = self.pads
        small = 2 * top <= self.kernel[0] and 2 * left <= self.kernel[1]
        return (top, left) == (bottom, right) and small and self.beyond == (0, 0)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        high, wide = (
            (n + self.pads[at] + self.pads[at + 2] + self.beyond[at] - (k - 1) * d - 1) // s + 1
            for at, (n, k, d, s) in enumerate(
                zip(self.shape[1:], self.kernel, self.dilations, self.strides, strict=True)
            )
        )
        if high < 1 or wide < 1:
            raise UnreadError(f"its kernel {self.kernel} is larger than its input of shape {self.shape}")
        return self.shape[0], high, wide

    def index(self, *, beyond: int = -1) -> Tensor:
        """The pixels of each window, int64 (windows, kernel's size); -1 in the padding, `beyond` behind it."""
        _, high, wide = self.out_shape
        if high * wide * self.kernel[0] * self.kernel[1] > MOST_NUMBERS:
            raise UnreadError(f"has {high * wide:,} windows of {self.kernel}, which are listed one by one")
        numbers = torch.arange(self.shape[1] * self.shape[2]).reshape(self.shape[1:])
        top, left, bottom, right = self.pads
        padded = nn.functional.pad(numbers, (left, right, top, bottom), value=-1)
        padded = nn.functional.pad(padded, (0, self.beyond[1], 0, self.beyond[0]), value=beyond)
        y, x = (
            torch.arange(count)[:, None] * s + torch.arange(k) * d
            for count, s, k, d in zip((high, wide), self.strides, self.kernel, self.dilations, strict=True)
        )
        return padded[y[:, None, :, None], x[None, :, None, :]].reshape(high * wide, -1)

    def zeros(self) -> nn.Module:
        """Zeros around the image."""
        top, left, bottom, right = self.pads
        return nn.ZeroPad2d((left, right + self.beyond[1], top, bottom + self.beyond[0]))

    def padded(self, build: Callable[[tuple[int, int]], nn.Module]) -> nn.Module:
        """A layer with padding that may differ from side to side."""
        top, left, bottom, right = self.pads
        if (top, left) == (bottom, right):
            return build((top, left))
        return nn.Sequential(self.zeros(), build((0, 0)))

    def listed(self, index: Tensor, pool: nn.Module) -> nn.Sequential:
        """A pooling over windows that are listed one by one. index: as `index` gives it; -1 is a zero."""
        (count, size), (channels, high, wide) = index.shape, self.out_shape
        around = [Function(lambda x: nn.functional.pad(x, (0, 1)))] if (index < 0).any() else []
        picked = torch.where(index < 0, self.shape[1] * self.shape[2], index)
        return nn.Sequential(
            Function(lambda x: x.flatten(2)), *around, Gathered(2, picked.reshape(-1)),
            Function(lambda x: x.reshape(-1, channels, count, size)), pool,
            Function(lambda x: x.reshape(-1, channels, high, wide)),
        )  # fmt: skip

    def of_images(self, layer: nn.Module) -> nn.Module:
        """A layer of images, also where the input is none."""
        if not self.flat:
            return layer
        return nn.Sequential(Function(lambda x: x.unsqueeze(-1)), layer, Function(lambda x: x.squeeze(-1)))
