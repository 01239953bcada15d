"""The gradient of the loss with respect to the image, which is all that an attack needs from a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softadv._as_built import oddity
from softadv.kernels.transposed_conv import TransposedConv
from softadv.models import Normalize, is_plain_sequential

_MOST_ZEROS = 4096  # for each of a convolution's weights

# From images (N, C, H, W) and labels (N,), or target probabilities (N, classes), to the gradient of the summed
# cross-entropy, (N, C, H, W).
InputGradient = Callable[[Tensor, Tensor], Tensor]


def input_gradient(model: nn.Module) -> InputGradient:
    """The gradient function of a model with its present weights, in the mode the model is in.

    A chain of convolutions, ReLUs and linear layers is differentiated by hand, in channels-last
    memory and without autograd's bookkeeping; anything else goes through autograd.
    """
    chain = plain_chain(model)
    if chain is None or any(isinstance(module, nn.Conv2d) and _is_sparse(module) for module in chain):
        return _autograd(model)
    return _by_hand([_layer(module) for module in chain])


def _is_sparse(layer: nn.Conv2d) -> bool:
    """Whether strides are so much larger than the kernel that TransposedConv would work on zeros nearly alone."""
    rows, columns = layer.weight.shape[2:]
    return layer.stride[0] * layer.stride[1] > _MOST_ZEROS * rows * columns


def _autograd(model: nn.Module) -> InputGradient:
    # Without the parameters in the graph, backward skips their gradients.
    frozen = {name: value.detach() for name, value in model.named_parameters()}

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        point = x.detach().requires_grad_()
        with torch.enable_grad():
            # A copy: a model that begins with an in-place layer may not change a tensor that a gradient is asked for.
            logits = torch.func.functional_call(model, frozen, (point.clone(),))
            loss = F.cross_entropy(logits, y, reduction="sum")
        return torch.autograd.grad(loss, point)[0]

    return gradient


def _by_hand(layers: list[_Layer]) -> InputGradient:
    changes_image = _starts_with_relu(layers)

    @torch.no_grad()
    def gradient(x: Tensor, y: Tensor) -> Tensor:
        value = _channels_last(x.clone() if changes_image else x)
        values = [value]
        for layer in layers:
            value = layer.forward(value)
            values.append(value)
        # The derivative of the cross-entropy by the logits.
        grad_output = value.softmax(1)
        if y.ndim == 2:
            grad_output.sub_(y)
        else:
            grad_output.scatter_add_(1, y[:, None], grad_output.new_full((), -1.0).expand(len(y), 1))
        for layer in reversed(layers):
            left, entered = values.pop(), values[-1]
            grad_output = layer.backward(grad_output, entered, left)
        return F.pad(grad_output, (0, x.shape[3] - grad_output.shape[3], 0, x.shape[2] - grad_output.shape[2]))

    return gradient


def _channels_last(x: Tensor) -> Tensor:
    """x in channels-last memory, with channels-last strides even for a single channel.

    PyTorch would otherwise treat a one-channel image as channels-first and convert in the next layer.
    """
    _, channels, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    return x.as_strided(x.shape, (channels * height * width, 1, channels * width, channels))


class _Layer(Protocol):
    """One layer of a chain, forwards and backwards.

    The windows of a strided convolution may miss the last rows and columns of its input. The gradient there is zero
    and is left out until the end: grad_output covers only the part that windows reach.
    """

    def forward(self, x: Tensor) -> Tensor: ...

    def backward(self, grad_output: Tensor, entered: Tensor, left: Tensor) -> Tensor:
        """The gradient by the layer's input. grad_output: that by its output; entered, left: its input and output."""
        ...


class _Conv:
    def __init__(self, layer: nn.Conv2d) -> None:
        weight = layer.weight.detach()
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.stride = (layer.stride[0], layer.stride[1])
        self.padding = (int(layer.padding[0]), int(layer.padding[1]))
        self.transposed = TransposedConv(weight, stride=self.stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def backward(self, grad_output: Tensor, entered: Tensor, left: Tensor) -> Tensor:
        if 0 in grad_output.shape:  # no image, or windows that cover only padding
            return entered.new_zeros(*entered.shape[:2], 0, 0)
        top, side = self.padding
        return self.transposed(grad_output)[:, :, top : top + entered.shape[2], side : side + entered.shape[3]]


class _Linear:
    def __init__(self, layer: nn.Linear) -> None:
        self.weight = layer.weight.detach()
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def backward(self, grad_output: Tensor, entered: Tensor, left: Tensor) -> Tensor:
        return grad_output @ self.weight


class _Relu:
    """In place in both directions: allocating a tensor costs more than the arithmetic."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu_()

    def backward(self, grad_output: Tensor, entered: Tensor, left: Tensor) -> Tensor:
        if grad_output.ndim == 4:
            left = left[:, :, : grad_output.shape[2], : grad_output.shape[3]]
        passed: Tensor = torch.ops.aten.threshold_backward.grad_input(grad_output, left, 0, grad_input=grad_output)
        return passed


class _Flatten:
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def backward(self, grad_output: Tensor, entered: Tensor, left: Tensor) -> Tensor:
        return grad_output.reshape(entered.shape).contiguous(memory_format=torch.channels_last)


class _Normalize:
    def __init__(self, layer: Normalize) -> None:
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        normalized: Tensor = self.layer(x)
        return normalized

    def backward(self, grad_output: Tensor, entered: Tensor, left: Tensor) -> Tensor:
        return grad_output / self.layer.std[:, None, None]


def plain_chain(model: nn.Module) -> list[nn.Module] | None:
    """The layers of a chain that can be differentiated by hand, nested chains flattened; None for any other model."""
    if oddity(model) or model._backward_hooks or model._backward_pre_hooks:
        return None
    if is_plain_sequential(model):
        layers: list[nn.Module] = []
        for part in model._modules.values():
            inner = None if part is None else plain_chain(part)
            if inner is None:
                return None
            layers += inner
        return layers
    return [model] if _is_plain(model) else None


def _is_plain(module: nn.Module) -> bool:
    # Exact types: a subclass may compute something else.
    if type(module) is nn.Flatten:
        return (module.start_dim, module.end_dim) == (1, -1)
    if type(module) is nn.Conv2d:
        plain = module.groups == 1 and tuple(module.dilation) == (1, 1)
        return plain and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) in {nn.ReLU, nn.Linear, Normalize}


def _starts_with_relu(layers: list[_Layer]) -> bool:
    """Whether a ReLU, which works in place, comes before any layer that makes a new tensor."""
    first = next((layer for layer in layers if not isinstance(layer, _Flatten)), None)
    return isinstance(first, _Relu)


def _layer(module: nn.Module) -> _Layer:
    match module:
        case nn.Linear():
            return _Linear(module)
        case nn.Conv2d():
            return _Conv(module)
        case Normalize():
            return _Normalize(module)
        case nn.Flatten():
            return _Flatten()
    return _Relu()
