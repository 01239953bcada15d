"""Measure a grid's expected results: turn the folder of a run over many seeds into expected_results/GRID.toml.

./reproduce.sh smoke --seeds 8 --out runs/smoke-8
.venv/bin/python -m benchmarks.expectations runs/smoke-8 > expected_results/smoke.toml
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev

from softadv.errors import SoftadvError
from softadv.evidence import Evidence, load_runs, value_of
from softadv.grid import grid_name
from softadv.spec import METHODS

# Five standard errors: with eight seeds, a difference by chance about once in 600 comparisons.
SIGMAS = 5.0
TITLES = {
    "natural_accuracy": "natural accuracy",
    "adversarial_accuracy": "adversarial accuracy",
    "certified_accuracy": "certified accuracy (DeepPoly)",
    "verified_share": "verified share of the training set, last epoch",
}


def main() -> None:
    """Print the file of expectations of the grid's folder named on the command line."""
    folder = Path(sys.argv[1])
    runs = load_runs(folder)
    evidence = Evidence(runs, {})
    first = runs[0].result
    trial, grid = first.trial, grid_name(folder)
    seeds = sorted({run.result.trial.seed for run in runs})
    if len({run.result.trial.setting for run in runs}) != 1 or len(seeds) < 5:
        raise SoftadvError(f"{folder}: expectations are measured on one setting, over at least five seeds")
    about = first.environment
    print(f"# What the {grid} grid is expected to give: measured, with the spread over seeds that sets each tolerance.")
    print("#")
    print(f"# command   ./reproduce.sh {grid} --seeds {len(seeds)} --out runs/{grid}-{len(seeds)}")
    print(
        f"# machine   {about['device']}, {about['threads']} threads, torch {about['torch']}, Python {about['python']}"
    )
    print(f"# date      {datetime.now(UTC):%Y-%m-%d}, commit {about['commit'][:12]}")
    print(f"# seeds     {seeds[0]} to {seeds[-1]}")
    print(f"# data      {trial.dataset}, fingerprint {first.data_fingerprint}")
    print("#")
    print("# To measure again, give that command and then")
    print(f"#   .venv/bin/python -m benchmarks.expectations runs/{grid}-{len(seeds)} > expected_results/{grid}.toml")
    print()
    print(f'[settings."{trial.setting}"]')
    print(f'dataset = "{trial.dataset}"\neps = {trial.eps}\nalpha = {trial.alpha}\nsteps = {trial.steps}')
    print(f"epochs = {trial.epochs}")
    for method in METHODS:
        for figure, title in TITLES.items():
            if figure == "verified_share" and method != "soft":
                continue
            values = [value_of(run, figure) for run in evidence.of(trial.setting, method).values()]
            images = first.train_images if figure == "verified_share" else first.test_images
            print_claim(
                identifier=f"{method}-{figure.split('_', maxsplit=1)[0]}",
                title=f"{method} training: {title}",
                rule="measured",
                setting=f'"{trial.setting}"',
                method=f'"{method}"',
                figure=f'"{figure}"',
                mean=f"{fmean(values):.6f}",
                deviation=f"{stdev(values):.6f}",
                seeds=str(len(values)),
                sigmas=str(SIGMAS),
                resolution=f"{1 / images:.6f}",
            )
    for figure, least in (("adversarial_accuracy", 10.0), ("certified_accuracy", 5.0)):
        for method in ("adversarial", "soft"):
            print_claim(
                identifier=f"{method}-gains-{figure.split('_', maxsplit=1)[0]}",
                title=f"{method} training gains at least {least:g} points of {TITLES[figure]} over natural training",
                rule="gain",
                settings=f'["{trial.setting}"]',
                figure=f'"{figure}"',
                method=f'"{method}"',
                over='"natural"',
                above=f"{least}",
            )
    print_claim(
        identifier="soft-like-adversarial",
        title="soft training's natural accuracy is within 3 points of adversarial training's",
        rule="comparable",
        settings=f'["{trial.setting}"]',
        figures='["natural_accuracy"]',
        margin="3.0",
    )
    print_claim(
        identifier="precision",
        title="DeepPoly verifies more test images than DeepZono, and DeepZono more than Box",
        rule="domain-order",
        settings=f'["{trial.setting}"]',
        domains='["deeppoly", "deepzono", "box"]',
        scalability="false",
    )
    print_claim(
        identifier="export",
        title="The exported ONNX models give PyTorch's classes, and its outputs to 1e-5",
        rule="export-parity",
        setting=f'"{trial.setting}"',
        tolerance="1e-5",
    )


def print_claim(*, identifier: str, title: str, rule: str, **keys: str) -> None:
    """Print one [[claim]] table; the values of keys are TOML already."""
    print(f'\n[[claim]]\nid = "{identifier}"\ntitle = "{title}"\nsource = "measured, see above"\nrule = "{rule}"')
    for key, value in keys.items():
        print(f"{key} = {value}")


if __name__ == "__main__":
    main()
