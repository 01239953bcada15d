"""Every line of "To add a …" in docs/architecture.md, done to a copy of the package; a grid of it all runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import softadv

SOURCE = Path(softadv.__file__).parent
DOCUMENT = SOURCE.parents[1] / "docs" / "architecture.md"

NETWORK = """

@register("tiny-linear")
def _tiny_linear(shape: ImageShape, classes: int) -> nn.Module:
    pixels = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.Threshold(0, 0), nn.Linear(8, classes))
"""
DATA_SET = """

@register("stripes")
def _stripes() -> Dataset:
    y = torch.arange(40) % 2
    x = 0.2 + 0.6 * ((torch.arange(6) % 2 == y[:, None])[:, None, None, :].float().expand(40, 1, 6, 6))
    return make_dataset("stripes", x, y, x, y, class_names=("even", "odd"))
"""
METHOD = '''"""Attacks every second image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softadv.training.methods.base import EpochStart, Method, register


@register("every-second")
@dataclass(frozen=True, kw_only=True)
class EverySecond(Method):
    title, color = "Every second image", "#444444"

    def attacked(self, epoch: EpochStart) -> Tensor:
        return torch.arange(len(epoch.y)) % 2 == 0
'''
ATTACK = '''"""The corner of the ball that darkens every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softadv.attacks.base import register


@register("darker")
@dataclass(frozen=True, kw_only=True)
class Darker:
    title, norm = "Darker", "Linf"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        return (x - eps).clamp(0, 1)
'''
RULE = '''"""Whether there is any run at all."""

from __future__ import annotations

from dataclasses import dataclass

from softadv.claims.decision import Decision, binary
from softadv.claims.selection import Evidence


@dataclass(frozen=True, kw_only=True)
class AnyRun:
    least: int

    def decide(self, evidence: Evidence) -> Decision:
        return binary(len(evidence.runs) >= self.least, f"{len(evidence.runs)} runs")
'''
FIGURE = '''"""The losses, as bars."""

from __future__ import annotations

from collections.abc import Iterator

from softadv.report.figures.page_figure import FigureInput, PageFigure, csv_text, page_figure
from softadv.report.figures.svg import Panel


def page_figures(source: FigureInput) -> Iterator[PageFigure]:
    losses = [run.epochs[-1].loss for run in source.shown]
    panel = Panel("The last losses.")
    x, y = panel.across(0, len(losses)), panel.upward(0, max(losses))
    panel.axes(x, y, x_name="Run", y_name="Loss", whole=True)
    panel.line([(x(place), y(loss)) for place, loss in enumerate(losses)], "#0072B2")
    yield page_figure(
        "time", "losses", [panel], source.shown, caption="The last loss of every run.",
        csv=csv_text(("loss",), [(loss,) for loss in losses]),
    )
'''
GRID = """
name = "added"
description = "All that was added."
methods = ["every-second", "soft"]
seeds = [0]

[defaults]
dataset = "stripes"
model = "tiny-linear"
attack = "darker"
eps = 0.1
alpha = 0.1
steps = 1
epochs = 1
batch_size = 8

