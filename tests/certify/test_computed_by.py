"""Which engine computed, the compiled kernel or PyTorch, is said of each network, with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from softadv.certify import backsub_cpp as native
from softadv.certify import certify
from softadv.certify.backsub_cpp import CompiledBackSubstitution
from softadv.certify.backsub_torch import TorchBackSubstitution
from softadv.certify.computed_by import computed_by
from softadv.certify.trace import read_network
from softadv.kernels import build
from tests.networks import seeded

SHAPE = (4, 4, 4)
needs_kernel = pytest.mark.skipif(not native.available(), reason="needs a C++ compiler")


def plain(*layers: nn.Module) -> nn.Sequential:
    return seeded(0, lambda: nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3))).float()


def asked(model: nn.Module, *, domain="deeppoly", dtype=torch.float32, device="cpu"):
    return computed_by(read_network(model, SHAPE), domain=domain, dtype=dtype, device=torch.device(device))


@needs_kernel
def test_the_compiled_kernel_computes_what_it_knows():
    found = asked(plain(nn.Conv2d(4, 4, 1), nn.ReLU()))
    assert (str(found), found.backsub) == ("the compiled kernel", CompiledBackSubstitution)


@needs_kernel
def test_layers_that_pytorch_computes_beside_it_are_named():
    grouped = [part for _ in range(5) for part in (nn.Conv2d(4, 4, 1, groups=2), nn.ReLU())]
    found = asked(plain(*grouped))
    assert found.backsub is CompiledBackSubstitution
    assert str(found) == (
        "the compiled kernel; PyTorch the intervals of layer 0 (Conv2d): 2 groups, "
        "layer 2 (Conv2d): 2 groups, layer 4 (Conv2d): 2 groups and 2 more"
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"domain": "box"}, "box is intervals alone"),
        ({"device": "cuda"}, "the model is on cuda"),
        ({"dtype": torch.bfloat16}, "the model computes in torch.bfloat16"),
    ],
)
def test_pytorch_computes_the_rest_and_the_reason_is_said(options, reason):
    found = asked(plain(nn.ReLU()), **options)
    assert (str(found), found.backsub) == (f"PyTorch, since {reason}", TorchBackSubstitution)


def test_a_kernel_that_is_missing_or_switched_off_is_the_reason(monkeypatch):
    with native.disabled():
        assert asked(plain()).reason
    monkeypatch.setattr(build, "load", lambda source: "no C++ compiler found")
    build._fall_back.cache_clear()
    with pytest.warns(match="no C\\+\\+ compiler"):
        found = asked(plain())
    assert str(found) == "PyTorch, since no C++ compiler found"


def test_certificates_say_what_computed_them(engine):
    x, y = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    found = certify(plain(nn.ReLU()), x, y, eps=0.01)
    assert found.computed_by.startswith("the compiled kernel" if engine == "native" else "PyTorch, since ")
    assert (
        certify(plain(nn.ReLU()), x, y, eps=0.01, domain="box").computed_by == "PyTorch, since box is intervals alone"
    )
