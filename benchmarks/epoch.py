"""Where an epoch's time goes, for each method, from a run folder: attack, certification, update, evaluation."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

from softadv.experiments.run_folder import grid_runs


def main() -> None:
    """Print the mean seconds of an epoch for each trial of a grid's folder (default: runs/smoke)."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/smoke")
    parts = ("attack", "certification", "update", "evaluation")
    machine = ""
    for run in grid_runs(folder):
        metrics, result = run.metrics(), run.result()
        if result is None:
            continue
        if result.environment["device"] != machine:
            machine = result.environment["device"]
            print(f"measured on {machine}, torch {result.environment['torch']}")
        means = {part: fmean(getattr(m, f"{part}_seconds") for m in metrics) for part in parts}
        shares = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in means.items())
        print(f"{result.trial.name}: an epoch takes {sum(means.values()):.2f} s: {shares}")


if __name__ == "__main__":
    main()
