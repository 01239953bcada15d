"""Back-substitution in PyTorch, on any device; backsub_cpp.py does the same on a CPU, faster."""

from __future__ import annotations

import torch
from torch import Tensor

from softadv.certify.bounds import BackSubstitution, Relaxed, Sides, forms_over_outputs
from softadv.certify.graph import Network
from softadv.certify.linear_forms import LinearForms, Patches
from softadv.certify.operators import Activation, Add, Interval, MaxPool, Relu
from softadv.certify.rounding import Arithmetic

# How many copies of the largest forms are in memory at the peak (measured on the paper's networks: 2.6 to 3.9).
_FORMS_ALIVE = 5


class TorchBackSubstitution(BackSubstitution):
    """Tensors of forms, a patch of coefficients for each neuron (linear_forms.py)."""

    sparing = False

    @staticmethod
    def arithmetic(network: Network, dtype: torch.dtype) -> Arithmetic:
        # Constants are summed in float64, in an order that PyTorch chooses; so are coefficients, in dtype.
        terms = 4 * network.neurons
        depth = terms if dtype == torch.float64 else 4
        return Arithmetic(dtype, depth, depth_of_sum=lambda terms, taps: terms * taps)

    @staticmethod
    def floats_per_image(network: Network) -> int:
        sizes = (_largest_forms(network, at) for at in range(1, len(network.nodes) + 1))
        return _FORMS_ALIVE * max(sizes, default=0)

    @staticmethod
    def bounds(relaxed: Relaxed, activation: int, asked: Sides, known: Interval) -> Interval:
        if not (asked[0] | asked[1]).any():
            return known
        channels, height, width = relaxed.network.shapes[activation]
        identity = torch.eye(channels, dtype=relaxed.center.dtype, device=relaxed.center.device)
        # The upper bound of a neuron is minus the lower bound of its negative.
        both = torch.cat([identity, -identity])[None, None, :, None, None]
        zero = both.new_zeros(1, 1, 2 * channels, dtype=relaxed.sums)
        forms = LinearForms(both, zero, Patches.neurons(height, width))
        # Forms over whole planes have their positions one after the other.
        least = _minimum(relaxed, forms, activation).reshape(len(known[0]), height * width, -1).transpose(1, 2)
        least = least.reshape(-1, 2, channels, height, width)
        return torch.where(asked[0], least[:, 0], known[0]), torch.where(asked[1], -least[:, 1], known[1])

    @staticmethod
    def minimum(relaxed: Relaxed, forms: Tensor, asked: Tensor) -> Tensor:
        over_outputs = forms_over_outputs(forms, sums=relaxed.sums)
        least = _minimum(relaxed, over_outputs, len(relaxed.network.nodes)).squeeze(1)
        return least.masked_fill(~asked, -torch.inf)


def _minimum(relaxed: Relaxed, forms: LinearForms, activation: int) -> Tensor:
    """Lower bounds (N, P, R) of forms over an activation."""
    waiting = {activation: forms}

    def add(at: int, forms: LinearForms) -> None:
        plane = relaxed.network.shapes[at][1:]
        waiting[at] = waiting[at].merged(forms, plane=plane) if at in waiting else forms

    for at, node in relaxed.network.backwards(start=activation):
        if at not in waiting:
            continue
        forms = waiting.pop(at)
        match node.step:
            case Relu() | MaxPool() | Activation() as step:
                add(node.inputs[0], step.backward(forms, relaxed.lines[at]))
            case Add() as step:
                forms = forms.plus(None, relaxed.errors.get(at))
                add(node.inputs[0], forms)
                add(node.inputs[1], LinearForms(forms.coefs, torch.zeros_like(forms.const), forms.patches))
            case step:
                add(node.inputs[0], step.backward(forms.plus(step.bias, relaxed.errors.get(at))))
    return waiting[0].minimum(relaxed.center, relaxed.radius)


def _largest_forms(network: Network, activation: int) -> int:
    """The number of coefficients of the largest forms of one image, of an activation's neurons."""
    channels, height, width = network.shapes[activation]
    count = 2 * channels * height * width
    patches = {activation: Patches.neurons(height, width)}
    largest = count
    for at, node in network.backwards(start=activation):
        if at not in patches:
            continue
        found = node.step.input_patches(patches.pop(at))
        for entering in node.inputs:
            plane = network.shapes[entering][1:]
            patches[entering] = patches[entering].union(found, plane=plane) if entering in patches else found
            size = patches[entering].size
            largest = max(largest, count * network.shapes[entering][0] * size[0] * size[1])
    return largest
