"""One mistake in each argument of every command: one line that names it, exit code 2, and nothing written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from softadv.cli.app import app, main
from softadv.experiments.expected import expected_folder
from softadv.experiments.reference import REFERENCE

# By command and argument: the words after the command. MODEL and RUNS are finished runs, MNIST the reference's weights,
# FILE is a text file.
MODEL = {
    "model": "nowhere",
    "--data": "MNIST --data nowhere",
    "--model": "MODEL --model conv_smal",
    "--dataset": "MODEL --dataset digit",
    "--eps": "MODEL --eps ten",
    "--device": "MODEL --device gpu",
    "--limit": "MODEL --limit 0",
    "--seed": "MODEL --seed -1",
    "--alpha": "MODEL --alpha 3",
    "--steps": "MODEL --steps few",
    "--attack": "MODEL --attack pdg",
    "--domain": "MODEL --domain deepoly",
    "--certifier": "MODEL --certifier eran",
    "--jobs": "MODEL --jobs 0",
    "--threads": "MODEL --threads two",
    "--ray": "MODEL --ray nowhere",
}
MISTAKES: dict[str, dict[str, str]] = {
    "reproduce": {
        "grid": "smok",
        "--data": "mnist --data nowhere",
        "--out": "smoke --out FILE",
        "--device": "smoke --device gpu",
        "--seeds": "smoke --seeds 0",
        "--epochs": "smoke --epochs 1.5",
        "--methods": "smoke --methods soft,naturl",
        "--certifier": "smoke --certifier eran",
        "--redo": "smoke --redo digits-soft",
        "--expected": "smoke --expected nowhere",
        "--jobs": "smoke --jobs 0",
        "--threads": "smoke --threads 0",
        "--gpus-per-trial": "smoke --gpus-per-trial -1",
        "--ray": "smoke --ray nowhere",
        "--shard": "smoke --shard 3/2",
        "--autoattack": "smoke --autoattack",
        "--other-images": "smoke --other-images",
        "--from-weights": "smoke --from-weights --dry-run",
        "--dry-run": "smoke --dry-run --json",
        "--quiet": "smoke --quiet --verbose",
        "--verbose": "smoke --verbose --json",
        "--json": "smoke --json --shard 1/2",
    },
    "train": {
        "out": "FILE",
        "--dataset": "new --dataset digit",
        "--model": "new --model conv_smal",
        "--method": "new --method sof",
        "--eps": "new --eps 2",
        "--alpha": "new --alpha fast",
        "--steps": "new --steps 0",
        "--epochs": "new --epochs -3",
        "--seed": "new --seed one",
        "--set": "new --set bach_size=32",
        "--data": "new --dataset mnist --data nowhere",
        "--device": "new --device gpu",
    },
    "evaluate": MODEL,
    "certify": MODEL | {
        "--rounding": "MODEL --rounding up",
        "--split": "MODEL --split validation",
        "--out": "MODEL --out rows.txt",
    },
    "parity": MODEL | {"--images": "MODEL --images none"},
    "attack": MODEL | {"--save": "MODEL --save nowhere/images.safetensors"},
    "export": MODEL | {"--out": "MODEL --out nowhere/model.onnx"},
    "verify": {
        "property": "nowhere.vnnlib --network N=net.onnx",
        "--network": "FILE --network net.onnx",
        "--timeout": "FILE --network N=net.onnx --timeout soon",
        "--seed": "FILE --network N=net.onnx --seed -1",
    },
    "supports": {"": "--onnx-operator"},
    "compare": {
        "folder": "nowhere",
        "--out": "RUNS --out FILE",
        "--expected": "RUNS --expected nowhere",
        "--quiet": "RUNS --quiet --json",
        "--verbose": "RUNS --verbose --quiet",
        "--json": "RUNS --json --verbose",
    },
    "report": {
        "folder": "nowhere",
        "other": "RUNS nowhere",
        "--out": "RUNS --out FILE",
        "--expected": "RUNS --expected nowhere",
    },
    "keep": {"folder": "nowhere", "--reference": "RUNS --allow-dirty --reference FILE"},
    "list": {"kind": "method"},
    "schema": {"": "grid.schema.json"},
    "doctor": {"--data": "--data ''"},
}  # fmt: skip
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def arguments_of(command: str) -> dict[str, bool]:
    """The arguments and options of a command, and which of them are flags."""
    return {
        next((opt for opt in it.opts if opt.startswith("--")), it.name): getattr(it, "is_flag", False)
        for it in COMMANDS[command].params
    }


def test_every_argument_of_every_command_has_its_mistake() -> None:
    assert MISTAKES.keys() == COMMANDS.keys()
    for command in COMMANDS:
        needed = {name for name, flag in arguments_of(command).items() if not flag}
        assert needed <= MISTAKES[command].keys(), command


CASES = [
    (command, name, words)
    for command, mistakes in MISTAKES.items()
    for name, words in mistakes.items()
    if not name or name in arguments_of(command)
] + [
    (command, name, f"{name}=1")
    for command in COMMANDS
    for name, flag in arguments_of(command).items()
    if flag and name not in MISTAKES[command]
]


@pytest.mark.parametrize(("command", "name", "words"), CASES, ids=lambda text: text or "extra")
def test_a_mistake_is_one_line_that_names_it(  # noqa: PLR0917 (fixtures)
    command: str,
    name: str,
    words: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOFTADV_DATA", raising=False)
    (tmp_path / "file.txt").write_text("text")
    weights = expected_folder() / REFERENCE / "mnist" / "weights" / "mnist-eps0.1-soft-seed0.safetensors"
    model = str(tiny / "digits-tiny-soft-seed0")
    places = {"MODEL": model, "MNIST": str(weights), "RUNS": str(tiny), "FILE": "file.txt", "''": ""}
    given = [places.get(word, word) for word in words.split()]
    with pytest.raises(SystemExit) as caught:
        main([command, *given])
    said = capsys.readouterr()
    assert caught.value.code == 2, said
    (line,) = said.err.splitlines()
    assert line.startswith("softadv: ")
    named = [name, *re.split(r"[ ,=]", " ".join(given))]
    assert any(word in line for word in named if word), line
    there = {path.name for path in tmp_path.iterdir()} - {"file.txt"}
    assert not there or (name == "--ray" and there == {"runs"})  # Ray is joined when the folder is ready
