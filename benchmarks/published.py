"""What ERAN's authors published about their own networks, counted by softadv: python -m benchmarks.published WEIGHTS…

WEIGHTS are files of ERAN's ConvSmall networks as state_dicts, such as mnist_conv_small_nat.pth and
cifar_conv_small_pgd.pth, which alpha,beta-CROWN's repository has among its models. They are not softadv's to ship. The
published counts are DeepPoly's in Singh et al., Beyond the Single Neuron Convex Barrier for Neural Network
Certification, NeurIPS 2019: of the first 1,000 test images.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import print_machine
from softadv import certify, load_dataset
from softadv._weights import check_state, read_weights
from softadv.errors import SoftadvError
from softadv.models import Normalize, conv_small

IMAGES = 1000


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of the paper's table, and how its network's inputs are normalised."""

    dataset: str
    eps: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    correct: int
    verified: int


# By the channels of the first convolution.
ROWS = {
    1: Published(dataset="mnist", eps=0.12, mean=(0.1307,), std=(0.3081,), correct=980, verified=158),
    3: Published(
        dataset="cifar10", eps=2 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010), correct=630,
        verified=359,
    ),
}  # fmt: skip


def network(path: Path) -> tuple[nn.Sequential, Published]:
    """A network from its file, with its normalisation in front, and its published row.

    Raises SoftadvError for a file that holds another network.
    """
    state, _ = read_weights(path)
    first = next(iter(state.values()))
    if first.ndim != 4 or first.shape[1] not in ROWS:
        raise SoftadvError(f"{path}: expected ERAN's ConvSmall, whose first convolution has 1 or 3 channels")
    row = ROWS[first.shape[1]]
    model = conv_small(row.dataset, seed=0)
    check_state(state, model, where=str(path))
    model.load_state_dict(state)
    return nn.Sequential(Normalize(row.mean, row.std), *model), row


def counted(model: nn.Module, x: Tensor, y: Tensor, *, eps: float) -> dict[str, int]:
    """How many images are classified correctly, and how many of them DeepPoly verifies without and with rounding."""
    with torch.no_grad():
        correct = int((model(x).argmax(1) == y).sum())
    verified = {
        rounding: int(certify(model, x, y, eps=eps, rounding=rounding, margins=False).verified.sum())
        for rounding in ("none", "sound")
    }
    return {"correct": correct, **verified}


def main(files: list[str]) -> None:
    """Print a row for each file. Raises SoftadvError for none, and for bad ones."""
    if not files:
        raise SoftadvError("WEIGHTS: name one file or more")
    networks = {file: network(Path(file)) for file in files}
    print_machine()
    for file, (model, row) in networks.items():
        data = load_dataset(row.dataset)
        found = counted(model, data.test_x[:IMAGES], data.test_y[:IMAGES], eps=row.eps)
        print(f"\n{Path(file).name}: {row.dataset}, eps {row.eps:.4f}, the first {IMAGES:,} test images")
        print(f"  published: {row.verified} verified of {row.correct} correct")
        print(
            f"  softadv:   {found['none']} of {found['correct']} without rounding, {found['sound']} with sound rounding"
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SoftadvError as error:
        sys.exit(f"benchmarks.published: {error}")
