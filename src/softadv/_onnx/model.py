"""A network of ONNX operators as a PyTorch module, usable by attacks, training and the certifier like any other."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from softadv._onnx import layers, shapes  # noqa: F401 (they register their operators)
from softadv._onnx.calls import EITHER, OPERATORS, OperatorCall, known_operators
from softadv._onnx.constants import UnreadError, attributes, folded
from softadv._onnx.file import MOST_MADE, MOST_NUMBERS, MOST_TOGETHER, Array, OnnxFile, read_file
from softadv._onnx.unbatched import build_unbatched
from softadv.errors import SoftadvError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class _Step:
    """One module's call: the names of its input activations and of its output."""

    key: str
    inputs: tuple[str, ...]
    output: str


class OnnxModel(nn.Module):
    """A network from an ONNX file: float (N, *shape) to the file's output.

    path: of the file. shape, dtype: of one input. batch: the file's literal batch size, None for any. This module takes
    any batch, even if the file takes one input without a batch (unbatched).
    """

    file_sha256: Tensor

    def __init__(self, file: OnnxFile) -> None:
        super().__init__()
        self.path, self.shape, self.batch = file.path, file.shape, file.batch
        self.dtype: torch.dtype = getattr(torch, file.dtype)
        self.unbatched = file.unbatched
        self.operators = nn.ModuleDict()
        self.register_buffer("file_sha256", torch.tensor(list(file.sha256), dtype=torch.uint8))
        self._input, self._output = file.input, file.output
        self._steps: list[_Step] = []

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, *shape)."""
        values = {self._input: x}
        for step in self._steps:
            values[step.output] = self.operators[step.key](*(values[name] for name in step.inputs))
        return values[self._output]

    def add(self, key: str, module: nn.Module, inputs: tuple[str, ...], output: str) -> None:
        """Append the call of a module."""
        self.operators[key] = module
        self._steps.append(_Step(key, inputs, output))


def read_onnx(path: Path, *, whole: bool = False) -> OnnxModel:
    """The network of an ONNX file, in eval mode, in its own floating-point type, on the CPU.

    Opsets 8 to 21; one input and one output. whole: a literal batch above 1 is no batch; its rows are one input.
    Raises SoftadvError in one line for a file that is damaged, and, naming the node, for an operator or an option that
    is not read.
    """
    file = read_file(path)
    if whole and file.batch not in (None, 1):
        return _read(file.whole)
    try:
        return _read(file)
    except SoftadvError as error:
        if file.batch is None:
            raise
        try:  # a first dimension that does not stay is no batch
            return _read(file.whole)
        except SoftadvError:
            raise error from None


def _read(file: OnnxFile) -> OnnxModel:
    path = file.path
    reader = _Reader(file)
    for number, node in enumerate(file.nodes):
        where = f"{path}: node {node.name or number} ({node.op_type})"
        try:
            reader.read(node, key=f"{number}_{node.op_type}")
        except UnreadError as error:
            raise SoftadvError(f"{where}: {error}") from error
        except (
            RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError,
            MemoryError,
        ) as error:  # fmt: skip
            raise SoftadvError(f"{where}: does not fit its inputs ({' '.join(str(error).split())[:200]})") from error
    if file.output not in reader.shapes:
        raise SoftadvError(f"{path}: its output {file.output} does not depend on its input")
    return reader.model.eval().requires_grad_(False)


class _Reader:
    """The modules of the nodes read so far. shapes: of each activation, as a tensor without memory.

    made: how many numbers the modules hold, with the constants that were computed; computed: of all activations.
    of_two: what constants that depend on the size of the batch are with a batch of two.
    """

    def __init__(self, file: OnnxFile) -> None:
        dtype: torch.dtype = getattr(torch, file.dtype)
        self.file, self.model, self.constants = file, OnnxModel(file), dict(file.constants)
        self.of_two: dict[str, Array] = {}
        self.made = self.computed = 0
        self.most = MOST_MADE + 2 * sum(constant.size for constant in file.constants.values())
        # Shapes are found on a device that has no memory.
        self.shapes = {file.input: torch.zeros(2, *file.shape, dtype=dtype, device="meta")}

    def read(self, node: onnx.NodeProto, *, key: str) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise UnreadError(f"is of the domain {node.domain!r}; the standard's operators are read")
        inputs, options = list(node.input), attributes(node)
        if node.op_type == "Shape" and inputs[0] in self.shapes:
            # The batch is left as it is wherever a shape is put together.
            sizes = [*(() if self.file.unbatched else (1,)), *self._shape(inputs[0])]
            kept = slice(options.get("start"), options.get("end"))
            self.constants[node.output[0]] = np.array(sizes[kept])
            if not self.file.unbatched and self.file.batch != 1:
                self._note_batch(node.output[0], np.array([2, *sizes[1:]][kept]))
            return
        if all(name in self.constants or not name for name in inputs):
            known = [self.constants.get(name) for name in inputs]
            constant = folded(node.op_type, known, options, self.file.opset)
            self._count(constant.size)
            self.constants[node.output[0]] = constant
            if any(name in self.of_two for name in inputs):
                known = [self.of_two.get(name, constant) for name, constant in zip(inputs, known, strict=True)]
                self._note_batch(node.output[0], folded(node.op_type, known, options, self.file.opset))
            return
        if node.op_type not in OPERATORS:
            raise UnreadError(f"is not read; operators that are: {', '.join(known_operators())}")
        for name in inputs:
            if name and name not in self.shapes and name not in self.constants:
                raise UnreadError(f"takes {name}, which nothing makes")
            if name in self.of_two and not (node.op_type == "Reshape" and self._is_first(name)):
                raise UnreadError(f"takes {name}, which depends on the size of the batch")
        if inputs[0] not in self.shapes and node.op_type not in EITHER:
            raise UnreadError("is read where its first input is an activation")
        active = tuple(name for name in inputs if name in self.shapes)
        call = OperatorCall(
            constants=[self.constants.get(name) for name in inputs], options=options, opset=self.file.opset,
            shapes=[self._shape(name) for name in active], first_active=inputs.index(active[0]),
            dtype=self.shapes[active[0]].dtype, outputs=max(at for at, name in enumerate(node.output, 1) if name),
            batch=None if any(name in self.of_two for name in inputs) else self.file.batch,
        )  # fmt: skip
        modules = build_unbatched(node.op_type, call) if self.file.unbatched else OPERATORS[node.op_type](call)
        for part, module in enumerate(modules):
            if node.output[part]:
                self._append(f"{key}_{part}" if part else key, module.eval(), active, node.output[part])

    def _note_batch(self, name: str, two: Array) -> None:
        """Keep what a constant is with a batch of two, unless it is the same, or the same for each input."""
        one = self.constants[name]
        repeated = (2, *one.shape[1:]) if one.ndim > 1 and len(one) == 1 else one.shape
        if two.shape not in (one.shape, repeated) or not (two == one).all():
            self._count(two.size)
            self.of_two[name] = two

    def _is_first(self, name: str) -> bool:
        """Whether a list of sizes depends on that of the batch in its first place alone, where the batch stays."""
        return np.array_equal(self.constants[name][1:], self.of_two[name][1:])

    def _append(self, key: str, module: nn.Module, active: tuple[str, ...], output: str) -> None:
        meta = {name: tensor.to("meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())}
        made = torch.func.functional_call(module, meta, tuple(self.shapes[name] for name in active))
        if made.ndim < 2:
            raise UnreadError("makes a number without dimensions")
        if prod(made.shape[1:]) > MOST_NUMBERS:
            raise UnreadError(f"makes an activation of {prod(made.shape[1:]):,} numbers")
        self.computed += prod(made.shape[1:])
        if self.computed > MOST_TOGETHER:
            raise UnreadError(f"is where the activations of one input pass {MOST_TOGETHER:,} numbers together")
        self._count(sum(tensor.numel() for tensor in meta.values()))
        self.shapes[output] = made
        self.model.add(key, module, active, output)

    def _count(self, numbers: int) -> None:
        """Keep a small file from filling the memory by many nodes that each repeat a constant."""
        self.made += numbers
        if self.made > self.most:
            raise UnreadError(f"is where the network passes {self.most:,} numbers, far more than the file holds")

    def _shape(self, name: str) -> tuple[int, ...]:
        """An activation's shape, without the batch."""
        return tuple(self.shapes[name].shape[1:])
