"""A grid on Ray: several nodes on this machine, one of which is taken away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from softadv.experiments.executors.on_ray import OnRay
from softadv.experiments.run_grid import run_grid
from tests.experiments.executors.bits import bits
from tests.experiments.executors.test_processes import grid_of, ready
from tests.experiments.test_grid import silent

pytest.importorskip("ray", reason="needs Ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that computes nothing, and two nodes of one CPU."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    store = 100 * 1024**2
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": store, "include_dashboard": False},
    )
    found.nodes = [found.add_node(num_cpus=1, object_store_memory=store) for _ in range(2)]
    yield found
    found.shutdown()


def test_a_node_taken_away_costs_an_epoch_at_most_and_no_bit(cluster: Any, tmp_path: Path) -> None:
    grid = grid_of("soft", "random", "natural")
    assert run_grid(ready(grid, tmp_path / "whole"), report=silent, threads=1).refused == {}
    prepared = ready(grid, tmp_path / "ray")
    executor = OnRay(cluster.address, threads=1, gpus=0, images=prepared.images)
    told: list[tuple[str, str]] = []
    done: list[float] = []

    def report(trial: str, what: str, work: float, *, before: bool = False, note: str = "") -> None:
        done.append(work)
        if (trial, what) not in told:
            told.append((trial, what))
            if cluster.nodes and what.startswith("epoch 2/2") and len({trial for trial, _ in told}) == 2:
                # Both nodes are busy: with either one goes a trial.
                cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)
                cluster.nodes.clear()

    try:
        assert executor.slots == 2
        ran = run_grid(prepared, report=report, executor=executor, threads=1)
    finally:
        executor.close()
    assert (ran.failed, ran.refused) == ((), {})
    assert len(ran.finished) == 3
    assert [what for _, what in told if what == "lost its worker"]
    assert sum(done) == pytest.approx(prepared.work)
    assert bits(tmp_path / "ray") == bits(tmp_path / "whole")
