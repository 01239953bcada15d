"""A certification that jobs share: every row once, in order, and the same one wherever it was computed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from softadv._io import tensors_sha256
from softadv.certify.per_image import ImageResult, Question
from softadv.data import Dataset
from softadv.errors import SoftadvError
from softadv.experiments.certify_jobs import Sharded
from softadv.experiments.executors.images import LoadedHere, Source
from softadv.experiments.executors.in_process import InProcess
from softadv.experiments.executors.jobs import Executor
from softadv.experiments.executors.processes import Processes
from softadv.experiments.executors.resources import Dealt
from softadv.experiments.load_model import Saved

Verdicts = list[tuple[int, int, int, str, str]]
COUNT = 330  # six spans of chunks of 16, the last of which is cut short


def sharded(model: nn.Module, data: Dataset, *, fingerprint: str = "") -> Sharded:
    weights = model.state_dict()
    question = Question(
        weights=tensors_sha256(weights), dataset="digits", data=data.fingerprint, split="test", eps=0.05,
        domain="deeppoly", rounding="sound", certifier="native",
    )  # fmt: skip
    return Sharded(
        saved=Saved(Path("model"), weights, "digits", None), model=None, certifier="native", question=question,
        source=Source("digits", None, None, None, fingerprint or data.fingerprint), count=COUNT, size=16, device="cpu",
    )  # fmt: skip


def verdicts(rows: Iterator[list[ImageResult]]) -> Verdicts:
    """All but the seconds; the margin by its digits, since NaN is not itself."""
    return [(r.index, r.label, r.predicted, r.verdict, str(r.margin)) for some in rows for r in some]


@pytest.fixture(scope="module")
def alone(trained_digits: nn.Sequential, digits: Dataset) -> Verdicts:
    """What one process says, from the first image on."""
    return verdicts(sharded(trained_digits, digits).rows_from(0, executor=InProcess(LoadedHere()), threads=1))


@pytest.fixture
def two() -> Iterator[Executor]:
    executor = Processes(Dealt(2, 1))
    yield executor
    executor.close()


def test_two_workers_of_which_some_are_killed_say_what_one_process_says(
    alone: Verdicts, trained_digits: nn.Sequential, digits: Dataset, two: Executor
) -> None:
    assert [row[0] for row in alone] == list(range(COUNT))
    assert {row[3] for row in alone} == {"misclassified", "unverified", "verified"}
    found: Verdicts = []
    kills = 2
    for rows in sharded(trained_digits, digits).rows_from(100, executor=two, threads=1):
        found += verdicts(iter([rows]))
        if kills:
            kills -= 1
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)
    assert found == alone[100:]


def test_a_job_that_fails_is_one_line(trained_digits: nn.Sequential, digits: Dataset) -> None:
    other = sharded(trained_digits, digits, fingerprint="0" * 64)
    with pytest.raises(SoftadvError, match="images 0 to 63: digits: the images here are not those"):
        list(other.rows_from(0, executor=InProcess(LoadedHere()), threads=1))


def test_nothing_is_left_to_do_where_all_rows_are_there(trained_digits: nn.Sequential, digits: Dataset) -> None:
    executor = InProcess(LoadedHere())
    assert list(sharded(trained_digits, digits).rows_from(COUNT, executor=executor, threads=1)) == []
