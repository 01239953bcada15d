"""Arrays of images and labels: conversion to tensors, checks, and a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from softadv.errors import SoftadvError

_CHUNK = 4096  # images that are packed at a time


def image_tensor(found: object, *, where: str) -> Tensor:
    """Images (N, C, H, W), uint8 or float32, from an array or tensor as make_dataset takes it."""
    if not isinstance(found, np.ndarray | Tensor):
        raise SoftadvError(f"{where}: expected an array or a tensor, got a {type(found).__name__}")
    x = _as_tensor(found, where=where)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4:
        raise SoftadvError(f"{where}: expected images (N, H, W), (N, C, H, W) or (N, H, W, C), got {tuple(x.shape)}")
    if x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.permute(0, 3, 1, 2).contiguous()
    return x if x.dtype == torch.uint8 else x.float()


def scaled(x: Tensor) -> Tensor:
    """Float32 images in [0, 1]."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def _as_tensor(found: npt.NDArray[np.generic] | Tensor, *, where: str) -> Tensor:
    """The array as uint8 or a floating-point type."""
    if isinstance(found, Tensor):
        if found.dtype == torch.uint8 or found.is_floating_point():
            return found.detach()
    elif found.dtype == np.uint8:
        return torch.tensor(found)
    elif found.dtype.kind == "f":
        return torch.tensor(found.astype(np.float32))
    raise SoftadvError(f"{where}: expected pixels as uint8, or as floating point in [0, 1], got {found.dtype}")


def label_tensor(found: object, *, where: str) -> Tensor:
    """Int64 labels (N,) from an array or tensor of integers."""
    if isinstance(found, np.ndarray):
        whole = found.dtype.kind in "iu"
    elif isinstance(found, Tensor):
        whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    else:
        raise SoftadvError(f"{where}: expected an array or a tensor, got a {type(found).__name__}")
    if found.ndim != 1 or not whole:
        raise SoftadvError(f"{where}: expected whole numbers (N,), got {found.dtype} of shape {tuple(found.shape)}")
    return torch.tensor(found.astype(np.int64)) if isinstance(found, np.ndarray) else found.detach().long()


def check_parts(name: str, parts: Sequence[tuple[str, Tensor, Tensor]]) -> None:
    """Raise SoftadvError unless all parts (name, x, y) are images in [0, 1] of one shape with a label each."""
    for part, x, y in parts:
        where = f"dataset {name}: {part}"
        if x.ndim != 4 or x.dtype != torch.float32:
            raise SoftadvError(f"{where}_x: expected float32 (N, C, H, W), got {x.dtype} of shape {tuple(x.shape)}")
        if y.dtype != torch.int64 or y.ndim != 1:
            raise SoftadvError(f"{where}_y: expected int64 (N,), got {y.dtype} of shape {tuple(y.shape)}")
        if len(x) != len(y):
            raise SoftadvError(f"{where}: {len(x)} images but {len(y)} labels")
        if not x.numel():
            raise SoftadvError(f"{where}_x: no images, or images without pixels, of shape {tuple(x.shape)}")
        if x.shape[1:] != parts[0][1].shape[1:]:
            shapes = tuple(parts[0][1].shape[1:]), tuple(x.shape[1:])
            raise SoftadvError(f"dataset {name}: images of shape {shapes[0]} in {parts[0][0]}, {shapes[1]} in {part}")
        low, high = x.aminmax()
        if not (low >= 0 and high <= 1):  # a NaN is neither
            bad = int((~((x >= 0) & (x <= 1))).flatten(1).any(1).nonzero()[0])
            if not x[bad].isfinite().all():
                raise SoftadvError(f"{where}_x: image {bad} has pixels that are NaN or infinite")
            raise SoftadvError(
                f"{where}_x: image {bad} has pixels from {float(x[bad].min()):g} to {float(x[bad].max()):g}, outside "
                "[0, 1]; divide them by their largest possible value"
            )
        if int(y.min()) < 0:
            bad = int((y < 0).nonzero()[0])
            raise SoftadvError(f"{where}_y: image {bad} has label {int(y[bad])}, labels begin at 0")


def statistics(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of images (N, C, H, W), to four digits; 1 for a channel that never varies."""
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    std = [round(value, 4) or 1.0 for value in var.sqrt().tolist()]
    return tuple(round(value, 4) for value in mean.tolist()), tuple(std)


def fingerprint(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> str:
    """SHA-256 of images and labels, in 8 bits each where that loses nothing, else as they are."""
    digest = hashlib.sha256()
    for part, pack in ((train_x, _pixels), (train_y, _labels), (test_x, _pixels), (test_y, _labels)):
        digest.update(str(tuple(part.shape)).encode())
        for chunk in pack(part.split(_CHUNK)):
            digest.update(chunk.cpu().numpy().tobytes())
    return digest.hexdigest()


def _pixels(chunks: Sequence[Tensor]) -> Iterator[Tensor]:
    narrow = all(x.dtype == torch.uint8 or torch.equal((x * 255).round() / 255, x) for x in chunks)
    return ((x * 255).round().to(torch.uint8) if narrow and x.dtype != torch.uint8 else x for x in chunks)


def _labels(chunks: Sequence[Tensor]) -> Iterator[Tensor]:
    narrow = all(int(y.max()) < 256 for y in chunks)
    return (y.to(torch.uint8) if narrow else y for y in chunks)
