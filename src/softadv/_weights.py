"""Files of weights: safe reading, and comparison with a model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from softadv._io import read_tensors
from softadv.errors import SoftadvError

SUFFIXES = (".safetensors", ".pt", ".pth")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state_dict, and softadv's own metadata where the file has them.

    path: a .safetensors file, or a .pt or .pth with a state_dict, either alone or under a usual key of a checkpoint.
    The prefixes "module." and "_orig_mod." of wrapped models are dropped. No code in the file is run.
    Raises SoftadvError for a file that is missing or damaged, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        state, metadata = read_tensors(path)
    else:
        state, metadata = _read_state_dict(path), {}
    for prefix in ("module.", "_orig_mod.", "module."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state, metadata


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise SoftadvError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other formats, which are refused below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        said = " ".join(str(error).split(". ")[0].split()) or type(error).__name__
        raise SoftadvError(f"{path}: not a state_dict of tensors alone, or damaged ({said})") from error
    candidates = [found]
    if isinstance(found, dict):
        held = [found[key] for key in ("state_dict", "model_state_dict", "model", "net") if key in found]
        candidates += [state[0] if isinstance(state, list) and len(state) == 1 else state for state in held]
    for state in candidates:
        if isinstance(state, dict) and state and all(isinstance(tensor, Tensor) for tensor in state.values()):
            return {str(key): tensor for key, tensor in state.items()}
    raise SoftadvError(f"{path}: holds no state_dict; save one with torch.save(model.state_dict(), ...)")


def check_state(state: Mapping[str, Tensor], model: nn.Module, *, where: str) -> None:
    """Raise SoftadvError naming the first key that does not match the model; the message begins with `where`."""
    expected = model.state_dict()
    for key, tensor in expected.items():
        # Older files lack num_batches_tracked; only batch norm with momentum=None uses it.
        if key not in state and not key.endswith("num_batches_tracked"):
            raise SoftadvError(f"{where}: has no {key}")
        if key in state and state[key].shape != tensor.shape:
            shapes = tuple(state[key].shape), tuple(tensor.shape)
            raise SoftadvError(f"{where}: {key} is of shape {shapes[0]}, not {shapes[1]}")
    for key in state:
        if key not in expected:
            raise SoftadvError(f"{where}: has {key} besides")
