"""A learner between two epochs, as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from softadv._io import read_tensors, write_tensors
from softadv.errors import SoftadvError
from softadv.training.loop import Learner
from softadv.training.partition import Partition


def save_checkpoint(path: Path, learner: Learner, *, epoch: int, about: Mapping[str, str]) -> None:
    """Write everything that the next epoch starts from, atomically and with a checksum.

    about: what the checkpoint belongs to: the digests of its trial, of the epochs so far, and of the data.
    """
    state = {f"model.{name}": value for name, value in learner.model.state_dict().items()}
    for index, entries in learner.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{key}": value for key, value in entries.items() if value is not None}
    if learner.partition is not None:
        split = learner.partition
        state["partition"] = torch.stack([split.misclassified, split.unverified, split.verified])
    certifier = "" if learner.partition is None else learner.partition.certifier
    write_tensors(path, state, metadata={**about, "epoch": str(epoch), "certifier": certifier})


def load_checkpoint(path: Path, learner: Learner, *, device: torch.device) -> tuple[int, dict[str, str]]:
    """Put a learner back to where a checkpoint was written; returns its epoch, and what it belongs to.

    Raises SoftadvError naming the file when it is damaged or of another model.
    """
    state, metadata = read_tensors(path)
    try:
        epoch = int(metadata["epoch"])
        learner.model.load_state_dict(_under(state, "model."))
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(state, "optimizer.").items():
            index, key = name.split(".")
            entries.setdefault(int(index), {})[key] = value
        groups = learner.optimizer.state_dict()["param_groups"]
        learner.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        learner.replays.forget()  # the optimizer's state is elsewhere in memory now
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SoftadvError(f"{path}: not a checkpoint of this trial ({reason})") from error
    if "partition" in state:
        parts = state["partition"]
        if parts.ndim != 2 or len(parts) != 3 or parts.dtype is not torch.bool:
            raise SoftadvError(f"{path}: not a checkpoint of this trial (its split is no split)")
        misclassified, unverified, verified = parts.to(device).unbind()
        learner.partition = Partition(misclassified, unverified, verified, metadata.get("certifier", ""))
    return epoch, metadata


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
