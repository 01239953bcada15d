"""The scripts of docs/cluster.md, run as Slurm would, by a scontrol and an srun that know this machine alone."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.bits import bits
from softadv.experiments.run_grid import run_grid
from softadv.experiments.runs import read_entries
from tests.experiments.executors.test_processes import grid_of, ready
from tests.experiments.test_grid import TINY, silent

DOCUMENT = Path(__file__).parents[3] / "docs" / "cluster.md"
ON_RAY, ARRAY = re.findall(r"```bash\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
# Ray gives a node 30 seconds to start, and no option for more: a busy machine gets them five times.
SRUN = """#!/bin/bash
while [[ "$1" = -* ]]; do
    case "$1" in -N | -n | -w) shift 2 ;; *) shift ;; esac
done
for _ in {1..5}; do
    "$@" 2>&1 | tee "$HOME/said-$$"
    [ "${PIPESTATUS[0]}" = 0 ] && exit
    grep -q "timed out during startup" "$HOME/said-$$" || exit 1
done
exit 1
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job with a tiny grid in the folder that it was submitted from."""
    (tmp_path / "tiny.toml").write_text(TINY)
    for name, text in (
        ("bin/srun", SRUN),
        ("bin/scontrol", "#!/bin/bash\necho localhost\n"),
        ("softadv/.venv/bin/activate", ""),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    here = Path(sys.executable).parent
    return dict(os.environ) | {
        "HOME": str(tmp_path), "PATH": f"{tmp_path / 'bin'}:{here}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NODELIST": "localhost",
    }  # fmt: skip


def of_a_tiny_grid(script: str) -> str:
    """A script with another grid, which ends in seconds, and one thread a trial."""
    for old, new in (("reproduce mnist", "reproduce tiny.toml"), ("--threads 2", "--threads 1")):
        assert script.count(old) == 1
        script = script.replace(old, new)
    return script.replace("runs/mnist", "runs/tiny")


def free_port() -> int:
    """A port that stays free until Ray listens there: neither Ray nor Linux gives out one of these by itself."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("0.0.0.0", port))
            return port


def test_the_parts_of_the_array_add_up_to_the_grid(tmp_path: Path, slurm: dict[str, str]) -> None:
    script = of_a_tiny_grid(ARRAY).replace("TASK_ID/8", "TASK_ID/2")
    for part in ("1", "2"):
        environment = slurm | {"SLURM_ARRAY_TASK_ID": part}
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert [entry.state for entry in read_entries(tmp_path / "runs" / "tiny")] == ["finished"] * 3


def test_the_script_for_ray_runs_the_grid_on_two_nodes(tmp_path: Path, slurm: dict[str, str]) -> None:
    pytest.importorskip("ray", reason="needs Ray")
    script = of_a_tiny_grid(ON_RAY).replace("6379", str(free_port()))
    output = tmp_path / "output"
    with output.open("wb") as file, subprocess.Popen(
        ["bash", "-c", script], env=slurm | {"SLURM_JOB_NUM_NODES": "2"}, start_new_session=True,
        stdout=file, stderr=file,
    ) as job:  # fmt: skip
        job.wait()
        with suppress(ProcessLookupError):  # nothing is left
            os.killpg(job.pid, signal.SIGTERM)  # as Slurm ends what its script leaves
    assert job.returncode == 0, output.read_text()
    grid = grid_of("natural", "adversarial", "soft", epochs=1)
    assert run_grid(ready(grid, tmp_path / "whole"), report=silent, threads=1).refused == {}
    assert bits(tmp_path / "runs" / "tiny") == bits(tmp_path / "whole")
