"""The part of the kills in which a node loses its network: python -m benchmarks.kills --cuts 3 runs it.

The command, Ray's head and a node run in network namespaces of their own, joined by a virtual cable, so that nothing
else on the machine notices. The node's end of the cable is taken down while a trial runs there: no connection is
closed, no process ends, and nothing more arrives in either direction. The cable comes back when the grid has ended.
Needs Linux, `ip` and `unshare`, and root or the right to make user namespaces.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.bits import Bits, bits
from benchmarks.kills import check, command

HEAD, FAR = "10.77.0.1", "10.77.0.2"
PORT = 6399
_RAY = str(Path(sys.executable).with_name("ray"))
_NODE = ["--num-cpus=1", "--object-store-memory=100000000", "--block"]
# A node that has not answered for seven seconds or so is gone.
_HEALTH = {"initial_delay_ms": 0, "period_ms": 1000, "timeout_ms": 2000, "failure_threshold": 5}
_QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_SECONDS = 600  # within which a node starts and a grid begins, on a machine that is busy


def namespaces() -> list[str]:
    """The words before a command that give it a network namespace of its own."""
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]


def _ip(*words: str, inside: int | None = None) -> None:
    """Run ip, in the network namespace of a process or in this one's."""
    where = [] if inside is None else ["nsenter", "-t", str(inside), "-n"]
    subprocess.run([*where, "ip", *words], check=True)


def _end_all(namespace: str) -> None:
    """Kill all processes in a network namespace of ours, but for this one."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                if os.readlink(process / "ns" / "net") == namespace:
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:  # it has ended
                continue


class FarNode:
    """A node of Ray at the other end of a virtual cable. end: call it, or its processes stay."""

    def __init__(self) -> None:
        own = os.readlink("/proc/self/ns/net")
        self._keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._inside = self._keeper.pid
        while (namespace := os.readlink(f"/proc/{self._inside}/ns/net")) == own:
            time.sleep(0.05)
        self._namespace = namespace
        _ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(self._inside))
        _ip("addr", "add", f"{HEAD}/24", "dev", "near")
        _ip("link", "set", "near", "up")
        _ip("link", "set", "lo", "up", inside=self._inside)
        _ip("addr", "add", f"{FAR}/24", "dev", "far", inside=self._inside)
        _ip("link", "set", "far", "up", inside=self._inside)

    def start(self) -> subprocess.Popen[bytes]:
        """Have it join the cluster."""
        words = [_RAY, "start", f"--address={HEAD}:{PORT}", f"--node-ip-address={FAR}", *_NODE]
        return subprocess.Popen(["nsenter", "-t", str(self._inside), "-n", *words], **_QUIET)

    def cut(self) -> None:
        """From now on nothing reaches it, and nothing comes from it."""
        _ip("link", "set", "far", "down", inside=self._inside)

    def end(self) -> None:
        """Kill its processes, and take the cable away."""
        _end_all(self._namespace)
        self._keeper.wait()
        _ip("link", "del", "near")


def _start_node(start: Callable[[], subprocess.Popen[bytes]], *, count: int) -> None:
    """Start a node, and wait until the cluster has so many that are alive.

    Ray gives a node 30 seconds to start. One that has given up, on a machine that is busy, is started again.
    """
    ask = f"import ray; ray.init('{HEAD}:{PORT}', log_to_driver=False, logging_level='error')\n"
    ask += "print(sum(node['Alive'] for node in ray.nodes()))"
    until = time.monotonic() + _SECONDS
    node = start()
    while time.monotonic() < until:
        if node.poll() is not None:
            node = start()
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
        if done.stdout.strip() == str(count):
            return
        time.sleep(1)
    raise SystemExit(f"no cluster of {count} nodes after {_SECONDS} seconds: {done.stderr}")


def _cut_while_it_runs(words: list[str], far: FarNode, *, after: float) -> int | None:
    """Run a grid, and cut off the node so many seconds after a trial has begun.

    Returns the exit code; None where the grid had ended by then, as it may on a busy machine.
    """
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        assert driver.stdout is not None
        if not any("adversarial" in line and "epoch" in line for line in driver.stdout):
            raise SystemExit("a grid that was to be cut off has not begun")
        time.sleep(after)
        if driver.poll() is not None:
            return None
        far.cut()
        driver.stdout.read()
    return driver.returncode


def cut_off(work: Path, whole: Bits, *, wanted: int, rng: random.Random) -> int:
    """Cut off a node in each of so many grids. Returns how many grids ended otherwise."""
    differing = 0
    for number in range(wanted):
        out, far = work / f"cut-{number}", FarNode()
        try:
            if not number:
                health = json.dumps({f"health_check_{name}": value for name, value in _HEALTH.items()})
                at = [f"--node-ip-address={HEAD}", f"--port={PORT}", f"--temp-dir={work / 'ray'}"]
                words = [_RAY, "start", "--head", *at, f"--system-config={health}", "--include-dashboard=false"]
                _start_node(lambda words=words: subprocess.Popen([*words, *_NODE], **_QUIET), count=1)
            _start_node(far.start, count=2)
            words = command(work, out, "--ray", f"{HEAD}:{PORT}")
            while (code := _cut_while_it_runs(words, far, after=rng.uniform(0, 2))) is None:
                shutil.rmtree(out)
            differing += check(code, work, out, whole)
        finally:
            far.end()
    return differing


def main() -> None:
    """Cut off nodes in a network namespace of our own, and print how many grids ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the folder of the kills, with the undisturbed run")
    parser.add_argument("--cuts", type=int, required=True, help="of the network")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}  # nobody else can reach it
    _ip("link", "set", "lo", "up")
    try:
        differing = cut_off(
            arguments.work, bits(arguments.work / "whole"), wanted=arguments.cuts, rng=random.Random(arguments.seed)
        )
    finally:
        _end_all(os.readlink("/proc/self/ns/net"))
    print(f"{arguments.cuts} nodes cut off: {differing} grids ended otherwise")
    raise SystemExit(int(differing > 0))


if __name__ == "__main__":
    main()
