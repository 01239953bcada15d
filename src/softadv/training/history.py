"""The history of a training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from softadv.errors import SoftadvError
from softadv.training.records import EpochMetrics

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class History(Sequence[EpochMetrics]):
    """The epochs of a training, in order."""

    epochs: tuple[EpochMetrics, ...] = ()

    def __getitem__(self, index):  # type: ignore[no-untyped-def] # as of a tuple
        return self.epochs[index]

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[EpochMetrics]:
        return iter(self.epochs)

    def to_records(self) -> list[dict[str, object]]:
        """One dictionary per epoch, with the fields of EpochMetrics as keys."""
        return [asdict(epoch) for epoch in self.epochs]

    def to_frame(self) -> pandas.DataFrame:
        """A pandas DataFrame with one row per epoch. Raises SoftadvError where pandas is not installed."""
        try:
            import pandas  # type: ignore[import-untyped, unused-ignore] # noqa: PLC0415 (softadv does without)
        except ImportError as error:
            raise SoftadvError("history.to_frame: pandas is not installed; pip install pandas") from error
        return pandas.DataFrame.from_records(self.to_records())
