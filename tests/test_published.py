"""The published counts are repeated for whoever has the files: the script on a network of softadv's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.published import ROWS, counted, network
from softadv import certify
from softadv.data import KNOWN
from softadv.errors import SoftadvError
from softadv.experiments.expected import expected_folder
from softadv.models import conv_small, load_model


def test_a_checkpoint_of_the_network_is_read_and_normalised(tmp_path: Path) -> None:
    """In the form that the files have: a list of one state_dict."""
    plain = conv_small("mnist", seed=0)
    torch.save({"state_dict": [plain.state_dict()], "epoch": 3}, tmp_path / "mnist_conv_small.pth")
    model, row = network(tmp_path / "mnist_conv_small.pth")
    assert row == ROWS[1]
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(model(x), plain((x - 0.1307) / 0.3081))


def test_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 3)}, tmp_path / "linear.pth")
    with pytest.raises(SoftadvError, match="expected ERAN's ConvSmall"):
        network(tmp_path / "linear.pth")


def test_it_counts_what_the_certifier_verifies() -> None:
    stored = expected_folder() / "reference/smoke/weights"
    model = load_model(next(stored.glob("*soft-seed0.safetensors")), KNOWN["digits"])
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 1, 28, 28, generator=generator)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 10
    found = counted(model, x, y, eps=0.001)
    assert found["correct"] == 19
    for rounding in ("none", "sound"):
        whole = certify(model, x, y, eps=0.001, rounding=rounding)
        assert found[rounding] == int(whole.verified.sum())
    assert 0 < found["sound"] <= found["none"]
