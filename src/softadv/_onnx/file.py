"""Reading an untrusted ONNX file: any problem is one line, and memory is bounded by the file's size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softadv.errors import SoftadvError

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]

OPSETS = range(8, 22)
# Numbers: of one input, of an activation, of all activations of one input, and of the weights. VGG16 on 224 x 224
# pixels has about 2**17, 2**22, 2**25 and 2**27.
MOST_INPUTS = 2**22
MOST_NUMBERS = 2**23
MOST_TOGETHER = 2**25
MOST_WEIGHTS = 2**28
# Numbers that a network may hold beyond twice those of its file.
MOST_MADE = 2**23
MOST_NODES = 2**14
_MOST_BYTES = 2**31  # protobuf's own limit
_TYPES = {1: "float32", 11: "float64"}


@dataclass(frozen=True)
class OnnxFile:
    """The content of a file. shape: of one input, without the batch; batch: its literal size, or None.

    unbatched: the input has no batch.

    constants: the initializers. nodes: in the order of computation. sha256: of the file's bytes.
    """

    path: Path
    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, Array]
    input: str
    output: str
    shape: tuple[int, ...]
    batch: int | None
    dtype: str
    opset: int
    sha256: bytes
    unbatched: bool

    @property
    def whole(self) -> OnnxFile:
        """The same with the literal batch as a dimension of one input. Raises SoftadvError where that is too large."""
        if self.batch is None or not 0 < self.batch * prod(self.shape) <= MOST_INPUTS:
            raise SoftadvError(f"{self.path}: its input {self.input} has a batch of {self.batch}")
        return replace(self, shape=(self.batch, *self.shape), batch=None, unbatched=True)


def read_file(path: Path) -> OnnxFile:
    """Read an ONNX file. Raises SoftadvError, in one line, for one that is damaged or of another kind."""
    import onnx  # noqa: PLC0415 (most programs read no ONNX)

    try:
        endless = path.exists() and not path.is_file()  # as devices are
        large = path.stat().st_size >= _MOST_BYTES
        data = b"" if endless or large else path.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError: the name holds a zero byte
        reason = getattr(error, "strerror", None) or error
        raise SoftadvError(f"{path}: cannot be read ({reason})") from error
    if endless or large:
        raise SoftadvError(f"{path}: {'is no file' if endless else f'is larger than {_MOST_BYTES:,} bytes'}")
    try:
        proto = onnx.load_model_from_string(data)
        onnx.checker.check_model(str(path))
    except Exception as error:  # whatever protobuf and the checker raise
        reason = " ".join(str(error).split())[:200]
        raise SoftadvError(f"{path}: not a well-formed ONNX file ({reason or type(error).__name__})") from error
    graph = proto.graph
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise SoftadvError(f"{path}: is of opset {opset}; opsets {OPSETS[0]} to {OPSETS[-1]} are read")
    if len(graph.node) > MOST_NODES:
        raise SoftadvError(f"{path}: has {len(graph.node):,} nodes; {MOST_NODES:,} are read")
    weights = sum(abs(prod(tensor.dims)) for tensor in graph.initializer)
    if weights > MOST_WEIGHTS:
        raise SoftadvError(f"{path}: has initializers of {weights:,} numbers together; {MOST_WEIGHTS:,} are read")
    constants = {tensor.name: _array(tensor, path) for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise SoftadvError(
            f"{path}: has {len(inputs)} inputs and {len(graph.output)} outputs; networks of one each are read"
        )
    if graph.sparse_initializer:
        raise SoftadvError(f"{path}: has sparse initializers, which are not read")
    (value,) = inputs
    kind = value.type.tensor_type
    if kind.elem_type not in _TYPES:
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise SoftadvError(f"{path}: its input {value.name} is of type {name}; float and double are read")
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    unbatched = len(dims) == 1
    dims = [None, *dims] if unbatched else dims
    if len(dims) < 2 or any(dim is None for dim in dims[1:]):
        raise SoftadvError(f"{path}: its input {value.name} has shape {dims}; all but the batch must be known")
    shape = tuple(dim for dim in dims[1:] if dim is not None)
    if min(shape) < 1 or prod(shape) > MOST_INPUTS:
        raise SoftadvError(f"{path}: its input {value.name} has shape {dims}, of no size that is read")
    return OnnxFile(
        path, tuple(graph.node), constants, value.name, graph.output[0].name, shape, dims[0] or None,
        _TYPES[kind.elem_type], opset, sha256(data).digest(), unbatched,
    )  # fmt: skip


def _array(tensor: onnx.TensorProto, path: Path) -> Array:
    """An initializer's numbers; external ones lie in files beside the model. Raises SoftadvError for wrong sizes."""
    import onnx  # noqa: PLC0415

    where = f"{path}: initializer {tensor.name}"
    if any(dim < 0 for dim in tensor.dims):
        raise SoftadvError(f"{where}: has shape {list(tensor.dims)}")
    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return _external(tensor, path, where)
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise SoftadvError(f"{where}: does not hold what its shape says ({' '.join(str(error).split())})") from error


def _external(tensor: onnx.TensorProto, path: Path, where: str) -> Array:
    import onnx  # noqa: PLC0415

    told = {entry.key: entry.value for entry in tensor.external_data}
    folder = path.resolve().parent
    file = (folder / told.get("location", "")).resolve()
    if folder not in file.parents or not file.is_file():
        place = told.get("location", "")
        raise SoftadvError(f"{where}: its data are to lie in {place!r:.60}, which is no file beside the model")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    offset, size = int(told.get("offset", 0)), prod(tensor.dims) * dtype.itemsize
    if offset < 0 or int(told.get("length", size)) != size or offset + size > file.stat().st_size:
        raise SoftadvError(f"{where}: {file.name} does not hold {size} bytes from {offset} on")
    with file.open("rb") as stream:
        stream.seek(offset)
        return np.frombuffer(stream.read(size), dtype).reshape(tuple(tensor.dims))
