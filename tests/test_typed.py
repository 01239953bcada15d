"""Whatever is read from disk is of the right type and in its range, or refused in one line that names the key."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.campaign.inputs import changed, places
from softadv._io import parse_toml, read_json, read_tensors, write_json, write_tensors
from softadv.claims.judge import load_expectations
from softadv.errors import SoftadvError
from softadv.experiments.expected import expected_folder
from softadv.experiments.records import metrics_from_table, result_from_table, result_to_table
from softadv.experiments.reference import (
    REFERENCE,
    read_record,
    read_summary,
    record_files,
    record_from_table,
    summary_from_table,
)
from softadv.experiments.run_folder import read_about
from softadv.experiments.spec import parse_grid, trial_to_table

FOLDERS = [path for path in sorted((expected_folder() / REFERENCE).iterdir()) if path.is_dir()]
RECORDS = [path for folder in FOLDERS for path in record_files(folder)]
SOFT = next(path for path in RECORDS if "soft" in path.name)


def refusal(call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    with pytest.raises(SoftadvError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_stored_record_is_read_as_it_stands(path: Path) -> None:
    record, table = read_record(path), read_json(path)
    written = json.loads(json.dumps(result_to_table(record.result)))
    assert written | table["result"] == written  # old records lack keys that have a default now
    for epoch, stored in zip(record.epochs, table["epochs"], strict=True):
        assert vars(epoch) | stored == vars(epoch)
    spec = trial_to_table(record.trial)
    assert spec | table["spec"] == spec


def test_every_stored_summary_is_read() -> None:
    for folder in FOLDERS:
        # A reference may have more seeds than its grid.
        assert sum(len(row.seeds) for row in read_summary(folder).results) == len(record_files(folder))


STORED = read_json(SOFT)
SUMMARY_TABLE = read_json(SOFT.parent / "summary.json")
# No key of theirs takes any of these.
NEVER = [float("nan"), float("inf"), {"x": 1}, [[]], 10**400, -1.5]


@pytest.mark.parametrize("at", list(places(STORED)), ids=lambda at: ".".join(map(str, at)))
def test_a_record_with_one_bad_field_is_refused_by_name(at: tuple[Any, ...]) -> None:
    for value in NEVER:
        if at == ("epochs", 0, "loss") and value == -1.5:
            continue  # a loss of a user's own may be negative
        assert refusal(record_from_table, changed(STORED, at, value), path=SOFT).startswith(f"{SOFT}: ")


@pytest.mark.parametrize("at", list(places(SUMMARY_TABLE)), ids=lambda at: ".".join(map(str, at)))
def test_a_summary_with_one_bad_field_is_refused_by_name(at: tuple[Any, ...]) -> None:
    for value in (float("nan"), float("inf"), {"x": 1}, [[]]):
        told = refusal(summary_from_table, changed(SUMMARY_TABLE, at, value), path=Path("summary.json"))
        assert told.startswith("summary.json: ")


BAD: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "an accuracy of 2": (("result", "natural_accuracy"), 2, "natural_accuracy: must be at most 1.0, got 2"),
    "an accuracy of -1": (("result", "adversarial_accuracy"), -1, "adversarial_accuracy: must be at least 0.0, got -1"),
    "an accuracy that is none": (("result", "natural_accuracy"), None, "natural_accuracy: expected a number, got None"),
    "an accuracy as a text": (("result", "natural_accuracy"), "0.9", "natural_accuracy: expected a number, got '0.9'"),
    "true for a number": (("result", "natural_accuracy"), True, "natural_accuracy: expected a number, got True"),
    "no images": (("result", "test_images"), 0, "test_images: must be at least 1, got 0"),
    "more verified than images": (("result", "certified", 0, "verified"), 10**6, "certified[0]: verified: 1000000 of"),
    "more certified than there are": (("result", "certified", 0, "images"), 10**6, "certified by deeppoly: of 1000000"),
    "an unknown domain": (("result", "certified", 0, "domain"), "magic", "certified[0].domain: unknown value 'magic'"),
    "an epoch twice": (("epochs", 1, "epoch"), 1, "epoch 1 is in the place of epoch 2"),
    "a split of other images": (("epochs", 0, "verified"), 3, "epoch 1: the split is of"),
    "a part of a split": (("epochs", 0, "verified"), None, "epoch 1: a part of the split is missing"),
    "negative seconds": (("epochs", 0, "attack_seconds"), -1, "epochs[0].attack_seconds: must be at least 0.0, got -1"),
    "a key that is none": (("result", "colour"), 1, "unknown key 'colour'; known are"),
    "a key inside": (("result", "parity", "colour"), 1, "parity: unknown key 'colour'"),
    "images that the trial did not ask for": (("spec", "train_images"), 7, "train_images: the result is of"),
    "a spec out of range": (("spec", "steps"), 2**32, "trial: steps: must be at most 1,000,000, got 4294967296"),
    "another trial's result": (("result", "trial"), {}, "result: unknown key 'trial'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_record_is_said(case: str) -> None:
    at, value, message = BAD[case]
    assert refusal(record_from_table, changed(STORED, at, value), path=SOFT).startswith(f"{SOFT}: {message}")


@pytest.mark.parametrize("key", ["natural_accuracy", "certified", "environment", "parity"])
def test_a_key_that_is_missing_is_named(key: str) -> None:
    table = copy.deepcopy(STORED)
    del table["result"][key]
    assert refusal(record_from_table, table, path=SOFT) == f"{SOFT}: {key} is missing"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        '"text"',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": ' + "9" * 5_000 + "}",
        '{"a": 1',
        "\ufeff{}",
        "{'a': 1}",
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_json_object_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text, encoding="utf-8")
    assert refusal(read_json, path).startswith(f"{path}: ")


def test_files_that_are_none_are_one_line_and_no_wait(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("pipe", "folder", "circle", "binary", "nothing"):
        for read in (read_json, read_tensors):
            assert refusal(read, tmp_path / name).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_file_gets_a_number_that_json_does_not_have(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1.0})
    assert refusal(write_json, path, {"epochs": [{"loss": value}]}).startswith(f"{path}: ")
    assert read_json(path) == {"loss": 1.0}
    assert [found.name for found in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("about", ["[]", "null", "3", "{", '{"sha256": 3}', '{"epoch": ["1"]}', "[" * 100_000])
def test_metadata_of_weights_that_are_none_are_one_line(tmp_path: Path, about: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"softadv": about})
    assert refusal(read_tensors, path).startswith(f"{path}: ")


def test_tensors_of_any_kind_have_a_digest(tmp_path: Path) -> None:
    tensors = {
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "one": torch.tensor(2.5),
        "negated": torch.tensor([1.0 + 2.0j]).conj(),
    }
    write_tensors(tmp_path / "t", tensors)
    read, _ = read_tensors(tmp_path / "t")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    "table", [{}, {"epochs": None}, {"epochs": {}}, {"epochs": [None]}, {"epochs": [[]]}, {"e": 1}]
)
def test_metrics_that_are_none_are_refused(table: dict[str, Any]) -> None:
    assert refusal(metrics_from_table, table, where="metrics.json").startswith("metrics.json: ")


def test_a_result_without_its_trial_is_refused() -> None:
    assert refusal(result_from_table, {}, where="result.json") == "result.json: trial is missing"


@pytest.mark.parametrize(
    "table",
    [
        {"name": "../../../tmp"},
        {"name": "/tmp"},
        {"name": ".."},
        {"name": "a/b"},
        {"name": ""},
        {"name": "n" * 300},
        {"name": 3},
        {"name": None},
        {"description": "no name"},
        {"name": "a", "colour": 1},
        {"name": "a", "command": ["./reproduce.sh"]},
    ],
)
def test_a_grid_is_named_by_a_plain_name(tmp_path: Path, table: dict[str, Any]) -> None:
    (tmp_path / "grid.json").write_text(json.dumps(table))
    assert refusal(read_about, tmp_path).startswith(f"{tmp_path / 'grid.json'}: ")


def test_toml_that_is_nested_too_deeply_or_too_long_is_one_line(tmp_path: Path) -> None:
    for text in ("a = " + "[" * 100_000, "a = " + "9" * 5_000):
        assert refusal(parse_toml, text, where="x.toml").startswith("x.toml: not valid TOML")
        assert refusal(parse_grid, text, source="x.toml").startswith("x.toml: ")
        (tmp_path / "x.toml").write_text(text)
        assert refusal(load_expectations, tmp_path / "x.toml").startswith(f"{tmp_path / 'x.toml'}: ")
