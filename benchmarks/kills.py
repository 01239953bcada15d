"""Kills of workers, drivers and nodes: python -m benchmarks.kills [--kills 50] [--nodes 0] [--cuts 0]

A small grid with soft training, and a control that replays it, runs with --jobs 2. At random moments a worker
(SIGKILL) or the driver (SIGKILL, SIGTERM) is killed, and a driver that was killed is given again, until the grid is
done; then the next one begins. So is one that gave up a trial, as it must after four workers in one epoch. With --nodes
so many nodes of a Ray cluster on this machine are taken away, too, without notice; with --cuts so many lose their
network. Every trial must end once, with the bits of a run that was never disturbed; only seconds may differ.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.bits import Bits, bits

GRID = """
name = "kills"
methods = ["random", "soft", "adversarial"]
seeds = [0]

[[setting]]
setting = "digits-kills"
dataset = "digits"
eps = 0.03
alpha = 0.01
steps = 5
epochs = 6
batch_size = 32
train_images = 512
test_images = 128
"""
LATEST = 2.5  # of an undisturbed run's seconds: so long after a driver's start the last kills come, at first


def command(work: Path, out: Path, *more: str) -> list[str]:
    """The words that run the grid."""
    words = ["reproduce", str(work / "kills.toml"), "--out", str(out), "--threads", "1", "--device", "cpu"]
    return [sys.executable, "-m", "softadv", *words, *more]


def workers(driver: int) -> list[int]:
    """The processes below a driver that run jobs, without those that only look after the others."""
    try:
        children = [int(word) for word in Path(f"/proc/{driver}/task/{driver}/children").read_text().split()]
        return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


def check(done: int, work: Path, out: Path, whole: Bits) -> int:
    """How many of a folder's ends differ from the undisturbed run's: 0 or 1."""
    differs = done not in (0, 1) or bits(out) != whole
    if differs:
        print(f"differs (exit code {done}): kept in {out}", file=sys.stderr)
    else:
        shutil.rmtree(out)
    return int(differs)


def gave_up(out: Path) -> bool:
    """Whether a trial was given up since it lost worker after worker."""
    return any(path.read_text().startswith("given up after") for path in out.glob("*/traceback.txt"))


def process_kills(
    work: Path, whole: Bits, *, wanted: int, latest: float, rng: random.Random
) -> tuple[dict[str, int], int]:
    """Kill workers and drivers. Returns how many of each, and of drivers that gave up, and how many grids ended
    otherwise."""
    kills = {"worker": 0, "driver": 0}
    given_up = 0
    differing = grids = 0
    least = latest / 2
    while sum(kills.values()) < wanted:
        out = work / f"jobs-{grids}"
        grids += 1
        code = None
        while code is None:
            started = time.monotonic()
            nowhere = subprocess.DEVNULL
            with subprocess.Popen(command(work, out, "--jobs", "2"), stdout=nowhere, stderr=nowhere) as driver:
                while driver.poll() is None and sum(kills.values()) < wanted:
                    time.sleep(rng.uniform(0, latest / 2))
                    if driver.poll() is not None:
                        break
                    victims = workers(driver.pid)
                    if victims and rng.random() < 0.7:
                        with suppress(ProcessLookupError):  # it has just ended by itself
                            os.kill(rng.choice(victims), signal.SIGKILL)
                            kills["worker"] += 1
                    elif victims or rng.random() < 0.1:  # seldom while it is still starting
                        driver.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
                        kills["driver"] += 1
                        driver.wait()
                ended = driver.wait()
            if ended in (-signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM):
                continue
            if gave_up(out):
                given_up += 1
                continue
            code = ended
            latest = max(time.monotonic() - started, least)
        differing += check(code, work, out, whole)
    return {**kills, "given up": given_up}, differing


def node_kills(work: Path, whole: Bits, *, wanted: int, latest: float, rng: random.Random) -> tuple[int, int]:
    """Take away nodes of a Ray cluster, and add others. Returns how many, and how many grids ended otherwise."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster  # noqa: PLC0415 (an extra)

    store = 100 * 1024**2
    cluster: Any = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": store, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=store) for _ in range(2)]
    kills = differing = grids = 0
    try:
        while kills < wanted:
            out = work / f"nodes-{grids}"
            grids += 1
            words = command(work, out, "--ray", cluster.address)
            with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
                while driver.poll() is None and kills < wanted:
                    time.sleep(rng.uniform(latest / 5, latest))
                    if driver.poll() is None:
                        cluster.remove_node(nodes.pop(rng.randrange(2)), allow_graceful=False)
                        kills += 1
                        nodes.append(cluster.add_node(num_cpus=1, object_store_memory=store))
                code = driver.wait()
            differing += check(code, work, out, whole)
    finally:
        cluster.shutdown()
    return kills, differing


def main() -> None:
    """Run the campaign, and print what it counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of workers and drivers (default: 50)")
    parser.add_argument("--nodes", type=int, default=0, help="of Ray to take away (default: none)")
    parser.add_argument("--cuts", type=int, default=0, help="of a node's network (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="softadv-kills-"))
    (work / "kills.toml").write_text(GRID, encoding="utf-8")
    started = time.monotonic()
    done = subprocess.run(command(work, work / "whole"), capture_output=True, text=True, check=False)
    latest = LATEST * (time.monotonic() - started)  # a busy machine is not killed while it is still starting
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    whole = bits(work / "whole")
    rng = random.Random(arguments.seed)
    failed = 0
    if arguments.kills:
        kills, differing = process_kills(work, whole, wanted=arguments.kills, latest=latest, rng=rng)
        print(
            f"{kills['worker']} workers and {kills['driver']} drivers killed, {kills['given up']} trials given up and "
            f"begun again: {differing} grids ended otherwise", flush=True,
        )  # fmt: skip
        failed += differing
    if arguments.nodes:
        taken, differing = node_kills(work, whole, wanted=arguments.nodes, latest=latest, rng=rng)
        print(f"{taken} nodes taken away: {differing} grids ended otherwise", flush=True)
        failed += differing
    if arguments.cuts:
        from benchmarks.cut_off import namespaces  # noqa: PLC0415 (which needs what is here)

        words = ["-m", "benchmarks.cut_off", str(work), "--cuts", str(arguments.cuts), "--seed", str(arguments.seed)]
        failed += subprocess.run([*namespaces(), sys.executable, *words], check=False).returncode
    if failed:
        raise SystemExit(1)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
