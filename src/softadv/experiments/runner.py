"""Run a grid from Python: softadv.run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softadv.experiments.executors.choose import Chosen
from softadv.experiments.grid import GridRun, prepare
from softadv.experiments.grid_command import given_command
from softadv.experiments.run_grid import run_grid
from softadv.experiments.runs import Run, finished_runs, read_entries
from softadv.experiments.shard import parse_shard
from softadv.experiments.spec import Grid, load_grid


@dataclass(frozen=True)
class Ran:
    """What softadv.run did. folder: of the runs, for softadv report. runs: all that have finished there."""

    folder: Path
    outcome: GridRun
    runs: tuple[Run, ...]


def run(
    grid: str | Path | Grid,
    *,
    out: Path | str | None = None,
    data: Path | str | None = None,
    device: str = "auto",
    fresh: bool = False,
    jobs: int | None = None,
    threads: int | None = None,
    gpus_per_trial: float | None = None,
    ray: str | None = None,
    shard: str | None = None,
) -> Ran:
    """Train every trial of a grid that has not finished yet.

    grid: a packaged grid's name, a TOML file, or a Grid. out: the folder of the runs; None is runs/ and its name.
    data: where data sets are looked for, as softadv.load_dataset takes it. device: "auto", "cpu" or "cuda".
    fresh: delete what is in the folder first, if a grid is.
    jobs: in so many processes side by side, which a script asks for below `if __name__ == "__main__":`; None: in this
    one, one after another. threads: of each trial; None: the cores divided by jobs, or those that this process uses.
    gpus_per_trial: a part of a GPU, such as 0.5 for two trials on each. ray: "local", "auto" or an
    address: on a Ray cluster. shard: "K/N" runs the K-th of N parts.
    Called again after an interruption, it goes on where it stopped.
    Raises SoftadvError, before anything is written, for a grid, data or a folder that cannot be had; a trial that
    fails later never stops another, and is named in the outcome.
    """
    chosen = grid if isinstance(grid, Grid) else load_grid(str(grid))
    running = Chosen(jobs=jobs, threads=threads, gpus_per_trial=gpus_per_trial, ray=ray)
    here, elsewhere = running.place(device)
    folder = Path(out) if out is not None else Path("runs") / chosen.name
    options = {
        "--data": data, "--out": out, "--jobs": jobs, "--threads": threads, "--gpus-per-trial": gpus_per_trial,
        "--ray": ray,
    }  # fmt: skip
    prepared = prepare(
        chosen,
        folder=folder,
        data_root=None if data is None else Path(data),
        device=here,
        # No command runs a Grid that is in no file.
        command="" if isinstance(grid, Grid) else given_command(["softadv", "reproduce"], str(grid), options),
        fresh=fresh,
        shard=None if shard is None else parse_shard(shard),
        elsewhere=elsewhere,
    )
    with running.opened(elsewhere, prepared.images) as (executor, each):
        outcome = run_grid(prepared, report=_silent, executor=executor, threads=each)
    return Ran(folder, outcome, tuple(finished_runs(read_entries(folder))))


def _silent(trial: str, what: str, work: float, *, before: bool = False, note: str = "") -> None:
    pass
