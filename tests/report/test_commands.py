"""The commands on the page do what they say: each is parsed as the command line would."""

import shlex
from dataclasses import replace
from typing import Any

import pytest

from softadv.cli.options import parse_settings
from softadv.experiments.spec import Trial, load_grid, packaged_grids, trial_from_table
from softadv.report.commands import trial_command, without_paths
from tests.report.trials import make_trial


def parsed(command: str) -> Trial:
    """The trial that `softadv train` would make of a command (cli.train)."""
    program, action, out, *options = shlex.split(command)
    assert (program, action) == (".venv/bin/softadv", "train")
    table: dict[str, Any] = {}
    settings = []
    for option, value in zip(options[::2], options[1::2], strict=True):
        if option == "--set":
            settings.append(value)
        else:
            table[option.removeprefix("--")] = int(value) if option in ("--steps", "--epochs", "--seed") else value
    trial = trial_from_table(table | {"setting": table["dataset"]} | parse_settings(settings), where="train")
    assert out == f"runs/again/{trial.name}"
    return trial


@pytest.mark.parametrize("grid", packaged_grids())
def test_a_command_makes_the_same_trial(grid: str) -> None:
    for trial in load_grid(grid).trials:
        assert parsed(trial_command(trial)) == trial


@pytest.mark.parametrize("setting", ["1", "true", "nan", "2026-01-01", "a.b", "1e3"])
def test_a_name_that_toml_would_take_for_something_else_is_quoted(setting: str) -> None:
    trial = replace(make_trial(), setting=setting, lr=1 / 3, eps=1 / 3, certified_images=7, attack="torchattacks:PGD")
    assert parsed(trial_command(trial)) == trial


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/a/b/c.json: not valid", "…/c.json: not valid"),
        ("cannot read '/a/c.json'", "cannot read '…/c.json'"),
        ("eps 8/255, soft/adversarial", "eps 8/255, soft/adversarial"),
        ("see https://a.org/b/c", "see https://a.org/b/c"),
        (r"C:\Users\me\c.json", "…/c.json"),
    ],
)
def test_of_a_path_only_the_name_is_kept(text: str, kept: str) -> None:
    assert without_paths(text) == kept
