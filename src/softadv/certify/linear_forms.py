"""Linear forms over an activation, one for each neuron that is to be bounded.

Back-substitution carries "this neuron is at least coefs · activation + const" from layer to layer.
A neuron of a convolution depends on a small patch of each earlier layer, so only that patch's
coefficients are stored, position by position. A neuron of a linear layer has one patch, the whole
plane. Both use the same tensor layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PlaneShape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Patches:
    """Where the patches of a grid of positions lie in a plane.

    Position (i, j) covers the pixels from (i * stride - padding, j * stride - padding) on. Pixels
    outside the plane are zero padding.
    """

    positions: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    size: tuple[int, int]

    @staticmethod
    def whole(height: int, width: int) -> Patches:
        """One patch that is the whole plane."""
        return Patches(positions=(1, 1), stride=(1, 1), padding=(0, 0), size=(height, width))

    @staticmethod
    def neurons(height: int, width: int) -> Patches:
        """One patch for each pixel."""
        return Patches(positions=(height, width), stride=(1, 1), padding=(0, 0), size=(1, 1))

    def through(self, *, stride: tuple[int, int], padding: tuple[int, int], reach: tuple[int, int]) -> Patches:
        """The patches in a convolution's input, of these patches in its output; reach: its kernel's extent."""
        return Patches(
            positions=self.positions,
            stride=(self.stride[0] * stride[0], self.stride[1] * stride[1]),
            padding=(self.padding[0] * stride[0] + padding[0], self.padding[1] * stride[1] + padding[1]),
            size=((self.size[0] - 1) * stride[0] + reach[0], (self.size[1] - 1) * stride[1] + reach[1]),
        )

    def steps_like(self, other: Patches) -> bool:
        """Whether the patches of two grids of positions lie at the same distances, wherever they begin."""
        return self.positions == other.positions and all(
            count == 1 or stride == theirs
            for count, stride, theirs in zip(self.positions, self.stride, other.stride, strict=True)
        )

    def union(self, other: Patches, *, plane: tuple[int, int]) -> Patches:
        """The least patches that hold these and the other ones; the whole plane where they do not step alike."""
        if not self.steps_like(other):
            return Patches.whole(*plane)
        padding = (max(self.padding[0], other.padding[0]), max(self.padding[1], other.padding[1]))
        ends = [max(w.size[i] - w.padding[i] for w in (self, other)) for i in (0, 1)]
        size = (ends[0] + padding[0], ends[1] + padding[1])
        return Patches(self.positions, self.stride, padding, size)

    def inside(self, height: int, width: int) -> bool:
        """Whether no patch extends beyond the plane's edge."""
        return all(
            padding == 0 and (count - 1) * stride + size <= side
            for padding, count, stride, size, side in zip(
                self.padding, self.positions, self.stride, self.size, (height, width), strict=True
            )
        )

    def cut(self, plane: Tensor) -> Tensor:
        """Cut the patches out of planes.

        plane: (N, C, H, W). Returns (N, P, h, w, C), zero outside the plane.
        """
        n, channels, height, width = plane.shape
        # From the first patch's start to the last one's end; the plane may reach beyond that.
        tall = (self.positions[0] - 1) * self.stride[0] + self.size[0]
        wide = (self.positions[1] - 1) * self.stride[1] + self.size[1]
        below, right = max(tall - self.padding[0] - height, 0), max(wide - self.padding[1] - width, 0)
        padded = F.pad(plane, (self.padding[1], right, self.padding[0], below))[:, :, :tall, :wide]
        views = padded.unfold(2, self.size[0], self.stride[0]).unfold(3, self.size[1], self.stride[1])
        return views.permute(0, 2, 3, 4, 5, 1).reshape(n, -1, *self.size, channels)


