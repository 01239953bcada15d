"""How much faster certification has become: this version and an earlier one take turns in one process.

Verdicts of training images, by the networks whose weights the reference has; the ratio is of the median seconds.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.measure import matrix_rate, print_machine, take_turns

HERE = Path(__file__).parents[1]
IMAGES, ROUNDS = 1024, 5
# Data set, weights and radius.
CASES = (
    ("mnist", "mnist/weights/mnist-eps0.1-soft-seed0", 0.1),
    ("mnist", "mnist/weights/mnist-eps0.1-adversarial-seed0", 0.1),
    ("cifar10", "cifar10/weights/cifar10-eps8-adversarial-seed0", 8 / 255),
    ("cifar10", "cifar10/weights/cifar10-eps8-adversarial-seed0", 2 / 255),
    ("cifar10", "paper-short/weights/cifar10-eps4-short-soft-seed0", 2 / 255),
)


class Version:
    """A softadv of its own, beside others in one process."""

    def __init__(self, source: Path) -> None:
        """source: the folder that holds its package."""
        self._modules: dict[str, ModuleType] = {}
        self._source = source
        with self.present():
            import softadv  # noqa: PLC0415 (this version's)

            self.package = softadv

    @contextmanager
    def present(self) -> Iterator[None]:
        """Import this version's modules, in a with statement, and none of another's."""
        others = _taken()
        sys.modules.update(self._modules)
        sys.path.insert(0, str(self._source))
        try:
            yield
        finally:
            sys.path.remove(str(self._source))
            self._modules = _taken()
            sys.modules.update(others)

    def question(self, dataset: str, weights: str, eps: float, *, images: int, **settings: Any) -> Callable[[], Any]:
        """What asks this version for the verdicts of a data set's first training images."""
        from safetensors.torch import load_file  # noqa: PLC0415

        with self.present():
            data = self.package.load_dataset(dataset)
            model = self.package.conv_small(dataset, seed=0)
            model.load_state_dict(load_file(HERE / "expected_results" / "reference" / f"{weights}.safetensors"))
        x, y = data.train_x[:images], data.train_y[:images]

        def ask() -> Any:
            with self.present():
                return self.package.certify(model, x, y, eps=eps, margins=False, **settings)

        return ask


def compare(revision: str, *, images: int = IMAGES, rounds: int = ROUNDS) -> None:
    """Print the ratios of this version's speed to a revision's. Needs git, and the data sets."""
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["git", "archive", revision, "src"], cwd=HERE, check=True, capture_output=True
        ).stdout  # fmt: skip
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        before, now = Version(Path(folder) / "src"), Version(HERE / "src")
        for dataset, weights, eps in CASES:
            question = partial(Version.question, dataset=dataset, weights=weights, eps=eps, images=images)
            asked = {
                revision: question(before),
                "now": question(now),
                "now, exact": question(now, effort="exact"),
            }
            seconds = take_turns(asked, rounds=rounds)
            verified = {name: ask().verified for name, ask in asked.items()}
            print(f"\n{weights}, eps {eps:.4g}, {images} training images; matrix product {matrix_rate():.0f} GFLOP/s")
            for name, taken in seconds.items():
                lost, extra = (int((a & ~b).sum()) for a, b in _both_ways(verified[revision], verified[name]))
                print(
                    f"  {name}: {images / taken:,.0f} images/s, {seconds[revision] / taken:.2f} times; "
                    f"{int(verified[name].sum())} verified, {lost} lost, {extra} more"
                )


def _both_ways(a: Any, b: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    return (a, b), (b, a)


def _taken() -> dict[str, ModuleType]:
    """softadv's modules, taken out of those that are imported."""
    names = [name for name in sys.modules if name.partition(".")[0] == "softadv"]
    return {name: sys.modules.pop(name) for name in names}
