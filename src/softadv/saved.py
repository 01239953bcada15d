"""A trained model from a run folder or a weights file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from softadv._io import read_tensors
from softadv.errors import SoftadvError
from softadv.models import conv_small
from softadv.run_folder import WEIGHTS, RunFolder
from softadv.spec import Trial


@dataclass(frozen=True)
class Saved:
    """A model, the dataset it is for, and the trial it comes from, if it lies in a run folder."""

    model: nn.Sequential
    dataset: str
    trial: Trial | None


def load_saved(path: Path, *, dataset: str | None = None, device: torch.device) -> Saved:
    """Load the paper's network with saved weights.

    path: a run folder with its final weights, or a safetensors file of conv_small's weights.
    dataset: names the dataset of a weights file that does not say it itself.
    Raises SoftadvError for what is missing, damaged or of another network.
    """
    trial = None
    if path.is_dir():
        trial = RunFolder(path).trial()
        path = path / WEIGHTS
        if not path.exists():
            raise SoftadvError(f"{path.parent}: has no {WEIGHTS} yet: the trial has not finished")
    weights, metadata = read_tensors(path)
    name = dataset or metadata.get("dataset")
    if name is None:
        raise SoftadvError(f"{path}: does not say what dataset its network is for; name it with --dataset")
    model = conv_small(name, normalize=any(key.endswith(".mean") for key in weights), seed=0)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise SoftadvError(f"{path}: not the weights of the {name} network ({reason})") from error
    return Saved(model.to(device).eval(), name, trial)
