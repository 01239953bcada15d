"""A stand-in for ERAN, and proof after each test that no process is left."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from softadv.certify.eran import client
from softadv.certify.eran.process import Worker
from tests.certify.eran.stand_in import FIRST, STEP
from tests.networks import seeded

STAND_IN = Path(__file__).with_name("stand_in.py")
COUNT, CLASSES = 12, 4
EPS = 0.05


def stand_in(*options: object) -> str:
    """The command of a stand-in with these options."""
    return shlex.join([sys.executable, str(STAND_IN), *map(str, options)])


def alive(sessions: Sequence[int]) -> list[str]:
    """The processes of these sessions that are there and no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended while we looked
        if int(session) in sessions and state not in "ZX":
            found.append(stat.parent.name)
    return found


def wait_until_gone(sessions: Sequence[int]) -> None:
    """Until no process of these sessions is left, however long that takes on a busy machine."""
    while alive(sessions):
        time.sleep(0.02)


class StandIn:
    """Has softadv ask stand-ins. started: the process ids of those it has started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[int] = []
        self._monkeypatch = monkeypatch

    def __call__(self, *options: object) -> None:
        """Let SOFTADV_ERAN name a stand-in with these options."""
        self._monkeypatch.setenv("SOFTADV_ERAN", stand_in(*options))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Names a stand-in; at the end of the test all that it started must be gone."""
    using = StandIn(monkeypatch)

    class Recorded(Worker):
        def __init__(self, command: Sequence[str]) -> None:
            super().__init__(command)
            using.started.append(self.pid)

    monkeypatch.setattr(client, "Worker", Recorded)
    yield using
    wait_until_gone(using.started)


@pytest.fixture
def driver(tmp_path: Path) -> Callable[[int, int], dict[str, str]]:
    """Makes a stand-in for CUDA's driver; returns the environment in which it is found."""

    def make(error: int, devices: int) -> dict[str, str]:
        compiler = shutil.which("cc") or shutil.which("c++")
        if compiler is None:
            pytest.skip("needs a C compiler")
        source = tmp_path / "driver.c"
        source.write_text(
            f"int cuInit(unsigned flags) {{ return {error}; }}\n"
            f"int cuDeviceGetCount(int *count) {{ *count = {devices}; return 0; }}\n"
        )
        subprocess.run([compiler, "-xc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
        return {"LD_LIBRARY_PATH": str(tmp_path)}

    return make


@pytest.fixture(scope="session")
def question() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A float32 model, images that say their number, and labels of which two are wrong."""
    model = seeded(4, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, CLASSES))).float()
    many = torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    best = model(many).topk(2).values
    surest = (best[:, 0] - best[:, 1]).argsort(descending=True)
    # By turns images that are verified and images that are not.
    x = torch.stack([many[surest[: COUNT // 2]], many[surest[100 : 100 + COUNT // 2]]], 1).flatten(0, 1)
    x[:, 0, 0, 0] = FIRST + STEP * torch.arange(COUNT)
    y = model(x).argmax(1)
    y[[2, 9]] = (y[[2, 9]] + 1) % CLASSES
    return model, x, y
