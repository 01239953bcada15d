"""The examples run, and the one that spells the method out ends where the library ends."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import softadv
from softadv.attacks import PGD
from softadv.data import Dataset

EXAMPLES = Path(__file__).parents[1] / "examples"
# A network that nobody answers on: who asks for a host, fails.
OFFLINE = {f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https", "all")}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_your_own_runs_by_itself(tmp_path: Path) -> None:
    source = str(Path(softadv.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "your_own.py")],
        cwd=tmp_path,
        env=os.environ | OFFLINE | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    row = r"{}\s+\d+\.\d\d% \(95%: \d+\.\d\d to \d+\.\d\d, 128 images\)\n"
    table = "".join(row.format(name) for name in ("natural", "PGD", "certified"))
    assert re.fullmatch(rf"last loss \d\.\d{{3}}\neps 0\.05\n{table}", done.stdout), done.stdout


def test_soft_adversarial_training_ends_with_the_librarys_weights(
    digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """In float64, for which the compiled kernels step aside, and in which rounding turns no sign of a slope."""
    example = load("soft_adversarial_training")
    x, y = digits.train_x[:400].double(), digits.train_y[:400]
    spelled_out, by_library = example.network().double(), example.network().double()
    example.train(spelled_out, x, y, epochs=3)
    printed = [int(count) for count in re.findall(r"(\d+) of 400 images attacked", capsys.readouterr().out)]
    run = softadv.train(
        by_library, (x, y), method="soft", eps=example.EPS, attack=PGD(alpha=example.ALPHA, steps=example.STEPS),
        epochs=3, seed=example.SEED, batch_size=example.BATCH_SIZE, lr=example.LR,
    )  # fmt: skip
    assert printed == [epoch.attacked for epoch in run.history]
    assert printed[-1] < 400  # the certifier has spared some
    for own, theirs in zip(spelled_out.parameters(), by_library.parameters(), strict=True):
        assert float((own - theirs).detach().abs().max()) <= 1e-9
    assert not torch.equal(next(spelled_out.parameters()), next(example.network().double().parameters()))


@pytest.mark.parametrize(("name", "most"), [("soft_adversarial_training", 130), ("your_own", 50)])
def test_an_example_is_read_in_one_sitting(name: str, most: int) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= most
