"""Files: atomic writes, reads that report damage in one line, tensors and digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from softadv.errors import SoftadvError

_METADATA = "softadv"
_PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{12}\.partial")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. Raises SoftadvError naming it where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise SoftadvError(f"{folder}: is a file, not a folder") from None
    except OSError as error:
        raise SoftadvError(f"{folder}: cannot be made ({error.strerror})") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and durably: a power cut leaves all of it or nothing. A symbolic link is replaced.

    Raises SoftadvError naming the file where it cannot be written.
    """
    write_all({path: data})


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write several files: each whole or not at all, in the given order.

    Raises SoftadvError naming the first that cannot be written. That is nearly always found before any appears, as a
    full disk is. Where one cannot take its place, such as that of an immutable file, those before it stay.
    """
    partials: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in files.items():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            # A unique name for each writer, which must not exist yet, so that no other file or link is written to.
            partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            partials[path] = partial
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            os.replace(partial, path)
            sync_folder(path.parent)
    except OSError as error:
        for partial in partials.values():
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        raise SoftadvError(f"{path}: cannot be written ({error.strerror})") from error


def remove_partials(folder: Path, names: Iterable[str]) -> None:
    """Remove partial files of a killed process. Only the folder's single writer may call this."""
    ours = set(names)
    for path in list_folder(folder):
        match = _PARTIAL.fullmatch(path.name)
        if match and match["name"] in ours:
            path.unlink(missing_ok=True)


def is_partial(path: Path) -> bool:
    """Whether a file's name is that of an incomplete write."""
    return _PARTIAL.fullmatch(path.name) is not None


def list_folder(folder: Path) -> list[Path]:
    """A folder's entries, sorted by name; none if it does not exist. Raises SoftadvError where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SoftadvError(f"{folder}: cannot be read ({error.strerror})") from error


def delete_file(path: Path) -> None:
    """Delete a file, if it exists. Raises SoftadvError where that fails."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SoftadvError(f"{path}: cannot be deleted ({error.strerror or error})") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that files appear there in the order they were written.

    Does nothing where that is impossible, as in a folder that may be written and not read: the files are there.
    """
    with contextlib.suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def json_bytes(path: Path, table: Mapping[str, Any]) -> bytes:
    """Indented JSON. Raises SoftadvError naming the file for NaN and infinity, which JSON does not have."""
    try:
        return (json.dumps(table, indent=2, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise SoftadvError(f"{path}: not written: {str(error).lower()}") from error


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Write indented JSON atomically. Raises SoftadvError as json_bytes and write_bytes do."""
    write_bytes(path, json_bytes(path, table))


def read_bytes(path: Path) -> bytes:
    """A regular file's content. Raises SoftadvError naming the file where it is not regular or cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise SoftadvError(f"{path}: not a file")
        return path.read_bytes()
    except OSError as error:
        raise SoftadvError(f"{path}: cannot be read ({error.strerror})") from error


def read_text(path: Path) -> str:
    """A UTF-8 text file, whatever the locale. Raises SoftadvError naming the file."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise SoftadvError(f"{path}: not UTF-8 ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises SoftadvError naming the file when it is missing or not one."""
    return parse_json(read_text(path), where=str(path))


def parse_json(text: str, *, where: str) -> dict[str, Any]:
    """A JSON object: no NaN, no infinity, no key twice. Raises SoftadvError that begins with `where`."""
    try:
        table = json.loads(text, parse_constant=_no_number, object_pairs_hook=_each_once)
    except ValueError as error:
        raise SoftadvError(f"{where}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise SoftadvError(f"{where}: not valid JSON (nested too deeply)") from error
    if not isinstance(table, dict):
        raise SoftadvError(f"{where}: expected a JSON object")
    return table


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """The table of a TOML file. Raises SoftadvError that begins with `where`."""
    try:
        return tomllib.loads(text)
    except ValueError as error:  # a number of 5,000 digits is one, too
        raise SoftadvError(f"{where}: not valid TOML ({error})") from error
    except RecursionError as error:
        raise SoftadvError(f"{where}: not valid TOML (nested too deeply)") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in [other for other, _ in pairs[:place]])
        raise ValueError(f"the key {twice!r} is there twice")
    return table


def tensors_bytes(tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as safetensors, with a digest that read_tensors checks."""
    whole: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        plain = _plain(tensor)
        place = plain.untyped_storage().data_ptr()
        whole[name] = plain.clone() if place in places else plain  # safetensors takes no tied weights
        places.add(place)
    about = dict(metadata or {})
    about["sha256"] = _digest(whole, about)
    # One key, because safetensors writes several in no fixed order, and equal runs should give equal files.
    return save(whole, metadata={_METADATA: json.dumps(about, sort_keys=True)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, with a digest that read_tensors checks."""
    write_bytes(path, tensors_bytes(tensors, metadata=metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and their metadata. Raises SoftadvError when missing, truncated or altered.

    Only files that softadv wrote have the digest that reveals alterations; for others the metadata are empty.
    """
    try:
        if not path.is_file():
            raise SoftadvError(f"{path}: no such file")
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SoftadvError:
        raise
    # For a damaged header, and for a dtype that PyTorch does not have.
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise SoftadvError(f"{path}: not a safetensors file, or damaged ({_one_line(error)})") from error
    if not about.keys() <= {_METADATA, "format"}:
        raise SoftadvError(f"{path}: damaged, or its metadata are not softadv's")
    if _METADATA not in about:
        return tensors, {}
    metadata = parse_json(about[_METADATA], where=f"{path}: metadata")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise SoftadvError(f"{path}: metadata: expected texts alone")
    if metadata.pop("sha256", None) != _digest(tensors, metadata):
        raise SoftadvError(f"{path}: damaged, its contents do not match its own checksum")
    return tensors, metadata


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bits, independent of the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = _plain(tensors[name])
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes, since NumPy does not have all of PyTorch's numbers.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises SoftadvError naming the file where it cannot be read."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    """The tensor as a file stores it: with lazy negation and conjugation resolved."""
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    return text_sha256(f"{tensors_sha256(tensors)} {json.dumps(metadata, sort_keys=True)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
