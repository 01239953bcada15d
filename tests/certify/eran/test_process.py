"""The worker as a process: how it is named, and that it never outlives softadv."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from softadv.certify.eran import Bridge, certify_with
from softadv.certify.eran import process as worker_process
from softadv.certify.eran.proc import OwnTime, processor_seconds, resident_bytes
from softadv.certify.eran.process import Worker, worker_command
from softadv.errors import SoftadvError
from tests.certify.eran.conftest import EPS, alive, stand_in, wait_until_gone

ROOT = Path(__file__).parents[3]


def test_the_worker_is_named_by_a_command_or_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTADV_ERAN", "python 'my worker.py' -v")
    assert worker_command() == ["python", "my worker.py", "-v"]
    monkeypatch.setenv("SOFTADV_ERAN", str(tmp_path))
    assert worker_command() == [f"{tmp_path}/bin/python", f"{tmp_path}/worker.py"]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (None, "ERAN is not here: SOFTADV_ERAN names its folder"),
        ("  ", "softadv's container"),
        ("python 'worker.py", "is no command"),
        ("/nowhere/python worker.py", "SOFTADV_ERAN: /nowhere/python cannot be started (No such file or directory)"),
        (f"{sys.executable} /nowhere/worker.py", "can't open file '/nowhere/worker.py'"),
        ("true", "its worker died twice before it answered anything: it ended with exit code 0"),
    ],
)
def test_a_worker_that_is_not_there_is_one_clear_line(question, monkeypatch, tmp_path, named, message):
    message = message.replace("/nowhere", str(tmp_path))
    monkeypatch.delenv("SOFTADV_ERAN", raising=False)
    if named is not None:
        monkeypatch.setenv("SOFTADV_ERAN", named.replace("/nowhere", str(tmp_path)))
    model, x, y = question
    with pytest.raises(SoftadvError) as caught:
        certify_with(model, x, y, engine="gpupoly", eps=EPS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@contextmanager
def child(*command: str) -> Iterator[int]:
    """A child process, which is killed in the end with those that it has started."""
    with subprocess.Popen([*command], start_new_session=True) as process:
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_waiting_is_a_processs_own_time_unless_it_is_for_a_processor(tmp_path):
    with child("sleep", "infinity") as process:
        clock = OwnTime(process)
        while clock.spent() < 0.5:  # if waiting were not, this would not end
            time.sleep(0.02)
    one = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    # It shares a processor with another of its kind that has thirty times its weight.
    both = 'while :; do :; done & exec nice -n 15 sh -c \'echo >"$0"; while :; do :; done\' "$0"'
    began = tmp_path / "began"
    with child(*one, "sh", "-c", both, str(began)) as process:
        while not began.exists():
            time.sleep(0.02)
        clock, start = OwnTime(process), time.monotonic()
        while time.monotonic() < start + 1:
            clock.spent()  # looked at as a worker's is
            time.sleep(0.02)
        assert clock.spent() <= (time.monotonic() - start) / 2


def test_an_answer_counts_that_came_while_softadv_itself_waited_for_a_processor(monkeypatch):
    with Worker([sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]) as worker:

        class Resumed(OwnTime):
            def spent(self):
                select.select([worker._process.stdout], [], [])
                return 3600.0

        monkeypatch.setattr(worker_process, "OwnTime", Resumed)
        assert worker.receive(seconds=1) == b"here"


def test_what_a_process_takes_is_looked_up():
    assert 1e6 < resident_bytes(os.getpid()) < 1e12
    before = processor_seconds(os.getpid())
    while time.process_time() < before + 0.1:
        pass
    assert processor_seconds(os.getpid()) > before
    assert resident_bytes(2**22 + 1) is None  # above what Linux gives out
    assert processor_seconds(2**22 + 1) is None
    assert OwnTime(2**22 + 1).spent() >= 0  # all time counts


ASKS_FOR_EVER = """
import torch
from torch import nn
from softadv.certify.eran import certify_with
from tests.certify.eran.stand_in import FIRST
model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), torch.full((1, 1, 4, 4), FIRST)
certify_with(model, x, model(x).argmax(1), engine="eran-deepzono", eps=0.01, seconds_per_image=600)
"""


def test_softadv_killed_takes_with_it_a_worker_that_hangs_where_no_thread_can_run(tmp_path, monkeypatch):
    hanging, temporary = tmp_path / "hanging", tmp_path / "temporary"
    temporary.mkdir()
    engine = stand_in("--fault", "hang with the lock", "--once", hanging)
    environment = os.environ | {"SOFTADV_ERAN": engine, "TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "-c", ASKS_FOR_EVER], env=environment, cwd=ROOT) as parent:
        try:
            while not hanging.exists():
                assert parent.poll() is None
                time.sleep(0.02)
            (worker,) = map(int, Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())
            assert alive([worker])
        finally:
            parent.kill()
    wait_until_gone([worker])
    assert list(temporary.glob("softadv-eran-*"))
    monkeypatch.setenv("SOFTADV_ERAN", engine)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    Bridge("gpupoly").close()
    assert list(temporary.glob("softadv-eran-*")) == []  # the next one deletes what was left
