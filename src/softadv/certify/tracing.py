"""Tracing a PyTorch model with torch.fx, and checking that its graph is the same in every mode of evaluation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace

from softadv._as_built import has_own_code
from softadv.certify.layers import is_one_layer
from softadv.certify.rounding import evaluation_settings
from softadv.errors import SoftadvError


class _Proxy(fx.Proxy):
    """A symbol that notices `a += b` and the like, which fx would take for `a = a + b`."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)

    def _in_place(self, function: Callable[[Any, Any], Any], other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})


class _Tracer(fx.Tracer):
    """Stops at PyTorch's own layers and at others that are read as a whole; traces into everything else."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def __init__(self) -> None:
        super().__init__()
        self._settings = evaluation_settings()
        self.constants: dict[str, Tensor] = {}

    def create_node(self, *arguments: Any, **options: Any) -> fx.Node:
        # The first node, the image, comes before the model's code, which is to see what an evaluation sees.
        _hide_tracing()
        if evaluation_settings() != self._settings:  # the graph would not show it
            raise SoftadvError("it changes how PyTorch computes, as autocast does")
        return super().create_node(*arguments, **options)

    def create_arg(self, a: Any) -> Any:
        own = isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and type(a) is Tensor
        if not own or any(a is buffer for buffer in self.root.buffers()):
            return super().create_arg(a)
        # fx would write it into the model, under another name each time; this name tells its numbers.
        values = a.detach().cpu().contiguous()
        told = f"{values.dtype} {tuple(values.shape)}".encode() + values.reshape(-1).view(torch.uint8).numpy().tobytes()
        name = f"constant_{sha256(told).hexdigest()}"
        self.constants[name] = a.detach()
        return self.create_node("get_attr", name, (), {})

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_one_layer(m) or bool(super().is_leaf_module(m, module_qualified_name))


def _hide_tracing() -> None:
    """Make torch.fx.is_fx_tracing() return False; Tracer.trace restores it."""
    if hasattr(_symbolic_trace, "_set_is_fx_tracing"):
        _symbolic_trace._set_is_fx_tracing(False)
    else:  # before PyTorch 2.12
        vars(_symbolic_trace)["_is_fx_tracing_flag"] = False


def trace(model: nn.Module) -> tuple[fx.Graph, dict[str, Tensor]]:
    """The operations of a model in its present modes, and the tensors that its own code creates.

    Raises SoftadvError where torch.fx cannot trace it.
    """
    tracer = _Tracer()
    try:
        return tracer.trace(model), tracer.constants
    except Exception as error:  # whatever the model's own code raises when it is run on a symbol
        reason = " ".join(str(error).split())
        raise SoftadvError(f"model: {type(model).__name__} cannot be traced by torch.fx: {reason}") from error


def check_other_modes(model: nn.Module, graph: fx.Graph) -> None:
    """Raise SoftadvError where a model's graph depends on whether gradients are recorded.

    A verdict would be ambiguous then. Training mode is not asked about: the layers are read in the modes that they are
    in, and `certify` puts them all into eval mode.
    """
    if not has_own_code(model):
        return  # there is nothing that could ask for a mode, but layers, which are read with theirs
    operations = _operations(graph)
    modes: list[tuple[str, AbstractContextManager[object]]] = [
        ("with gradients", torch.enable_grad()),
        ("under torch.no_grad()", torch.no_grad()),
        ("under torch.inference_mode()", torch.inference_mode()),
    ]
    for name, mode in modes:
        with torch.inference_mode(False), mode:
            if _operations(trace(model)[0]) != operations:
                raise SoftadvError(f"model: {type(model).__name__} computes something else {name}")


def _operations(graph: fx.Graph) -> list[tuple[object, ...]]:
    """A graph's nodes, to be compared with another's."""
    places = {node: at for at, node in enumerate(graph.nodes)}
    return [
        (node.op, node.target, repr(fx.map_arg((node.args, node.kwargs), lambda used: f"%{places[used]}")))
        for node in graph.nodes
    ]
