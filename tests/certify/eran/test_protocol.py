"""Whom softadv believes: an answer that denies itself is none."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from softadv.certify.eran.process import Worker, WorkerDied
from softadv.certify.eran.protocol import read_answer
from softadv.errors import SoftadvError


def answer(**said: object) -> bytes:
    return json.dumps({"request": 1, "index": 0, "verdict": "verified", "seconds": 0.1} | said).encode()


def test_a_positive_margin_and_none_are_believed() -> None:
    assert read_answer(answer(margin=0.5), request=1, among=[0]).margin == 0.5
    without = read_answer(answer(), request=1, among=[0])
    assert without.verdict == "verified"
    assert without.margin != without.margin


def test_an_unverified_image_may_have_any_margin() -> None:
    for margin in (-5, 0, 1):
        assert read_answer(answer(verdict="unverified", margin=margin), request=1, among=[0]).margin == margin


@pytest.mark.parametrize("margin", [-5, 0, -0.0])
def test_a_verified_image_whose_margin_is_not_positive_ends_the_run(margin: float) -> None:
    with pytest.raises(SoftadvError, match=r"says that image 0 is verified, with a margin of -?[05]"):
        read_answer(answer(margin=margin), request=1, among=[0])


@pytest.mark.parametrize("verdict", ["verified", "unverified", "failed"])
@pytest.mark.parametrize("margin", [float("nan"), float("inf"), -float("inf"), None, "1", True, 10**400])
def test_a_margin_that_is_no_number_is_nonsense(verdict: str, margin: object) -> None:
    with pytest.raises(SoftadvError, match="nonsense"):
        read_answer(answer(verdict=verdict, margin=margin), request=1, among=[0])


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1])
def test_seconds_that_are_no_time_are_nonsense(seconds: float) -> None:
    with pytest.raises(SoftadvError, match="nonsense"):
        read_answer(answer(seconds=seconds), request=1, among=[0])


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="real-time signals are Linux's")
@pytest.mark.parametrize(("number", "name"), [(40, "signal 40"), (9, "SIGKILL")])
def test_a_worker_killed_by_any_signal_has_died(number: int, name: str) -> None:
    ends = f"import os; os.kill(os.getpid(), {number})"
    with Worker([sys.executable, "-c", ends]) as worker, pytest.raises(WorkerDied, match=f"it was killed by {name}"):
        worker.receive(seconds=60)
