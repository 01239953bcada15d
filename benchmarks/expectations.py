"""Measure a grid's expected results: turn the folder of a run over many seeds into expected_results/GRID.toml.

./reproduce.sh smoke --seeds 8 --out runs/smoke-8
.venv/bin/python -m benchmarks.expectations runs/smoke-8 > expected_results/smoke.toml
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev

from softadv.claims.rules.methods import differences
from softadv.claims.selection import Evidence
from softadv.errors import SoftadvError
from softadv.experiments.grid import grid_name
from softadv.experiments.runs import Run, finished_runs, read_entries, value_of
from softadv.experiments.spec import METHODS

# Five standard errors: with eight seeds, a difference by chance about once in 600 comparisons.
SIGMAS = 5.0
WORDS = {
    "natural_accuracy": "natural accuracy",
    "adversarial_accuracy": "adversarial accuracy",
    "certified_accuracy": "certified accuracy (DeepPoly)",
    "verified_share": "verified share of the training set, last epoch",
}
# A claim's title, and its rule and the rule's keys with their values in TOML.
Claim = tuple[str, dict[str, str]]


def main() -> None:
    """Print the file of expectations of the grid's folder named on the command line."""
    folder = Path(sys.argv[1])
    runs = finished_runs(read_entries(folder))
    seeds = {run.result.trial.seed for run in runs}
    if len({run.result.trial.setting for run in runs}) != 1 or len(seeds) < 5:
        raise SoftadvError(f"{folder}: expectations are measured on one setting, over at least five seeds")
    grid = grid_name(folder)
    print_header(runs, grid=grid, seeds=sorted(seeds))
    for number, (title, keys) in enumerate([*measured(runs), *compared(runs)], start=1):
        print(f'\n[[claim]]\nid = "{grid[0]}{number}"\ntitle = "{title}"\nsource = "measured, {grid}.toml"')
        for key, value in keys.items():
            print(f"{key} = {value}")


def print_header(runs: list[Run], *, grid: str, seeds: list[int]) -> None:
    """Where the figures come from, and what a trial must be like to be compared with them."""
    first = runs[0].result
    trial, about = first.trial, first.environment
    again = f"runs/{grid}-{len(seeds)}"
    print(f"""\
# What the {grid} grid is expected to give: measured, with the spread over seeds that sets each tolerance.
#
# command   ./reproduce.sh {grid} --seeds {len(seeds)} --out {again}
# machine   {about["device"]}, {about["threads"]} threads, torch {about["torch"]}, Python {about["python"]}
# date      {datetime.now(UTC):%Y-%m-%d}, commit {about["commit"]}
# seeds     {seeds[0]} to {seeds[-1]}
# data      {trial.dataset}, fingerprint {first.data_fingerprint}
#
# To measure again, give that command and then
#   .venv/bin/python -m benchmarks.expectations {again} > expected_results/{grid}.toml

[settings."{trial.setting}"]
dataset = "{trial.dataset}"
eps = {trial.eps}
alpha = {trial.alpha}
steps = {trial.steps}
epochs = {trial.epochs}""")


def measured(runs: list[Run]) -> Iterator[Claim]:
    """Each method's figures, to be met within what their spread allows."""
    first = runs[0].result
    setting = first.trial.setting
    for method in METHODS:
        for figure, words in WORDS.items():
            if figure == "verified_share" and method != "soft":
                continue
            values = [value_of(run, figure) for run in Evidence(runs, {}).of(setting, method).values()]
            images = first.train_images if figure == "verified_share" else first.test_images
            yield (
                f"{method} training: {words}",
                {
                    "rule": '"measured"',
                    "setting": f'"{setting}"',
                    "method": f'"{method}"',
                    "figure": f'"{figure}"',
                    "mean": f"{fmean(values):.6f}",
                    "deviation": f"{stdev(values):.6f}",
                    "seeds": str(len(values)),
                    "sigmas": str(SIGMAS),
                    "resolution": f"{1 / images:.6f}",
                },
            )


def compared(runs: list[Run]) -> Iterator[Claim]:
    """What holds between the methods and the domains, which varies less than what each of them reaches.

    A range for the mean of the seeds that are run, however few: two seeds give intervals that settle nothing.
    """
    setting, evidence = runs[0].result.trial.setting, Evidence(runs, {})
    for figure in ("adversarial_accuracy", "certified_accuracy"):
        for method in ("adversarial", "soft"):
            gains = differences(evidence.pairs(setting, method, "natural"), figure)
            yield (
                f"{method} training gains {WORDS[figure]} over natural training",
                in_range(setting, method, figure, least=min(gains) / 2, over="natural")
                | {"assumption": f'"{spread(gains)}; half of the smallest must be reached."'},
            )
    gaps = differences(evidence.pairs(setting, "soft", "adversarial"), "natural_accuracy")
    most = 2 * max(map(abs, gaps))
    yield (
        "soft and adversarial training reach like natural accuracy",
        in_range(setting, "soft", "natural_accuracy", least=-most, most=most, over="adversarial")
        | {"assumption": f'"{spread(gaps)}; twice the largest in size is allowed."'},
    )
    shares = [100 * run.verified_share for run in evidence.of(setting, "soft").values()]
    yield (
        "soft training verifies a part of the training set by its last epoch",
        in_range(setting, "soft", "verified_share", least=min(shares) / 2)
        | {"assumption": f'"{spread(shares)}; half of the smallest must be reached."'},
    )
    yield (
        "DeepPoly verifies more test images than DeepZono, and DeepZono more than Box",
        {
            "rule": '"domain-totals"',
            "settings": f'["{setting}"]',
            "domains": '["deeppoly", "deepzono", "box"]',
        },
    )
    yield (
        "the exported ONNX models give PyTorch's classes, and its outputs to 1e-5",
        {"rule": '"export-parity"', "setting": f'"{setting}"', "tolerance": "1e-5"},
    )


def in_range(
    setting: str, method: str, figure: str, *, least: float, most: float = 100.0, over: str | None = None
) -> dict[str, str]:
    """The rule that a mean, or a mean difference from the method `over`, lies in a range; in points or per cent."""
    return {
        "rule": '"measured-range"',
        "setting": f'"{setting}"',
        "method": f'"{method}"',
        **({"over": f'"{over}"'} if over else {}),
        "figure": f'"{figure}"',
        "least": f"{least:.1f}",
        "most": f"{most:.1f}",
    }


def spread(values: list[float]) -> str:
    """What was measured, in words."""
    return (
        f"Measured over {len(values)} seeds: mean {fmean(values):.1f}, deviation {stdev(values):.1f}, "
        f"from {min(values):.1f} to {max(values):.1f} points"
    )


if __name__ == "__main__":
    main()
