"""A grid whose data set, model, method and attack are a module of the user's: from the command to the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from softadv.cli.app import main

MODULE = "own_code"
OWN = """
import torch
from torch import nn

import softadv


def stripes():
    y = torch.arange(40) % 2
    x = 0.2 + 0.6 * (torch.arange(6) % 2 == y[:, None])[:, None, None, :].float().expand(40, 1, 6, 6)
    return softadv.make_dataset("stripes", x, y, x, y, class_names=("even", "odd"), title="Stripes & bars")


def small(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, classes))


class EverySecond(softadv.methods.Method):
    title, color = "Every second image", "#444444"

    def attacked(self, epoch):
        return torch.arange(len(epoch.y)) % 2 == 0

    def loss(self, model, x, x_adv, y):
        return nn.functional.cross_entropy(model(x_adv), y)


class Darker:
    title, norm = "Darker", "Linf"

    def __call__(self, model, x, y, *, eps, generator):
        return (x - eps).clamp(0, 1)
"""
GRID = f"""
name = "mine"
methods = ["adversarial", "{MODULE}:EverySecond"]
seeds = [0]

[[setting]]
setting = "stripes"
dataset = "{MODULE}:stripes"
model = "{MODULE}:small"
attack = "{MODULE}:Darker"
eps = 0.3
alpha = 0.1
steps = 1
epochs = 2
batch_size = 8
"""
ADVERSARIAL, OWN_METHOD = "stripes-adversarial-seed0", f"stripes-{MODULE}-EverySecond-seed0"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the grid's file and the module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # sources of one second would look unchanged
    (tmp_path / "mine.toml").write_text(GRID)
    write(OWN)
    yield tmp_path
    sys.modules.pop(MODULE, None)


def write(source: str) -> None:
    """Write the module, for commands that have not yet imported it."""
    Path(f"{MODULE}.py").write_text(source)
    sys.modules.pop(MODULE, None)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    return int(ended.value.code or 0)


def complaints(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard error."""
    return capsys.readouterr().err.splitlines()


def test_it_runs_from_the_command_to_the_page_which_needs_none_of_the_code(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reproduce", "mine.toml", "--device", "cpu") == 0
    assert complaints(capsys) == []
    spec = json.loads((place / "runs/mine" / OWN_METHOD / "spec.json").read_text())
    assert [spec[key] for key in ("dataset", "model", "method", "attack")] == [
        f"{MODULE}:{name}" for name in ("stripes", "small", "EverySecond", "Darker")
    ]
    (place / f"{MODULE}.py").unlink()
    sys.modules.pop(MODULE)
    page = place / "runs/mine/report/index.html"
    page.unlink()
    assert run("compare", "runs/mine") == 0
    assert run("report", "runs/mine") == 0
    text = page.read_text(encoding="utf-8")
    assert MODULE not in sys.modules
    for wanted in (
        "Stripes &amp; bars",
        "Every second image − adversarial",
        "Every second image has a loss of its own",
        "Darker",
    ):
        assert wanted in text
    assert f"{MODULE}:EverySecond" in text


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("import softadv\n", "import softadv, nowhere_to_be_found\n", "cannot be imported"),
        ("    return softadv.make_dataset(", "    return (lambda *_, **__: 3)(", "got a int"),
        ("x, y, x, y,", "x, y + 1, x, y,", "dataset stripes: train_y: image 1 has label 2, labels end at 1"),
        ("nn.Linear(8, classes)", "nn.Linear(8, classes + 1)", "has 3 outputs, the data have 2 classes"),
        ("return nn.Sequential(", "return (lambda *_: 3)(", "expected a torch.nn.Module, got a int"),
        (
            "        return torch.arange(len(epoch.y)) % 2 == 0",
            "        return torch.ones(3) == 0",
            "bool tensor (40,)",
        ),
        ("        return torch.arange(len(epoch.y)) % 2 == 0", "        return [0, 1]", "bool tensor (40,), got list"),
        ("(x - eps).clamp(0, 1)", "(x - 2 * eps).clamp(0, 1)", "moved a pixel by 0.6, more than eps = 0.3"),
        ("(x - eps).clamp(0, 1)", "x - eps", "made a pixel -0.1, outside of [0, 1]"),
    ],
)
def test_what_is_wrong_with_it_is_one_line_and_exit_code_2(
    place: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, reason: str
) -> None:
    assert OWN.count(old) == 1
    write(OWN.replace(old, new))
    assert run("reproduce", "mine.toml", "--device", "cpu", "--methods", f"{MODULE}:EverySecond") == 2
    (line,) = complaints(capsys)
    assert reason in line


