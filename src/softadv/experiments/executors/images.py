"""The images of a job, wherever it runs: named by what loads them, and checked to be the same ones everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from softadv.data import Dataset, load_dataset
from softadv.errors import SoftadvError


@dataclass(frozen=True)
class Source:
    """Which images: a data set by name, and how many of each part; None is all.

    root: where they are looked for, as load_dataset takes it. fingerprint: of all of them, as the driver has them.
    """

    dataset: str
    root: Path | None
    train: int | None
    test: int | None
    fingerprint: str

    def load(self) -> Dataset:
        """The images, in main memory. Raises SoftadvError where there are none, or others than the driver's."""
        found = load_dataset(self.dataset, self.root).first(train=self.train, test=self.test)
        if found.fingerprint != self.fingerprint:
            raise SoftadvError(
                f"{self.dataset}: the images here are not those that the jobs are for (fingerprint "
                f"{found.fingerprint[:12]}, expected {self.fingerprint[:12]})"
            )
        return found


# Where a job finds its images.
ImageLoader = Callable[[Source], Dataset]


class LoadedHere:
    """Images as the jobs of one process need them, one after another: the last ones are kept."""

    def __init__(self) -> None:
        self._last: tuple[Source, Dataset] | None = None

    def __call__(self, source: Source) -> Dataset:
        """The images of a source. Raises what Source.load raises."""
        if self._last is None or self._last[0] != source:
            self._last = None  # two at once may not fit
            self._last = source, source.load()
        return self._last[1]