@dataclass(frozen=True)
class LinearForms:
    """Lower linear bounds: neuron r at position p of image n is at least coefs · patch + const.

    coefs: (N or 1, P or 1, R, h, w, C), channels last because convolutions are fastest so.
    const: (N or 1, P or 1, R), in the dtype that its terms are summed in.
    """

    coefs: Tensor
    const: Tensor
    patches: Patches

    def plus(self, biases: Tensor | None, errors: Tensor | None) -> LinearForms:
        """These forms with coefs * bias - |coefs| * error added to the constant.

        biases: (C,) of this activation, None for zero. errors: (N, C, H, W), not negative, None for zero.
        """
        const = self.const
        if biases is not None:
            const = const + self._sum(self.coefs, biases.expand(1, 1, *self.patches.size, -1))
        if errors is not None:
            const = const - self.dot(self.coefs.abs(), errors)
        return LinearForms(self.coefs, const, self.patches)

    def minimum(self, center: Tensor, radius: Tensor) -> Tensor:
        """The smallest value over the box center +- radius of activations, (N, C, H, W) to (N, P, R)."""
        const = self.const + self.dot(self.coefs, center) - self.dot(self.coefs.abs(), radius)
        return const.to(self.coefs.dtype)

    def dot(self, coefs: Tensor, plane: Tensor) -> Tensor:
        """Coefficients over these patches times an activation (N, C, H, W), summed in the type of const: (N, P, R)."""
        return self._sum(coefs, self.patches.cut(plane))

    def _sum(self, coefs: Tensor, values: Tensor) -> Tensor:
        if self.const.dtype == coefs.dtype:
            return torch.matmul(coefs.flatten(3), values.flatten(2).unsqueeze(3)).squeeze(3)
        return (coefs * values.unsqueeze(2)).sum((3, 4, 5), dtype=self.const.dtype)

    def merged(self, other: LinearForms, *, plane: tuple[int, int]) -> LinearForms:
        """The sum of two forms over one activation, whose patches may differ in size."""
        if not self.patches.steps_like(other.patches):
            return self.whole(*plane).merged(other.whole(*plane), plane=plane)
        patches = self.patches.union(other.patches, plane=plane)
        return LinearForms(self._spread(patches) + other._spread(patches), self.const + other.const, patches)

    def whole(self, height: int, width: int) -> LinearForms:
        """The same over the whole plane: coefs (N, 1, P * R, height, width, C), const (N or 1, 1, P * R)."""
        if self.patches == Patches.whole(height, width):
            return self
        (rows, columns), (tall, wide) = self.patches.positions, self.patches.size
        device = self.coefs.device
        # Of each position (rows, columns) and pixel (height, width): its place in the patch, or one behind it.
        y, x = (
            torch.arange(side, device=device) + padding - stride * torch.arange(count, device=device)[:, None]
            for side, count, stride, padding in zip(
                (height, width), self.patches.positions, self.patches.stride, self.patches.padding, strict=True
            )
        )
        y, x = y[:, None, :, None], x[None, :, None, :]
        inside = (y >= 0) & (y < tall) & (x >= 0) & (x < wide)
        place = torch.where(inside, y * wide + x, tall * wide).reshape(rows * columns, -1)
        n, _, count, _, _, channels = self.coefs.shape
        padded = F.pad(self.coefs.flatten(3, 4), (0, 0, 0, 1)).expand(-1, len(place), -1, -1, -1)
        coefs = padded.gather(3, place[None, :, None, :, None].expand(n, -1, count, -1, channels))
        const = self.const.expand(-1, len(place), -1).flatten(1)[:, None]
        return LinearForms(coefs.reshape(n, 1, -1, height, width, channels), const, Patches.whole(height, width))

    def _spread(self, patches: Patches) -> Tensor:
        """The coefficients over larger patches."""
        top, left = (patches.padding[i] - self.patches.padding[i] for i in (0, 1))
        bottom = patches.size[0] - self.patches.size[0] - top
        right = patches.size[1] - self.patches.size[1] - left
        return F.pad(self.coefs, (0, 0, left, right, top, bottom))
