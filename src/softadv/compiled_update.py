"""The gradients of a model's weights by a compiled kernel (attack_kernel/update.cpp), on a CPU."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor, nn

from softadv import compiled
from softadv.compiled_chain import Chain, Network

_SOURCE = Path(__file__).with_name("attack_kernel") / "update.cpp"


def available() -> bool:
    """Whether the compiled kernel is used for models on the CPU."""
    return compiled.available(_SOURCE)


def missing() -> str | None:
    """Why there is no compiled kernel, or None where there is one."""
    return compiled.missing(_SOURCE)


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
    """Set .grad of every parameter that requires one to the gradient of the mean cross-entropy, in new memory.

    x: (N, C, H, W); y: int64 (N,). The gradients are those of autograd up to the order of summation, which depends on
    the number of PyTorch's threads and on nothing else.
    Returns the mean cross-entropy, float32 (), or None for what the kernel does not do; then nothing is set.
    Raises MemoryError where memory runs out.
    """
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
            found[parameter] = torch.empty(parameter.shape)
            setattr(layer, f"{name}_slope", found[parameter].data_ptr())
    loss = torch.empty(())
    update = _CUpdate(network=chain.network(), loss=loss.data_ptr())
    library = compiled.load(_SOURCE)
    assert not isinstance(library, str)
    if library.differentiate(ctypes.byref(update)):
        raise MemoryError("the update's kernel ran out of memory")
    for parameter, gradient in found.items():
        parameter.grad = gradient
    return loss


class _CUpdate(ctypes.Structure):
    """Update of attack_kernel/update.cpp."""

    _fields_ = (("network", Network), ("loss", ctypes.c_void_p))
