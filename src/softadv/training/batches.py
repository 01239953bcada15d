"""The batches of an epoch: the order of the images, which are attacked, and their augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.training.config import TrainConfig

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """The batch of one step.

    images: int64 (B,), indices into the training set. attacked: int64 (K,), indices into the batch.
    With indices instead of masks, the number of attacked images is known without reading from the device.
    """

    images: Tensor
    attacked: Tensor


def plan_epoch(config: TrainConfig, epoch: int, attacked: Tensor, device: torch.device) -> list[Batch]:
    """An epoch's steps: planned on the CPU, then copied to the device at once. attacked: bool (N,)."""
    attacked = attacked.cpu()
    batches = _batches(config, attacked, generator=config.generator(epoch, "order", _CPU))
    places = [attacked[images].nonzero()[:, 0] for images in batches]
    return [Batch(*of_step) for of_step in zip(_sent(batches, device), _sent(places, device), strict=True)]


def attacked_in(steps: Sequence[Batch]) -> int:
    """How many images the steps attack; reads nothing from the device."""
    return sum(len(step.attacked) for step in steps)


def check_augmentation(augment: str, data: Dataset) -> None:
    """Raise SoftadvError for augmentation that would change the class of a data set's images."""
    if augment != "none" and not data.mirror_keeps_class:
        raise SoftadvError(f"augment: {augment!r} is not for {data.title}, whose mirrored images change class")


def augmented(config: TrainConfig, epoch: int, x: Tensor) -> Tensor:
    """The training images as an epoch sees them. x: (N, C, H, W)."""
    if config.augment == "none":
        return x
    return _crop_and_flip(x, generator=config.generator(epoch, "augmentation", _CPU))


def _batches(config: TrainConfig, attacked: Tensor, *, generator: torch.Generator) -> list[Tensor]:
    """The image indices of each step: shuffled, or all clean images first and then all attacked ones."""
    order = torch.randperm(len(attacked), generator=generator)
    passes = [order] if config.update == "mixed" else [order[~attacked[order]], order[attacked[order]]]
    # An empty tensor splits into one empty batch, which is left out.
    return [batch for indices in passes for batch in indices.split(config.batch_size) if len(batch)]


def _sent(parts: list[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """Copy tensors to a device in one transfer."""
    return torch.split(torch.cat(parts).to(device), [len(part) for part in parts])


def _crop_and_flip(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """Pad by 4 pixels, crop at random, flip half of the images: once an epoch, before the split."""
    n, _, height, width = x.shape
    padded = F.pad(x, (4, 4, 4, 4))
    top, left = torch.randint(9, (2, n), generator=generator).to(x.device)
    flip = torch.randint(2, (n,), generator=generator).to(x.device).bool()
    rows = (top[:, None] + torch.arange(height, device=x.device))[:, None, :, None]
    columns = torch.arange(width, device=x.device).expand(n, width)
    columns = (left[:, None] + torch.where(flip[:, None], columns.flip(1), columns))[:, None, None, :]
    images = torch.arange(n, device=x.device)[:, None, None, None]
    channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[images, channels, rows, columns]
