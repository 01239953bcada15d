"""Safe unpickling of plain data: no function that a file names is called.

pickle.load calls any function that a file names. Here a file can only name the reconstruction of a NumPy array, which
this module does itself, without NumPy.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt

from softadv.errors import SoftadvError


class _Type:
    """Replaces numpy.dtype: stores only its name."""

    def __init__(self, name: object = None, *_rest: object) -> None:
        self.name = name

    def __setstate__(self, _state: object) -> None:
        pass


class _Array:
    """Replaces numpy.ndarray: stores only its pickled state."""

    def __init__(self, *_arguments: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Buffer(_Array):
    """The same in pickle protocol 5."""

    def __init__(self, content: bytes | bytearray, dtype: object, shape: object, order: object) -> None:
        self.state = (1, shape, dtype, order == "F", bytes(content))


class _Latin1(bytes):
    """Bytes, as Python 3 pickles them for Python 2."""

    def __new__(cls, text: str, encoding: str) -> _Latin1:
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, _state: object) -> None:
        pass


# All of them are classes with a __setstate__, so that a file cannot set attributes of theirs.
_ADMITTED: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # until NumPy 1.26
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _Buffer,
    ("numpy._core.numeric", "_frombuffer"): _Buffer,
    ("numpy", "ndarray"): "numpy.ndarray",  # an argument, not called
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Latin1,
}


# The C unpickler allocates as much memory as a hostile file says; the Python one allocates only what it needs.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no plain data") from None

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError(f"it names extension {code}, which is no plain data")


def read_pickle(content: bytes, *, where: str) -> object:
    """What a pickle holds: dictionaries, lists, tuples, bytes, strings, numbers and arrays of bytes.

    Strings of Python 2 come out as bytes. Arrays come out as what bytes_of_array takes.
    where: names the file in messages. Raises SoftadvError for anything else, and for damage.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises almost anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise SoftadvError(f"{where}: not a pickle of plain data, or damaged ({said})") from error


def bytes_of_array(found: object, *, where: str) -> npt.NDArray[np.uint8]:
    """The uint8 array of any shape that read_pickle found. Raises SoftadvError for what is none."""
    match found:
        case _Array(
            state=(int(), tuple() as shape, _Type(name="u1" | b"u1" | "uint8"), bool() as fortran, bytes() as data)
        ):
            if all(type(size) is int and size >= 0 for size in shape) and math.prod(shape) == len(data):
                flat = np.frombuffer(data, dtype=np.uint8)
                return flat.reshape(shape, order="F" if fortran else "C")
    raise SoftadvError(f"{where}: expected an array of bytes")
