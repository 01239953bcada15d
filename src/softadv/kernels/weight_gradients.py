"""The gradients of a model's weights in a compiled kernel (cpp/gradients/update.cpp), on a CPU."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor, nn

from softadv.kernels import build as compiled
from softadv.kernels.chain import Chain, CNetwork

SOURCE = Path(__file__).parent / "cpp" / "gradients" / "update.cpp"


def available() -> bool:
    """Whether the compiled kernel is used for models on the CPU."""
    return compiled.available(SOURCE)


def missing() -> str | None:
    """Why there is no compiled kernel, or None where there is one."""
    return compiled.missing(SOURCE)


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
    """Set .grad of every parameter that requires one to the gradient of the mean cross-entropy, in new memory.

    The .grad of all other parameters is set to None.
    x: float32 (N, C, H, W); y: int64 (N,). The gradients are autograd's up to the order of summation, which on one
    machine depends only on N and on the number of PyTorch's threads.
    Returns the mean cross-entropy, float32 (); or None, with nothing set, where the kernel does not support the model
    or the tensors.
    Raises MemoryError where memory runs out.
    """
    return _differentiated(model, x, y, weight=None)


def trades_gradients(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, *, weight: float) -> Tensor | None:
    """The same for the TRADES loss: the mean of CE(f(x), y) + weight * KL(f(x) || f(x_adv)).

    x, x_adv: float32 (N, C, H, W); y: int64 (N,). weight: the paper's 1 / lambda.

    Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019, equation (5).
    """
    # An image and its attacked version are neighbours, so that one block has both.
    pairs = torch.stack([x, x_adv], 1).flatten(0, 1)
    return _differentiated(model, pairs, y.repeat_interleave(2), weight=weight)


def _differentiated(model: nn.Module, x: Tensor, y: Tensor, *, weight: float | None) -> Tensor | None:
    """weight: None for the cross-entropy; otherwise TRADES' weight, and the images are pairs."""
    prepared = _prepared(model, x, y)
    if prepared is None:
        return None
    chain, found = prepared
    loss = torch.empty((), dtype=torch.float32, device="cpu")
    pairs = weight is not None
    update = _CUpdate(network=chain.network(), loss=loss.data_ptr(), pairs=pairs, weight=weight or 0.0)
    compiled.call_kernel(SOURCE, "differentiate", update)
    for parameter in model.parameters():
        parameter.grad = _laid_out(found[parameter], parameter) if parameter in found else None
    return loss


def takes(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether gradients would differentiate the model on such images."""
    return _prepared(model, x, y) is not None


def _prepared(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Chain, dict[nn.Parameter, Tensor]] | None:
    """The chain that the kernel computes, and where it will write the gradients; None where it cannot."""
    if x.device.type != "cpu" or not available():
        return None
    chain = Chain.of(model, x, y)
    if chain is None:
        return None
    found: dict[nn.Parameter, Tensor] = {}
    for layer, module in chain.weighted():
        for name in ("weight", "bias"):
            parameter = getattr(module, name)
            if parameter is None or not parameter.requires_grad:
                continue
            if parameter in found:  # shared by two layers, whose gradients would have to be added
                return None
            found[parameter] = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
            setattr(layer, f"{name}_gradient", found[parameter].data_ptr())
    learning = {parameter for parameter in model.parameters() if parameter.requires_grad}
    if not learning or found.keys() != learning or any(map(_is_watched, learning)):
        return None  # such as weights that are computed from others
    return chain, found


def _is_watched(parameter: nn.Parameter) -> bool:
    """Whether autograd would call hooks with its gradient."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def _laid_out(gradient: Tensor, parameter: nn.Parameter) -> Tensor:
    """A gradient in the parameter's memory format, as autograd returns it: optimizers rely on that."""
    return gradient if parameter.is_contiguous() else torch.empty_like(parameter).copy_(gradient)


class _CUpdate(ctypes.Structure):
    """Update of cpp/gradients/update.cpp."""

    _fields_ = (
        ("network", CNetwork),
        ("loss", ctypes.c_void_p),
        ("pairs", ctypes.c_int32),
        ("weight", ctypes.c_float),
    )
