"""Check that a module computes what its class says, before the kernels or the certifier compute it instead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softadv.models import Normalize

# The methods that nn.Module runs between a call and forward.
_CALL = ("__call__", "_wrapped_call_impl", "_call_impl", "_compiled_call_impl", "_slow_forward")


# Fresh instances of the layers that softadv computes itself; exactly these classes, since a subclass may do anything.
# On the meta device, initialisation draws no random numbers.
_LAYERS: dict[type[nn.Module], nn.Module] = {
    type(layer): layer
    for layer in (
        nn.Conv2d(1, 1, 1, device="meta"), nn.Linear(1, 1, device="meta"), nn.BatchNorm2d(1), nn.ReLU(),
        nn.MaxPool2d(1), nn.AvgPool2d(1), nn.Flatten(), nn.Identity(), nn.Dropout(), nn.Dropout2d(),
        nn.Dropout1d(), nn.LeakyReLU(), nn.PReLU(device="meta"), nn.ReLU6(), nn.Hardtanh(), nn.Sigmoid(), nn.Tanh(),
        nn.BatchNorm1d(1), nn.AdaptiveAvgPool2d(1), nn.ZeroPad2d(1), nn.Softmax(1), nn.LogSoftmax(1),
        nn.Unflatten(1, (1,)), Normalize((0.0,), (1.0,)),
    )
}  # fmt: skip


def oddity(module: nn.Module) -> str | None:
    """The reason why a call of a module may differ from its class's forward on its weights; None if it cannot.

    A PyTorch layer that the kernels and the certifier compute themselves, or Normalize, must have no attributes beyond
    those of its class, and plain tensors as weights. Any other module must have no forward hooks, and no method
    replaced on the instance. Backward hooks are allowed, since they change no output.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        return "has hooks: it may compute anything"
    for name in _CALL:
        if getattr(type(module), name) is not getattr(nn.Module, name) or name in vars(module):
            return f"has a {name} of its own: it may compute anything"
    if type(module) not in _LAYERS:
        replaced = [name for name in vars(module) if callable(getattr(type(module), name, None))]
        return f"has a {replaced[0]} of its own, not of its class: it may compute anything" if replaced else None
    fresh = _LAYERS[type(module)]
    parts = ("__dict__", "_parameters", "_buffers", "_modules")
    foreign = [name for part in parts for name in getattr(module, part) if name not in getattr(fresh, part)]
    if foreign:
        return f"has {foreign[0]} of its own, which {type(module).__name__} does not have: it may compute anything"
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        reason = None if tensor is None else peculiarity(tensor)
        if reason is not None:
            return f"its {name} {reason}"
    return None


def has_own_code(model: nn.Module) -> bool:
    """Whether a model runs any code of its own, beyond PyTorch's layers in nn.Sequential."""
    return any(type(module) is not nn.Sequential and type(module) not in _LAYERS for module in model.modules())


def peculiarity(tensor: Tensor) -> str | None:
    """The reason why a tensor's values may differ from the numbers in its memory; None if they cannot."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"is a {type(tensor).__name__}, not a plain tensor"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_complex():
        return f"is a tensor of layout {tensor.layout} and type {tensor.dtype}, not a plain one"
    if tensor.is_neg() or tensor.is_conj():
        return "is kept as the negative or conjugate of what lies in memory; give the layer its clone"
    if tensor._is_zerotensor():
        return "is kept as zeros without memory; give the layer its clone"
    return None
