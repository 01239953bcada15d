"""Files: written so that each is there whole or not at all, read so that damage is one line; tensors and digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from softadv.errors import SoftadvError

_METADATA = "softadv"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises SoftadvError naming it where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SoftadvError(f"{folder}: cannot be made ({error.strerror})") from error


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also when the machine stops."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise SoftadvError(f"{path}: cannot be written ({error.strerror})") from error


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, so that files appear there in the order they were written."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Write JSON that people can read, atomically."""
    write_text(path, json.dumps(table, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises SoftadvError naming the file when it is missing or not one."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SoftadvError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SoftadvError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(table, dict):
        raise SoftadvError(f"{path}: expected a JSON object")
    return table


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, with a digest that read_tensors checks."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = dict(metadata or {})
    about["sha256"] = _digest(whole, about)
    # One key, because safetensors writes several in no fixed order, and equal runs should be equal files.
    write_bytes(path, save(whole, metadata={_METADATA: json.dumps(about, sort_keys=True)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and their metadata. Raises SoftadvError when missing, truncated or altered.

    Only files that softadv wrote have the digest that tells alterations; others have no metadata here.
    """
    if not path.is_file():
        raise SoftadvError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            metadata = json.loads(about.get(_METADATA, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise SoftadvError(f"{path}: not a safetensors file, or damaged ({error})") from error
    if not about.keys() <= {_METADATA, "format"}:
        raise SoftadvError(f"{path}: damaged, or its metadata are not softadv's")
    if _METADATA in about and metadata.pop("sha256", None) != _digest(tensors, metadata):
        raise SoftadvError(f"{path}: damaged, its contents do not match its own checksum")
    return tensors, metadata


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bits, independent of the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(f"{tensors_sha256(tensors)} {json.dumps(metadata, sort_keys=True)}".encode()).hexdigest()
