"""A trained model from a run folder or a weights file, with the trial that trained it where that is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from softadv._io import parse_json, tensors_sha256
from softadv._ranges import shown
from softadv._weights import read_weights
from softadv.data import KNOWN, About, Dataset, load_dataset
from softadv.errors import SoftadvError
from softadv.experiments.reference import SUMMARY, read_record
from softadv.experiments.run_folder import GRID, RESULT, SPEC, WEIGHTS, RunFolder
from softadv.experiments.spec import Trial, trial_from_table, trial_to_table
from softadv.models import load_onnx, model_with_weights

ONNX = ".onnx"


@dataclass(frozen=True)
class Saved:
    """Weights on disk, or an ONNX file.

    dataset: what their network is for; trial: what trained them; None where nothing says so.
    """

    path: Path
    weights: Mapping[str, Tensor]
    dataset: str | None
    trial: Trial | None

    def model(self, data: Dataset | About, *, device: torch.device, name: str | None = None) -> nn.Module:
        """The network for a data set with these weights, in eval mode.

        name: of the model; None is what the weights say, or conv_small. An ONNX file takes none.
        Raises SoftadvError for the weights of another network.
        """
        if self.path.suffix == ONNX:
            if name is not None:
                raise SoftadvError(f"{self.path}: says itself what its network is; leave out --model {shown(name)}")
            read = load_onnx(self.path, data)
            if read.dtype != torch.float32:
                raise SoftadvError(f"{self.path}: takes images in {read.dtype}, those of data sets are in float32")
            return read.to(device)
        own = "conv_small" if self.trial is None else self.trial.model
        model = model_with_weights(name or own, self.weights, data, where=str(self.path))
        return model.to(device).eval()


def about_weights(trial: Trial) -> dict[str, str]:
    """The metadata of a weights file, for write_tensors; find_saved reads it back."""
    return {
        "dataset": trial.dataset,
        "model": trial.model,
        "normalize": str(trial.normalize).lower(),
        "spec": json.dumps(trial_to_table(trial), sort_keys=True),
    }


def find_saved(path: Path) -> Saved:
    """Read the weights of a run folder, or of a safetensors file; of an ONNX file, note its name.

    A file's trial is the one that it names; a file of the stored reference that names none has it in its record.
    Raises SoftadvError for what is missing or damaged.
    """
    trial = result = None
    if path.is_dir():
        _check_run_folder(path)
        trial, _, result = RunFolder(path).read()
        path = path / WEIGHTS
        if not path.exists():
            raise SoftadvError(f"{path.parent}: has no {WEIGHTS} yet: the trial has not finished")
    if path.suffix == ONNX:
        return Saved(path, {}, None, None)
    weights, about = read_weights(path)
    if result is not None and tensors_sha256(weights) != result.weights_sha256:
        raise SoftadvError(f"{path}: not the weights that {RESULT} was measured with; {RunFolder(path.parent).again()}")
    trial = trial or _named_trial(path, about) or _recorded_trial(path, weights)
    dataset = about.get("dataset")
    return Saved(path, weights, trial.dataset if dataset is None and trial is not None else dataset, trial)


def load_saved(path: Path, *, dataset: str | None = None, device: torch.device) -> nn.Module:
    """The network with the weights that find_saved reads.

    dataset: names the dataset of a weights file that does not say it itself.
    Raises SoftadvError for what is missing, damaged or of another network.
    """
    saved = find_saved(path)
    name = dataset or saved.dataset
    if name is None:
        raise SoftadvError(f"{path}: does not say what dataset its network is for; name it")
    return saved.model(known_or_loaded(name), device=device)


def known_or_loaded(dataset: str, root: Path | None = None) -> Dataset | About:
    """The metadata of a built-in data set; any other data set is loaded."""
    return KNOWN.get(dataset) or load_dataset(dataset, root)


def _check_run_folder(folder: Path) -> None:
    if (folder / SPEC).exists():
        return
    advice = ""
    if (folder / GRID).exists():
        advice = "; it holds a grid's runs, name one of the folders in it"
    elif (folder / SUMMARY).exists():
        advice = "; it holds a grid's reference, name one of the files in its folder weights"
    raise SoftadvError(f"{folder}: not a run folder (no {SPEC} in it){advice}")


def _named_trial(path: Path, about: Mapping[str, str]) -> Trial | None:
    if "spec" not in about:
        return None
    where = f"{path}: its spec"
    return trial_from_table(parse_json(about["spec"], where=where), where=where)


def _recorded_trial(path: Path, weights: Mapping[str, Tensor]) -> Trial | None:
    """The trial in the record that a reference keeps of the weights that lie in its folder weights."""
    record = path.absolute().parent.parent / f"{path.stem}.json"
    if path.absolute().parent.name != "weights" or not record.is_file():
        return None
    found = read_record(record).result
    return found.trial if found.weights_sha256 == tensors_sha256(weights) else None
