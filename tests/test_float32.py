"""Accuracies, attacks and trainings compute in plain float32, and leave PyTorch's settings as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import softadv
from softadv._float32 import float32_products
from softadv.data import Dataset
from softadv.training.evaluation import certified_accuracy, natural_accuracy

BACKENDS = cast(Any, torch.backends)  # PyTorch's stubs know nothing of these settings
ON_GPU = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn)
ON_CPU = (BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.rnn)
PLAIN = {"none", "ieee"}


def setting(owner: Any, name: str, value: object) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


WAYS: dict[str, Callable[[], None]] = {
    "as PyTorch starts": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "older: products allowed": setting(BACKENDS.cuda.matmul, "allow_tf32", True),
    "older: convolutions forbidden": setting(BACKENDS.cudnn, "allow_tf32", False),
    "products of a GPU": setting(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    "convolutions of a GPU": setting(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
    "products of a processor": setting(BACKENDS.mkldnn.matmul, "fp32_precision", "bf16"),
    "convolutions of a processor": setting(BACKENDS.mkldnn.conv, "fp32_precision", "tf32"),
    "all": setting(BACKENDS, "fp32_precision", "tf32"),
}


def newer() -> list[str]:
    return [backend.fp32_precision for backend in (*ON_GPU, *ON_CPU)]


def older() -> list[object]:
    """None where the newer settings are mixed so that PyTorch raises."""

    def read(one: Callable[[], object]) -> object:
        try:
            return one()
        except RuntimeError:
            return None

    return [
        read(torch.get_float32_matmul_precision),
        read(lambda: BACKENDS.cuda.matmul.allow_tf32),
        read(lambda: BACKENDS.cudnn.allow_tf32),
    ]


@pytest.fixture(params=WAYS)
def found(request: pytest.FixtureRequest) -> Iterator[tuple[list[str], list[object]]]:
    """PyTorch's settings, newer and older, as somebody has left them."""
    everywhere, at_first, precision = BACKENDS.fp32_precision, newer(), torch.get_float32_matmul_precision()
    convolutions = BACKENDS.cudnn.allow_tf32
    WAYS[request.param]()
    yield newer(), older()
    BACKENDS.fp32_precision = everywhere
    torch.set_float32_matmul_precision(precision)
    BACKENDS.cudnn.allow_tf32 = convolutions
    for backend, value in zip((*ON_GPU, *ON_CPU), at_first, strict=True):
        backend.fp32_precision = value


def assert_as(found: tuple[list[str], list[object]]) -> None:
    """Whether the settings are again as they were. Older ones that had no value may have one."""
    assert newer() == found[0]
    assert [now for now, was in zip(older(), found[1], strict=True) if was is not None] == [
        was for was in found[1] if was is not None
    ]


@pytest.mark.parametrize("tf32", [False, True])
def test_the_settings_hold_within_the_block_alone(found: tuple[list[str], list[object]], tf32: bool) -> None:
    within: list[Any] = []

    @float32_products(tf32=tf32)
    def fails() -> None:
        within.extend((newer(), older()))
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fails()
    assert set(within[0][: len(ON_GPU)]) <= ({"tf32"} if tf32 else PLAIN)
    assert set(within[0][len(ON_GPU) :]) <= PLAIN
    assert within[1] == ["high" if tf32 else "highest", tf32, tf32]  # as torch.compile and cudnn.flags ask
    assert_as(found)


class Looking(nn.Module):
    """A linear model that notes the settings with which it is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(28 * 28, 10)
        self.seen: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen += newer()
        scores: Tensor = self.linear(x.flatten(1))
        return scores


Asked = Callable[[nn.Module, Tensor, Tensor], object]
CALLS: dict[str, Asked] = {
    "evaluate": lambda model, x, y: softadv.evaluate(model, (x, y), eps=0.1, certify=True),
    "certified_curve": lambda model, x, y: softadv.certified_curve(model, x, y, eps=[0.1]),
    "pgd": lambda model, x, y: softadv.pgd(model, x, y, eps=0.1, steps=2),
    "natural_accuracy": natural_accuracy,
    "certified_accuracy": lambda model, x, y: certified_accuracy(model, x, y, eps=0.1, domain="box"),
    "train": lambda model, x, y: softadv.train(model, (x, y), method="soft", eps=0.1, epochs=1),
}


@pytest.mark.parametrize("found", ["as PyTorch starts", "medium", "all"], indirect=True)
@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_whatever_pytorch_is_set_to_they_compute_in_plain_float32(
    found: tuple[list[str], list[object]], call: Asked, digits: Dataset
) -> None:
    model = Looking()
    call(model, digits.test_x[:8], digits.test_y[:8])
    assert model.seen
    assert set(model.seen) <= PLAIN
    assert_as(found)