def test_a_trial_that_is_refused_loses_no_other(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(OWN.replace("torch.arange(len(epoch.y)) % 2 == 0", "None"))
    assert run("reproduce", "mine.toml", "--device", "cpu") == 2
    (line,) = complaints(capsys)
    assert line.startswith(f"softadv: {OWN_METHOD}: method EverySecond: attacked() must return")
    assert (place / "runs/mine" / ADVERSARIAL / "result.json").exists()
    assert (place / "runs/mine/report/index.html").exists()


def test_a_run_does_not_go_on_with_other_code_and_loses_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(OWN.replace("        return torch.arange", "        assert epoch.number < 2\n        return torch.arange"))
    grid = ("reproduce", "mine.toml", "--device", "cpu", "--methods", f"{MODULE}:EverySecond")
    assert run(*grid) == 1  # its first epoch is kept
    (line,) = complaints(capsys)
    assert "AssertionError" in line
    folder = place / "runs/mine" / OWN_METHOD
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "traceback.txt"}
    assert "checkpoint.safetensors" in kept
    write(OWN)
    assert run(*grid) == 2
    (line,) = complaints(capsys)
    assert f"{MODULE}:" in line
    assert "its source file changed since the run began" in line
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "traceback.txt"} == kept
    assert run(*grid, "--redo", OWN_METHOD) == 0


def test_a_run_does_not_go_on_with_an_object_that_has_other_settings(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its class is softadv's own, but what it was made with is the module's."""
    (place / "mine.toml").write_text(GRID.replace(f"{MODULE}:Darker", f"{MODULE}:strong"))
    source = OWN + "\n\nstrong = softadv.attacks.PGD(steps=2, alpha=0.1)\n"
    write(source.replace("        return torch.arange", "        assert epoch.number < 2\n        return torch.arange"))
    grid = ("reproduce", "mine.toml", "--device", "cpu", "--methods", "adversarial")
    assert run(*grid) == 0
    recorded = json.loads((place / "runs/mine" / ADVERSARIAL / "sources.json").read_text())
    assert recorded["attack"]["path"] == f"{MODULE}:strong"
    for name in ("result.json", "checkpoint.safetensors"):
        (place / "runs/mine" / ADVERSARIAL / name).unlink()
    capsys.readouterr()
    write(source.replace("steps=2", "steps=1"))
    assert run(*grid) == 2
    (line,) = complaints(capsys)
    assert "its source file changed since the run began" in line


FUNCTIONAL = """
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 36), 0.1))

    def forward(self, x):
        return nn.functional.linear(x.flatten(1), self.weight)


def functional(shape, classes):
    return Functional()
"""


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"Stripes & bars"', '"Stripes\\n& bars"', "dataset_title: expected one line of text"),
        ('"Every second image"', '"Every\\nsecond image"', "method_title: expected one line of text"),
        ("def small", FUNCTIONAL + "\n\ndef small", "linear (linear): not supported"),
    ],
)
def test_what_the_end_would_refuse_is_refused_before_the_first_epoch(
    place: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, reason: str
) -> None:
    assert OWN.count(old) == 1
    write(OWN.replace(old, new))
    network = "functional" if "functional" in new else "small"
    (place / "mine.toml").write_text(
        GRID.replace(f"{MODULE}:small", f"{MODULE}:{network}") + "certified_domains = []\n"
    )
    assert run("reproduce", "mine.toml", "--device", "cpu", "--methods", f"{MODULE}:EverySecond") == 2
    (line,) = complaints(capsys)
    assert reason in line
    assert not (place / "runs/mine" / OWN_METHOD / "metrics.json").exists()


def test_autoattack_of_too_few_classes_is_refused_before_the_first_epoch(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "mine.toml").write_text(GRID + "autoattack_images = 4\n")
    assert run("reproduce", "mine.toml", "--device", "cpu", "--methods", "adversarial") == 2
    (line,) = complaints(capsys)
    assert line == f"softadv: {ADVERSARIAL}: attack: AutoAttack needs 4 classes or more, there are 2"
    assert not (place / "runs/mine" / ADVERSARIAL / "metrics.json").exists()


def test_a_method_that_replays_itself_is_refused_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        OWN.replace(
            'title, color = "Every', f'replays, counts = "{MODULE}:EverySecond", None\n    title, color = "Every'
        )
    )
    assert run("reproduce", "mine.toml", "--device", "cpu") == 2
    (line,) = complaints(capsys)
    assert line == f"softadv: {OWN_METHOD}: its method, or one that it replays, replays itself"
    assert not (place / "runs").exists()
