"""What whole trials and whole grids cost, from the spec to the result: training, certification, attacks, export.

The paper's rows of docs/grids.md, on a GPU:

    python -m benchmarks.grid paper --seeds 1 --settings cifar10-eps8 --methods adversarial
    python -m benchmarks.grid paper --seeds 1
    python -m benchmarks.grid paper --seeds 5
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import print_machine
from softadv.experiments.environment import pick_device
from softadv.experiments.grid import prepare
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.run_grid import run_grid
from softadv.experiments.spec import load_grid


def main() -> None:
    """Run a grid from nothing into a folder that is deleted; print the seconds of each trial's epochs, and of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", help="its name, or its file")
    parser.add_argument("--seeds", type=int, help="seeds 0 to N-1 instead of the grid's")
    parser.add_argument("--epochs", type=int, help="epochs of every trial instead of the grid's")
    parser.add_argument("--methods", help="only these, such as natural,soft")
    parser.add_argument("--settings", help="only these, such as cifar10-eps8")
    parser.add_argument("--data", type=Path, help="where the images are")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    methods = arguments.methods and arguments.methods.split(",")
    grid = load_grid(arguments.grid).select(methods=methods, seeds=arguments.seeds, epochs=arguments.epochs)
    if arguments.settings:
        wanted = arguments.settings.split(",")
        grid = replace(grid, trials=tuple(trial for trial in grid.trials if trial.setting in wanted))
        if not grid.trials:
            parser.error(f"--settings: {grid.name} has no trial of {arguments.settings}")
    print_machine(device)
    with TemporaryDirectory() as folder:
        prepared = prepare(
            grid, folder=Path(folder), data_root=arguments.data, device=device, command=f"benchmarks.grid {grid.name}"
        )
        started = time.perf_counter()
        done = run_grid(prepared, report=lambda *what, **more: None)
        seconds = time.perf_counter() - started
        for name in done.finished:
            epochs = RunFolder(Path(folder) / name).metrics()
            print(f"  {name}: {len(epochs)} epochs in {sum(epoch.seconds for epoch in epochs):.1f} s")
    print(
        f"{grid.name}, {len(done.finished)} of {len(grid.trials)} trials: {seconds:.1f} s from the specs to the results"
    )
    if done.failed or done.refused:
        raise SystemExit(f"not finished: {', '.join([*done.failed, *done.refused.values()])}")


if __name__ == "__main__":
    main()
