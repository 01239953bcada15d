"""Saved models: from run folders, from weights files, and from neither."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from softadv._io import write_tensors
from softadv.errors import SoftadvError
from softadv.models import conv_small
from softadv.saved import load_saved

CPU = torch.device("cpu")


@pytest.mark.parametrize("normalize", [False, True])
def test_weights_come_back_with_their_dataset(tmp_path: Path, normalize: bool) -> None:
    model = conv_small("cifar10", normalize=normalize, seed=1)
    write_tensors(tmp_path / "w.safetensors", model.state_dict(), metadata={"dataset": "cifar10"})
    saved = load_saved(tmp_path / "w.safetensors", device=CPU)
    assert (saved.dataset, saved.trial) == ("cifar10", None)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(saved.model(x), model(x))


def test_weights_of_another_program_need_their_dataset_named(tmp_path: Path) -> None:
    save_file(conv_small("mnist", seed=1).state_dict(), tmp_path / "w.safetensors", metadata={"format": "pt"})
    with pytest.raises(SoftadvError, match="name it with --dataset"):
        load_saved(tmp_path / "w.safetensors", device=CPU)
    assert load_saved(tmp_path / "w.safetensors", dataset="mnist", device=CPU).dataset == "mnist"


def test_weights_of_another_network_are_refused_in_one_line(tmp_path: Path) -> None:
    write_tensors(tmp_path / "w.safetensors", conv_small("mnist", seed=1).state_dict())
    with pytest.raises(SoftadvError, match="not the weights of the cifar10 network") as caught:
        load_saved(tmp_path / "w.safetensors", dataset="cifar10", device=CPU)
    assert "\n" not in str(caught.value)
