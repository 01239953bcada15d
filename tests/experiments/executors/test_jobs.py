"""The seam: what a job sends, how it ends, and what it may use."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from softadv.errors import DivergedError, SoftadvError
from softadv.experiments.executors.choose import Chosen
from softadv.experiments.executors.images import ImageLoader, LoadedHere, Source
from softadv.experiments.executors.in_process import InProcess
from softadv.experiments.executors.jobs import Ended, ProgressMessage, Send, ThrottledSend
from softadv.experiments.executors.resources import deal, fitting, usable_cores

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Saying:
    """A job that sends a number of threads, and ends by an error if there is one."""

    error: Exception | None = None
    threads: int | None = None
    name: str = "saying"

    def run(self, *, images: ImageLoader, send: Send) -> None:
        send(torch.get_num_threads())
        if self.error is not None:
            raise self.error


def outcome(job: Saying) -> list[object]:
    executor = InProcess(LoadedHere())
    messages: list[object] = []
    assert executor.free == 1
    executor.submit(job)
    assert executor.free == 0
    executor.deliver(lambda _handle, message: messages.append(message))
    return messages


def test_a_job_ends_once_and_says_how() -> None:
    before = torch.get_num_threads()
    assert outcome(Saying(threads=before + 1)) == [before + 1, Ended("finished")]
    assert torch.get_num_threads() == before
    assert outcome(Saying(SoftadvError("bad"))) == [before, Ended("refused", "bad")]
    diverged = DivergedError("NaN", epoch=2)
    assert outcome(Saying(diverged)) == [before, Ended("failed", str(diverged))]
    _, failed = outcome(Saying(RuntimeError("broken")))
    assert isinstance(failed, Ended)
    assert failed.outcome == "failed"
    assert failed.reason.endswith("RuntimeError: broken")


def test_what_is_told_within_a_moment_travels_as_one() -> None:
    now = [0.0]
    sent: list[object] = []
    send = ThrottledSend(sent.append, clock=lambda: now[0])
    for _ in range(5):
        send(ProgressMessage("training", 2))
    now[0] = 1.0
    send(ProgressMessage("training", 2, note="last"))
    send(ProgressMessage("evaluating", 1))
    send("files")
    send(ProgressMessage("training", 3, before=True))
    send.flush()
    assert sent == [
        ProgressMessage("training", 2),
        ProgressMessage("training", 10, note="last"),
        ProgressMessage("evaluating", 1),
        "files",
        ProgressMessage("training", 3, before=True),
    ]


def test_the_last_images_are_kept(digits) -> None:
    images = LoadedHere()
    source = Source("digits", None, 64, 32, digits.first(train=64, test=32).fingerprint)
    assert images(source) is images(source)
    assert len(images(source).train_x) == 64


def test_cores_are_dealt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deal(1, threads=None, gpus_per_trial=None, device=CPU).threads == usable_cores()
    assert deal(10_000, threads=None, gpus_per_trial=None, device=CPU).threads == 1
    assert deal(2, threads=3, gpus_per_trial=None, device=CPU).threads == 3
    assert deal(2, threads=1, gpus_per_trial=None, device=CPU).gpu(1) is None


@pytest.mark.parametrize("side_by_side", [{"jobs": 2}, {"ray": "local"}])
def test_a_part_of_a_gpu_is_for_trials_that_run_on_one(side_by_side) -> None:
    with pytest.raises(SoftadvError, match="the trials run on the CPU"):
        Chosen(gpus_per_trial=0.5, **side_by_side).place("cpu")


def test_gpus_are_dealt_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cuda = torch.device("cuda")
    four = deal(4, threads=1, gpus_per_trial=0.5, device=cuda)
    assert [four.gpu(worker) for worker in range(4)] == ["0", "1", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert deal(3, threads=1, gpus_per_trial=None, device=cuda).gpus == ("5", "7")
    with pytest.raises(SoftadvError, match="2 GPUs have room for 2 trials at a time, not for --jobs 3"):
        deal(3, threads=1, gpus_per_trial=1, device=cuda)
    assert [fitting(part) for part in (1, 0.5, 0.34, 0.1, 1 / 3)] == [1, 2, 2, 10, 3]
    with pytest.raises(SoftadvError, match="a part of one such as"):
        fitting(2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"jobs": 0}, "--jobs 0: must be from 1"),
        ({"jobs": 2, "threads": 0}, "--threads 0: must be from 1"),
        ({"gpus_per_trial": 0.5}, "needs --jobs"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, reason) -> None:
    with pytest.raises(SoftadvError, match=reason):
        Chosen(**options)
