"""A training between two epochs, as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from softadv._io import read_tensors, write_tensors
from softadv.errors import SoftadvError
from softadv.training.early_stopping import Best
from softadv.training.partition import Partition
from softadv.training.state import TrainState


def save_checkpoint(
    path: Path, train_state: TrainState, *, epoch: int, about: Mapping[str, str], best: Best | None = None
) -> None:
    """Write the complete state that the next epoch starts from, atomically and with a checksum.

    about: the digests of the trial, of the metrics so far, and of the data.
    best: the best epoch so far, where the training may stop early.
    """
    state = {f"model.{name}": value for name, value in train_state.model.state_dict().items()}
    for index, entries in train_state.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{key}": value for key, value in entries.items() if value is not None}
    if train_state.partition is not None:
        split = train_state.partition
        state["partition"] = torch.stack([split.misclassified, split.unverified, split.verified])
        if split.made_in is not None:
            state["partition.made_in"] = split.made_in
    certifier = "" if train_state.partition is None else train_state.partition.certifier
    metadata = {**about, "epoch": str(epoch), "certifier": certifier}
    if best is not None and best.weights:
        state |= {f"best.{name}": value for name, value in best.weights.items()}
        metadata |= {"best_epoch": str(best.epoch), "best_accuracy": best.accuracy.hex()}
    write_tensors(path, state, metadata=metadata)


def load_checkpoint(
    path: Path, train_state: TrainState, *, device: torch.device, best: Best | None = None
) -> tuple[int, dict[str, str]]:
    """Restore a training and its best epoch from a checkpoint; returns its epoch, and `about` of save_checkpoint.

    best: None where the training does not stop early; a best epoch in the file, as earlier versions wrote, is ignored.
    Raises SoftadvError naming the file when it is damaged or of another model.
    """
    state, metadata = read_tensors(path)
    try:
        epoch = int(metadata["epoch"])
        train_state.model.load_state_dict(_under(state, "model."))
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(state, "optimizer.").items():
            index, key = name.split(".")
            entries.setdefault(int(index), {})[key] = value
        groups = train_state.optimizer.state_dict()["param_groups"]
        train_state.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        if best is not None and "best_epoch" in metadata:
            best.epoch, best.accuracy = int(metadata["best_epoch"]), float.fromhex(metadata["best_accuracy"])
            best.weights = {name: value.to(device) for name, value in _under(state, "best.").items()}
        train_state.replays.forget()  # the optimizer's state has moved in memory
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SoftadvError(f"{path}: not a checkpoint of this trial ({reason})") from error
    if "partition" in state:
        parts = state["partition"]
        if parts.ndim != 2 or len(parts) != 3 or parts.dtype is not torch.bool:
            raise SoftadvError(f"{path}: not a checkpoint of this trial (its split is no split)")
        made_in = state.get("partition.made_in")  # none in a checkpoint of an earlier version
        if made_in is not None:
            if made_in.dtype is not torch.int32 or made_in.shape != parts.shape[1:]:
                raise SoftadvError(f"{path}: not a checkpoint of this trial (its verdicts have no ages)")
            made_in = made_in.to(device)
        misclassified, unverified, verified = parts.to(device).unbind()
        certifier = metadata.get("certifier", "")
        train_state.partition = Partition(misclassified, unverified, verified, certifier, made_in)
    return epoch, metadata


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