[[setting]]
setting = "stripes-eps0.1"
"""
CLAIM = """
[[claim]]
id = "a1"
title = "both methods were run"
source = "here"
rule = "any-run"
least = 2
"""
COMMAND = '''

def hello() -> None:
    """Say hello."""
    output.say("hello from a command")
'''


def append(package: Path, file: str, text: str) -> None:
    path = package / file
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def insert(package: Path, file: str, before: str, text: str) -> None:
    path = package / file
    old = path.read_text(encoding="utf-8")
    assert old.count(before) == 1, f"{file}: {before}"
    path.write_text(old.replace(before, text + before), encoding="utf-8")


def network(package: Path) -> None:
    append(package, "models.py", NETWORK)


def data_set(package: Path) -> None:
    append(package, "data.py", DATA_SET)


def training_method(package: Path) -> None:
    (package / "training/methods/every_second.py").write_text(METHOD)
    append(package, "training/methods/__init__.py", "\nfrom softadv.training.methods import every_second\n")


def attack(package: Path) -> None:
    (package / "attacks/darker.py").write_text(ATTACK)
    append(package, "attacks/__init__.py", "\nfrom softadv.attacks import darker\n")


def layer_of_the_certifier(package: Path) -> None:
    insert(package, "certify/layers.py", "    nn.ReLU: ", "    nn.Threshold: _one(Relu),  # with 0 and 0\n")


def claim(package: Path) -> None:
    expected = package.parent / "expected"
    expected.mkdir()
    (expected / "paper.toml").write_text("")
    (expected / "added.toml").write_text(CLAIM)


def rule_of_claims(package: Path) -> None:
    (package / "claims/rules/any_run.py").write_text(RULE)
    insert(
        package,
        "claims/rules/kinds.py",
        "from softadv.claims.selection",
        "from softadv.claims.rules.any_run import AnyRun\n",
    )
    insert(package, "claims/rules/kinds.py", '    "neuron-count": ', '    "any-run": AnyRun,\n')


def figure(package: Path) -> None:
    (package / "report/figures/losses.py").write_text(FIGURE)
    gallery = package / "report/figures/gallery.py"
    text = gallery.read_text(encoding="utf-8")
    text = text.replace("import accuracy, ", "import accuracy, losses, ").replace(
        "= (accuracy, ", "= (accuracy, losses, "
    )
    gallery.write_text(text, encoding="utf-8")


def command(package: Path) -> None:
    append(package, "cli/grid_commands.py", COMMAND)
    insert(package, "cli/app.py", '    ("keep", ', '    ("hello", grid_commands.hello, "softadv hello"),\n')


def grid(package: Path) -> None:
    (package / "experiments/grids/added.toml").write_text(GRID)


ADDITIONS: dict[str, Callable[[Path], None]] = {
    "network": network,
    "data set": data_set,
    "training method": training_method,
    "attack": attack,
    "layer of the certifier": layer_of_the_certifier,
    "claim": claim,
    "rule of claims": rule_of_claims,
    "figure": figure,
    "command": command,
    "grid": grid,
}


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the grid that was added, and all that softadv said."""
    root = tmp_path_factory.mktemp("copy")
    # With the compiled kernels, but without what another process is just writing beside them.
    shutil.copytree(SOURCE, root / "softadv", ignore=shutil.ignore_patterns("*.pyc*", ".*"))
    for add in ADDITIONS.values():
        add(root / "softadv")
    softadv_here = [sys.executable, "-m", "softadv"]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    folder = root / "runs"
    reproduce = ["reproduce", "added", "--device", "cpu", "--expected", str(root / "expected"), "--out", str(folder)]
    said = ""
    for arguments in (reproduce, ["hello"]):
        done = subprocess.run(
            [*softadv_here, *arguments], capture_output=True, text=True, check=False, cwd=root, env=environment
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout
    return folder, said


def test_the_document_has_a_line_for_each_thing_that_is_added_here() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").split("## To add a …")[1].split("\n## ")[0]
    lines = re.findall(r"^\| ([a-z][\w ]*) \| ", table, re.MULTILINE)
    assert lines == ["what", *ADDITIONS]


@pytest.mark.parametrize("what", ADDITIONS)
def test_what_was_added_is_there(added: tuple[Path, str], what: str) -> None:
    folder, said = added
    spec = json.loads((folder / "stripes-eps0.1-every-second-seed0" / "spec.json").read_text())
    soft = json.loads((folder / "stripes-eps0.1-soft-seed0" / "metrics.json").read_text())
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    found = {
        "network": spec["model"] == "tiny-linear",
        "data set": spec["dataset"] == "stripes",
        "training method": "Every second image" in page,
        "attack": spec["attack"] == "darker",
        "layer of the certifier": soft["epochs"][-1]["verified"] is not None,
        "claim": "a1" in said,
        "rule of claims": "both methods were run" in said,
        "figure": (folder / "report" / "losses.csv").exists(),
        "command": "hello from a command" in said,
        "grid": (folder / "grid.json").exists(),
    }
    assert found[what]
