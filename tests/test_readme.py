"""What the README says can be done as it says."""

import re
from pathlib import Path

from softadv.experiments.spec import Trial, packaged_grids

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_library_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})  # prints the certified accuracy
    last = capsys.readouterr().out.splitlines()[-1]
    assert 0 <= float(last.removeprefix("tensor(").rstrip(")")) <= 1


def test_every_packaged_grid_is_named():
    for grid in set(packaged_grids()) - {"smoke"}:
        assert f"./reproduce.sh {grid}" in README


def test_the_assumptions_are_all_keys_of_a_spec():
    table = README.split("## What the paper leaves open")[1].split("##")[0]
    keys = {key for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)}
    usual = {"optimizer", "lr", "momentum", "batch_size", "split_every", "split", "split_share", "update"}
    assert keys == usual | {
        "random_start",
        "attack",
        "natural_epochs",
        "normalize",
        "augment",
        "domain",
        "certifier",
        "seed",
        "tf32",
    }
    assert keys <= Trial.__dataclass_fields__.keys()
