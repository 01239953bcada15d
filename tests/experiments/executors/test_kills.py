"""A short campaign of kills: a node whose network is taken away while a trial runs there.

Workers and drivers are killed in test_processes, test_certify_jobs and test_signals, where every kill hits its moment.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from benchmarks.cut_off import namespaces


def test_a_node_without_its_network_costs_no_bit() -> None:
    pytest.importorskip("ray", reason="needs Ray")
    if (
        not all(map(shutil.which, ("ip", "unshare", "nsenter")))
        or subprocess.run([*namespaces(), "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs the right to make network namespaces, and ip")
    words = [sys.executable, "-m", "benchmarks.kills", "--kills", "0", "--cuts", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "1 nodes cut off: 0 grids ended otherwise\n"
