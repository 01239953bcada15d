"""Saved models: from run folders, from weights files, and from neither."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from softadv._io import write_tensors
from softadv.errors import SoftadvError
from softadv.experiments.load_model import about_weights, find_saved, load_saved
from softadv.models import conv_small
from tests.finished import a_run

CPU = torch.device("cpu")


@pytest.mark.parametrize("normalize", [False, True])
def test_weights_come_back_with_their_dataset(tmp_path: Path, normalize: bool) -> None:
    model = conv_small("cifar10", normalize=normalize, seed=1)
    write_tensors(tmp_path / "w.safetensors", model.state_dict(), metadata={"dataset": "cifar10"})
    saved = find_saved(tmp_path / "w.safetensors")
    assert (saved.dataset, saved.trial) == ("cifar10", None)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(load_saved(tmp_path / "w.safetensors", device=CPU)(x), model(x))


def test_weights_of_another_program_need_their_dataset_named(tmp_path: Path) -> None:
    save_file(conv_small("mnist", seed=1).state_dict(), tmp_path / "w.safetensors", metadata={"format": "pt"})
    with pytest.raises(SoftadvError, match="does not say what dataset"):
        load_saved(tmp_path / "w.safetensors", device=CPU)
    assert load_saved(tmp_path / "w.safetensors", dataset="mnist", device=CPU)


def test_weights_of_another_network_are_refused_in_one_line(tmp_path: Path) -> None:
    write_tensors(tmp_path / "w.safetensors", conv_small("mnist", seed=1).state_dict())
    with pytest.raises(SoftadvError, match="not the weights of conv_small for these images") as caught:
        load_saved(tmp_path / "w.safetensors", dataset="cifar10", device=CPU)
    assert "\n" not in str(caught.value)


STORED = sorted((Path(__file__).parents[2] / "expected_results" / "reference").glob("*/weights/*.safetensors"))


def test_a_weights_file_carries_the_trial_that_trained_it(tmp_path: Path) -> None:
    trial = a_run(seed=3).result.trial
    path = tmp_path / "w.safetensors"
    write_tensors(path, conv_small("digits", seed=1).state_dict(), metadata=about_weights(trial))
    assert find_saved(path).trial == trial


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_weights_that_name_no_trial_have_it_in_their_record(path: Path) -> None:
    trial = find_saved(path).trial
    assert trial is not None
    assert trial.name == path.stem


def test_a_record_beside_other_weights_is_not_theirs(tmp_path: Path) -> None:
    weights = tmp_path / "weights" / STORED[0].name
    weights.parent.mkdir()
    shutil.copy(STORED[0].parents[1] / f"{STORED[0].stem}.json", tmp_path)
    write_tensors(weights, conv_small("cifar10", seed=1).state_dict())
    assert find_saved(weights).trial is None


@pytest.mark.parametrize(("spec", "message"), [("{", "not valid JSON"), ("[]", "a JSON object"), ("{}", "missing")])
def test_a_spec_that_cannot_be_read_is_named(tmp_path: Path, spec: str, message: str) -> None:
    write_tensors(tmp_path / "w.safetensors", conv_small("digits", seed=1).state_dict(), metadata={"spec": spec})
    with pytest.raises(SoftadvError, match=f"w.safetensors: its spec.*{message}"):
        find_saved(tmp_path / "w.safetensors")


@pytest.mark.parametrize(("mark", "advice"), [("grid.json", "a grid's runs"), ("summary.json", "a grid's reference")])
def test_a_folder_that_is_no_run_says_what_it_is(tmp_path: Path, mark: str, advice: str) -> None:
    with pytest.raises(SoftadvError, match=r"not a run folder \(no spec.json in it\)$"):
        find_saved(tmp_path)
    (tmp_path / mark).write_text("{}")
    with pytest.raises(SoftadvError, match=advice):
        find_saved(tmp_path)
