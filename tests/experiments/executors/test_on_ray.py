"""A grid on Ray: several nodes on this machine, one of which is taken away."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.bits import bits
from softadv.data import Dataset
from softadv.experiments.executors import on_ray
from softadv.experiments.executors.images import ImageLoader, LoadedHere, Source
from softadv.experiments.executors.jobs import Ended, Handle, Lost, ProgressMessage, Send
from softadv.experiments.executors.on_ray import OnRay
from softadv.experiments.executors.ray_settings import patience
from softadv.experiments.executors.resources import usable_cores
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.run_grid import run_grid
from tests.experiments.executors.scripted import HELD, PATIENT
from tests.experiments.executors.test_processes import grid_of, ready
from tests.experiments.executors.test_signals import alive, below, command_line, wait_until_gone
from tests.experiments.test_grid import silent

pytest.importorskip("ray", reason="needs Ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file for which a patient trial waits, in the nodes of a cluster that starts later, too."""
    file = tmp_path / "held"
    monkeypatch.setenv(HELD, str(file))
    return file


@pytest.fixture
def cluster(held: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A head that computes nothing, and two nodes of one CPU. The parameter, if there is one: Ray's own settings."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    store = 100 * 1024**2
    head = {"num_cpus": 0, "object_store_memory": store, "include_dashboard": False}
    wait_for_node = ray._private.services.wait_for_node
    monkeypatch.setattr(ray._private.services, "wait_for_node", lambda *which, **_: wait_for_node(*which[:2], 600))
    with patience(ray):  # also with nodes that a test adds
        found = Cluster(initialize_head=True, head_node_args={**head, "_system_config": getattr(request, "param", {})})
        found.nodes = [found.add_node(num_cpus=1, object_store_memory=store) for _ in range(2)]
        yield found
    found.shutdown()


def processes_of(node: Any) -> set[int]:
    """The processes of a node, with those that they have started: also its workers."""
    own = {each.process.pid for some in node.all_processes.values() for each in some}
    return own.union(*map(below, own))


def send(process: int, number: int) -> None:
    """Send a process a signal, unless it has just ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def test_a_node_taken_away_costs_an_epoch_at_most_and_no_bit(cluster: Any, held: Path, tmp_path: Path) -> None:
    grid = grid_of(PATIENT, "soft", "random").select(seeds=2)
    assert run_grid(ready(grid, tmp_path / "whole"), report=silent, threads=1).refused == {}
    prepared = ready(grid, tmp_path / "ray")
    executor = OnRay(cluster.address, threads=1, gpus=0, images=prepared.images)
    held.touch()
    patients = [tmp_path / "ray" / trial.name for trial in grid.trials if trial.method == PATIENT]
    lost: list[str] = []
    repeated: list[str] = []
    done: list[float] = []

    def report(trial: str, what: str, work: float, *, before: bool = False, note: str = "") -> None:
        done.append(work)
        if what == "lost its worker":
            lost.append(trial)
        elif trial in lost and what.startswith("epoch 1/2: "):
            repeated.append(what)

    def take_a_node_away() -> None:
        """When both nodes are busy, and stay so: with either one goes a trial."""
        try:
            while any(len(RunFolder(folder).metrics()) != 1 for folder in patients):
                if over.wait(0.1):  # all trials have ended, and so did not wait for this
                    return
            node = cluster.nodes.pop()
            gone = processes_of(node)
            cluster.remove_node(node, allow_graceful=False)
            for process in alive(gone):  # its workers would notice a second later
                send(process, signal.SIGKILL)
        finally:
            held.unlink()

    over = threading.Event()
    taking = threading.Thread(target=take_a_node_away, daemon=True)
    try:
        assert executor.slots == 2
        taking.start()
        ran = run_grid(prepared, report=report, executor=executor, threads=1)
    finally:
        executor.close()
        over.set()
    taking.join()
    assert (ran.failed, ran.refused) == ((), {})
    assert len(ran.finished) == len(grid.trials)
    assert len(lost) == 1
    assert repeated == []
    assert sum(done) == pytest.approx(prepared.work)
    assert bits(tmp_path / "ray") == bits(tmp_path / "whole")


@dataclass(frozen=True)
class Waiting:
    """A job that sends its process and its node, and then waits for its end, unless it may live."""

    lives: bool
    name: str = "waiting"
    threads: int | None = 1

    def run(self, *, images: ImageLoader, send: Send) -> None:
        import ray

        send((os.getpid(), ray.get_runtime_context().get_node_id()))
        if not self.lives:
            time.sleep(600)


def ends(executor: OnRay, job: Waiting, *, at_work: Callable[[int, str], None]) -> Ended | Lost:
    """How a job ends when something is done to its process and its node as soon as it is at work."""
    found: list[Ended | Lost] = []

    def receive(_handle: Handle, message: object) -> None:
        match message:
            case (int(process), str(node)):
                at_work(process, node)
            case Ended() | Lost():
                found.append(message)

    executor.submit(job)
    while not found:
        executor.deliver(receive)
    return found[0]


def test_a_job_that_lost_its_worker_is_begun_again_on_another_node_while_there_is_one(cluster: Any) -> None:
    executor = OnRay(cluster.address, threads=1, gpus=0, images=LoadedHere())
    nodes: list[str] = []

    def kill(process: int, node: str) -> None:
        nodes.append(node)
        os.kill(process, signal.SIGKILL)

    try:
        for _ in range(2):
            lost = ends(executor, Waiting(lives=False), at_work=kill)
            assert isinstance(lost, Lost)
            assert f"(on {platform.node()}, process " in lost.reason
        # Both have lost a worker of it now: that is no reason to wait.
        assert isinstance(ends(executor, Waiting(lives=True), at_work=lambda *_: None), Ended)
    finally:
        executor.close()
    assert nodes[0] != nodes[1]


# A node that has not answered for some seconds is gone; otherwise it takes Ray longer.
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
@pytest.mark.parametrize("cluster", [SOON], indirect=True)
def test_a_node_that_falls_silent_is_noticed_while_its_connections_stand(cluster: Any) -> None:
    """All its processes are stopped: none ends, and none answers, as when its network is gone."""
    executor = OnRay(cluster.address, threads=1, gpus=0, images=LoadedHere())
    silent_ones: set[int] = set()
    nodes: list[str] = []

    def silence(_process: int, node: str) -> None:
        nodes.append(node)
        (of_node,) = [each for each in cluster.nodes if each.node_id == node]
        silent_ones.update(processes_of(of_node))
        for process in silent_ones:
            send(process, signal.SIGSTOP)

    try:
        lost = ends(executor, Waiting(lives=False), at_work=silence)
        assert isinstance(lost, Lost)
        assert lost.reason.startswith("its node is gone (on ")
        assert isinstance(ends(executor, Waiting(lives=True), at_work=lambda _, node: nodes.append(node)), Ended)
    finally:
        for process in alive(silent_ones):
            send(process, signal.SIGCONT)
        executor.close()
    assert nodes[0] != nodes[1]


# So little memory may be used that every task is killed for it.
FULL = {"memory_usage_threshold": 0.001, "memory_monitor_refresh_ms": 100}


@pytest.mark.parametrize("cluster", [FULL], indirect=True)
def test_a_worker_that_ray_kills_for_its_memory_is_a_lost_one(cluster: Any) -> None:
    executor = OnRay(cluster.address, threads=1, gpus=0, images=LoadedHere())
    try:
        lost = ends(executor, Waiting(lives=False), at_work=lambda *_: None)
    finally:
        executor.close()
    assert isinstance(lost, Lost)
    assert lost.reason.startswith("OutOfMemoryError: ")


def test_a_job_that_no_node_has_room_for_says_what_it_waits_for(cluster: Any) -> None:
    executor = OnRay(cluster.address, threads=2, gpus=0, images=LoadedHere())
    found: list[object] = []

    def receive(_handle: Handle, message: object) -> None:
        found.append(message)
        if message == ProgressMessage("waiting for a node of Ray with 2 CPUs", 0) and found.count(message) == 1:
            cluster.add_node(num_cpus=2, object_store_memory=100 * 1024**2)

    try:
        executor.submit(Waiting(lives=True))
        while not any(isinstance(message, Ended) for message in found):
            executor.deliver(receive)
    finally:
        executor.close()
    assert isinstance(found[0], ProgressMessage)


@dataclass(frozen=True)
class Looking:
    """A job that sends the fingerprint of its images, and then ends as a careless method might."""

    source: Source
    name: str = "looking"
    threads: int | None = usable_cores() + 1

    def run(self, *, images: ImageLoader, send: Send) -> None:
        send((torch.get_num_threads(), images(self.source).fingerprint))
        sys.exit("no good")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_a_ray_of_ones_own_is_for_this_machine_alone(digits: Dataset) -> None:
    """It listens to nobody else, reports nothing, and has the driver's images; it may have more threads than cores."""
    threads = usable_cores() + 1
    before = below(os.getpid())  # such as the resource tracker of another test's processes
    nowhere = Source("no.such.module:data", None, None, None, digits.fingerprint)
    executor = OnRay("local", threads=threads, gpus=0, images=lambda _source: digits)
    found: list[object] = []
    try:
        executor.submit(Looking(nowhere))
        while not any(isinstance(message, Ended) for message in found):
            executor.deliver(lambda _handle, message: found.append(message))
        running = below(os.getpid()) - before
        variables_of = {process: environment(process) for process in running}
        commands = {process: command_line(process) for process in running}
        heard = listening(running)
    finally:
        executor.close()
    (sent, ended) = found
    assert sent == (threads, digits.fingerprint)
    assert isinstance(ended, Ended)
    assert ended.outcome == "failed"
    assert ended.reason.endswith("SystemExit: no good")
    assert ended.where.startswith(f"{platform.node()}, process ")
    assert any("gcs_server" in command for command in commands.values())
    # What is left of the dashboard without its pages counts usage, unless that is off.
    assert all("--disable-frontend" in command for command in commands.values() if "dashboard.py" in command)
    # A title that a process gives itself overwrites variables.
    whole = [variables_of[process] for process in running if not commands[process].startswith("ray::")]
    of_ray = [variables for variables in whole if "RAY_AUTH_TOKEN=" in variables]
    assert of_ray
    assert all("RAY_USAGE_STATS_ENABLED=0" in variables for variables in of_ray)
    assert heard
    assert {address.removeprefix("::ffff:") for address in heard} == {"127.0.0.1"}
    wait_until_gone(running)


class Racing:
    """A clock that runs so fast that whoever waits for a while does not wait at all."""

    def __init__(self) -> None:
        self._hours = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        self._hours += 1
        return 3600.0 * self._hours


def test_a_busy_machine_may_take_longer_to_start_ray_than_ray_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    services = pytest.importorskip("ray._private.services")
    get_node = services.get_node
    asked: list[str] = []

    def late(address: str, node: str) -> Any:
        asked.append(node)
        if len(asked) < 3:
            raise RuntimeError("the node has not begun")
        return get_node(address, node)

    monkeypatch.setattr(services, "get_node", late)
    monkeypatch.setattr("ray._private.node.time", Racing())
    OnRay("local", threads=1, gpus=0, images=LoadedHere()).close()
    assert len(asked) >= 3


def test_no_process_of_a_ray_of_ones_own_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is just starting would make the folder again after it has been deleted."""
    import psutil  # which comes with Ray

    begun = on_ray.processes_of_ones_own
    processes: list[Any] = []
    late = subprocess.Popen(["sleep", "600"])  # one that takes no notice of the end of the others

    def with_a_late_one(ray: Any) -> list[Any]:
        processes.extend([*begun(ray), psutil.Process(late.pid)])
        return processes

    monkeypatch.setattr(on_ray, "processes_of_ones_own", with_a_late_one)
    before = below(os.getpid())
    executor = OnRay("local", threads=1, gpus=0, images=LoadedHere())
    assert executor._place is not None
    place, running = executor._place.path, below(os.getpid()) - before
    executor.close()
    late.wait()
    assert len(processes) > 3
    assert alive({process.pid for process in processes}) == set()
    assert not place.exists()
    wait_until_gone(running)


def test_another_cluster_is_joined_after_a_ray_of_ones_own(cluster: Any) -> None:
    """The first asks for a token, the other does not know it."""
    for address in ("local", cluster.address):
        executor = OnRay(address, threads=1, gpus=0, images=LoadedHere())
        try:
            assert isinstance(ends(executor, Waiting(lives=True), at_work=lambda *_: None), Ended)
        finally:
            executor.close()


def environment(process: int) -> str:
    """A process's variables; empty where it has ended, or where a title is written over some of them."""
    try:
        found = Path(f"/proc/{process}/environ").read_text(errors="replace")
    except OSError:
        return ""
    return "" if command_line(process).startswith("ray::") else found


def listening(processes: set[int]) -> set[str]:
    """The addresses at which processes wait for connections."""
    sockets = set()
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended, or closed one
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(f"/proc/{process}/fd/{descriptor}"))
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                address = bytes.fromhex(words[1].partition(":")[0])
                parts = [address[at : at + 4][::-1] for at in range(0, len(address), 4)]  # each in the host's order
                found.add(socket.inet_ntop(family, b"".join(parts)))
    return found
