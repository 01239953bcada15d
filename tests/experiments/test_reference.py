"""The reference: what is kept of a run folder, how it is read again, and what a command makes of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from softadv._io import read_json, read_tensors, tensors_sha256, write_json
from softadv.errors import SoftadvError
from softadv.experiments.expected import expected_folder
from softadv.experiments.reference import (
    REFERENCE,
    SUMMARY,
    read_grid_reference,
    read_record,
    read_reference,
    read_summary,
    record_files,
    shared_files,
)
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.runs import read_entries
from softadv.experiments.spec import load_grid
from softadv.experiments.store_reference import keep, summary_rows
from tests.cli.command import run

SOFT = "digits-tiny-soft-seed0"


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the grid's folder."""
    return shutil.copytree(tiny, tmp_path / "runs")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    table = read_json(path)
    change(table)
    write_json(path, table)


def test_what_is_kept_is_read_again(tiny: Path, reference: Path) -> None:
    records = read_grid_reference(reference / "tiny")
    before = {entry.name: entry for entry in read_entries(tiny)}
    assert [record.trial.name for record in records] == sorted(before)
    for record in records:
        entry = before[record.trial.name]
        assert (record.result, record.epochs) == (entry.result, entry.epochs)
        assert tensors_sha256(read_tensors(record.weights)[0]) == record.result.weights_sha256


def test_a_reference_reads_like_a_run_folder(tiny: Path, reference: Path) -> None:
    seen = [
        [(entry.name, entry.state, entry.trial, entry.epochs, entry.result) for entry in read_entries(place)]
        for place in (tiny, reference / "tiny")
    ]
    assert seen[0] == seen[1]


def test_a_damaged_file_of_a_reference_is_unreadable_and_loses_no_other(reference: Path) -> None:
    (reference / "tiny" / f"{SOFT}.json").write_text("{")
    entries = {entry.name: entry for entry in read_entries(reference / "tiny")}
    assert len(entries) == 3
    assert entries[SOFT].state == "unreadable"
    assert entries[SOFT].note.startswith(f"{SOFT}.json: not valid JSON")


def test_no_path_of_the_machine_is_kept(folder: Path, tmp_path: Path) -> None:
    edit(folder / "grid.json", lambda t: t.update(command="./reproduce.sh /my/tiny.toml --data /my/data --seeds 1"))
    for name in ("spec", "result"):
        # As of a dataset that is read from files: digits are not.
        edit(folder / SOFT / f"{name}.json", lambda t: t.get("trial", t).update(dataset="mnist"))
    edit(folder / SOFT / "result.json", lambda t: t.update(data_source="/my/data"))
    kept = keep(folder, reference=tmp_path / REFERENCE, allow_dirty=True)
    texts = {path: path.read_text() for path in kept.folder.glob("*.json")}
    assert len(texts) == 4
    assert not [path for path, text in texts.items() if "/my" in text or str(tmp_path) in text]
    assert read_json(kept.folder / SUMMARY)["command"] == "./reproduce.sh tiny.toml --seeds 1"
    assert read_record(kept.folder / f"{SOFT}.json").result.data_source == "mnist"


def test_the_summary_says_what_was_run_and_how_it_spreads(folder: Path, tmp_path: Path) -> None:
    add_seed(folder, "soft", seed=1, natural=0.5)
    shutil.rmtree(folder / "digits-tiny-natural-seed0")
    (folder / "digits-tiny-adversarial-seed0" / "result.json").unlink()
    summary = read_json(keep(folder, reference=tmp_path / REFERENCE, allow_dirty=True).folder / SUMMARY)
    assert summary["parts"] == {"finished": 2, "trials": 3, "missing": ["digits-tiny-adversarial-seed0"]}
    (row,) = summary["results"]
    natural = [RunFolder(folder / SOFT).result().natural_accuracy, 0.5]
    assert row["seeds"] == [0, 1]
    assert row["natural_accuracy"] == {
        "mean": round(sum(natural) / 2, 6),
        "deviation": round(stdev(natural), 6),
    }
    assert row["autoattack_accuracy"] is None  # no trial of this grid asks for it


def test_only_the_first_seeds_weights_are_kept(folder: Path, tmp_path: Path) -> None:
    """Also where it is kept later than others."""
    add_seed(folder, "soft", seed=1)
    later = shutil.move(folder / SOFT, tmp_path / "later")
    kept = keep(folder, reference=tmp_path / REFERENCE, allow_dirty=True).folder / "weights"
    assert "digits-tiny-soft-seed1.safetensors" in {path.name for path in kept.iterdir()}
    shutil.move(later, folder / SOFT)
    keep(folder, reference=tmp_path / REFERENCE, allow_dirty=True)
    soft = sorted(path.name for path in kept.glob("*soft*"))
    assert soft == [f"{SOFT}.safetensors"]


def test_nothing_finished_is_one_line_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.glob("*/result.json"):
        path.unlink()
    assert run("keep", str(folder), "--reference", str(tmp_path / REFERENCE)) == 2
    assert capsys.readouterr().err == f"softadv: {folder}: no trial has finished, so there is nothing to keep\n"
    assert not (tmp_path / REFERENCE).exists()


def test_another_training_does_not_join_a_reference(folder: Path, reference: Path) -> None:
    for name in ("spec", "result"):
        edit(folder / SOFT / f"{name}.json", lambda t: t.get("trial", t).update(batch_size=16))
    with pytest.raises(SoftadvError, match=f"{SOFT}: was run with batch_size 16 instead of 32, as the reference has"):
        keep(folder, reference=reference, allow_dirty=True)


def test_a_packaged_grids_name_is_for_that_grid(folder: Path, tmp_path: Path) -> None:
    edit(folder / "grid.json", lambda t: t.update(name="smoke"))
    with pytest.raises(SoftadvError, match="grid smoke has no such trial"):
        keep(folder, reference=tmp_path / REFERENCE, allow_dirty=True)
    assert not (tmp_path / REFERENCE).exists()


def test_a_reference_keeps_only_weights_that_were_measured(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "digits-tiny-natural-seed0" / "weights.safetensors", folder / SOFT)
    with pytest.raises(SoftadvError, match=r"not the weights that result\.json was measured with"):
        keep(folder, reference=tmp_path / REFERENCE, allow_dirty=True)
    assert not (tmp_path / REFERENCE).exists()


@pytest.mark.parametrize("name", ["../elsewhere", "..", "/tmp/elsewhere", ""])
def test_a_reference_is_kept_below_its_folder_alone(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere" / "weights").mkdir(parents=True)
    (tmp_path / "elsewhere" / "weights" / "mine.safetensors").write_text("mine")
    edit(folder / "grid.json", lambda t: t.update(name=name))
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(SoftadvError, match=r"grid\.json: name: "):
        keep(folder, reference=tmp_path / REFERENCE, allow_dirty=True)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_what_the_reference_has_of_others_stays(folder: Path, reference: Path) -> None:
    """Also a file of weights that belongs to no trial of the grid: softadv did not put it there."""
    mine = reference / "tiny" / "weights" / "mine.safetensors"
    mine.write_text("mine")
    keep(folder, reference=reference, allow_dirty=True)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("value", [2, -1, "0.9", None])
def test_a_figure_that_is_none_is_not_kept(folder: Path, reference: Path, value: object) -> None:
    before = {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}
    table = read_json(folder / SOFT / "result.json")
    (folder / SOFT / "result.json").write_text(json.dumps(table | {"natural_accuracy": value}))
    with pytest.raises(SoftadvError, match=f"{SOFT}: result.json: natural_accuracy: "):
        keep(folder, reference=reference, allow_dirty=True)
    assert {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()} == before


def test_all_is_kept_or_nothing(folder: Path, reference: Path) -> None:
    add_seed(folder, "soft", seed=1)
    summary = reference / "tiny" / SUMMARY  # the last that is written
    summary.unlink()
    summary.mkdir()
    before = {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}
    with pytest.raises(SoftadvError, match=f"{summary}: cannot be written"):
        keep(folder, reference=reference, allow_dirty=True)
    assert {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()} == before


def test_a_summary_that_softadv_did_not_write_is_not_overwritten(tiny: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "tiny" / SUMMARY
    theirs.parent.mkdir()
    theirs.write_text('{"notes": 1}')
    with pytest.raises(SoftadvError, match=re.escape(str(theirs))):
        keep(tiny, reference=tmp_path, allow_dirty=True)
    assert theirs.read_text() == '{"notes": 1}'
    assert list(theirs.parent.iterdir()) == [theirs]


@pytest.mark.parametrize("commit", ["0" * 40 + "+changes", "unknown", ""])
def test_what_was_run_from_changed_sources_is_kept_only_if_told_so(
    folder: Path, tmp_path: Path, commit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def clean(path: Path, found: str) -> None:
        edit(path / "result.json", lambda t: t["environment"].update(commit=found))
        edit(path / "result.json", lambda t: t.pop("files"))
        edit(path / "metrics.json", lambda t: [epoch.update(engine="") for epoch in t["epochs"]])

    for path in folder.glob("*/"):
        if (path / "result.json").exists():
            clean(path, "0" * 40)
    command = ["keep", str(folder), "--reference", str(tmp_path / REFERENCE)]
    assert run(*command) == 0
    shutil.rmtree(tmp_path / REFERENCE)
    edit(folder / SOFT / "result.json", lambda t: t["environment"].update(commit=commit))
    capsys.readouterr()
    assert run(*command) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"softadv: {SOFT}: was run ")
    assert told.count("\n") == 1
    assert not (tmp_path / REFERENCE).exists()
    assert run(*command, "--allow-dirty") == 0


def test_an_epoch_from_changed_sources_counts_too(folder: Path, tmp_path: Path) -> None:
    edit(folder / SOFT / "result.json", lambda t: t["environment"].update(commit="0" * 40))
    edit(folder / SOFT / "result.json", lambda t: t.pop("files"))
    edit(folder / SOFT / "metrics.json", lambda t: t["epochs"][0].update(engine="a, commit 123456789abcdef+changes"))
    for other in ("natural", "adversarial"):
        shutil.rmtree(folder / f"digits-tiny-{other}-seed0")
    with pytest.raises(SoftadvError, match="was run with changes on top of commit 123456789abc"):
        keep(folder, reference=tmp_path / REFERENCE)


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another file": (dict.clear, "not a reference (needs spec, epochs and result)"),
    "no epochs": (lambda t: t.pop("epochs"), "not a reference (needs spec, epochs and result)"),
    "epochs that are none": (lambda t: t.update(epochs=3), "epochs: expected a list, got 3"),
    "an epoch too few": (lambda t: t["epochs"].clear(), "there is a result after 0 of 1 epochs"),
    "a figure that is none": (
        lambda t: t["result"].update(natural_accuracy="high"),
        "natural_accuracy: expected a number, got 'high'",
    ),
    "a figure out of range": (
        lambda t: t["result"].update(adversarial_accuracy=91.2),
        "adversarial_accuracy: must be at most 1.0, got 91.2",
    ),
    "more verified than asked": (
        lambda t: t["result"]["certified"][0].update(verified=33),
        "certified[0]: verified: 33 of 32 images",
    ),
    "an attack on nothing": (
        lambda t: t["result"].update(autoattack={"images": 0, "correct": 0, "seconds": 1.0}),
        "autoattack.images: must be at least 1, got 0",
    ),
    "verified images that are none": (
        lambda t: t["epochs"][0].update(verified="most"),
        "epochs[0].verified: expected a whole number, got 'most'",
    ),
    "a result without a figure": (lambda t: t["result"].pop("neurons"), "neurons is missing"),
    "a spec of another trial": (lambda t: t["spec"].update(seed=7), "holds digits-tiny-soft-seed7, which its name"),
    "an unknown key of the spec": (lambda t: t["spec"].update(speed=7), "unknown key 'speed'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_and_foreign_files_are_named_in_one_line(
    case: str, tiny: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = reference / "tiny" / f"{SOFT}.json"
    change, message = DAMAGE[case]
    edit(path, change)
    shutil.copy(expected_folder() / "paper.toml", reference.parent)
    assert run("compare", str(tiny), "--expected", str(reference.parent)) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"softadv: {path}: ")
    assert message in told
    assert told.count("\n") == 1


def test_a_trial_is_looked_for_in_every_grid_first_in_its_own(reference: Path) -> None:
    shutil.copytree(reference / "tiny", reference / "a-larger-grid")
    for grid in ("tiny", "a-larger-grid"):
        assert {record.path.parent.name for record in read_reference(reference, grid=grid)} == {grid}
    assert {record.path.parent.name for record in read_reference(reference, grid="another")} == {"a-larger-grid"}
    assert read_reference(reference / "nowhere", grid="tiny") == []


def test_a_row_outside_the_tolerance_is_red_and_exit_code_1(
    tiny: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = reference.parent
    shutil.copy(expected_folder() / "paper.toml", expected)
    assert run("compare", str(tiny), "--expected", str(expected)) == 0
    assert "softadv's checks: 3 hold\n" in capsys.readouterr().out
    edit(reference / "tiny" / f"{SOFT}.json", lambda t: t["result"].update(natural_accuracy=0.999))
    assert run("compare", str(tiny), "--expected", str(expected)) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "softadv's checks: 2 hold, 1 fails ✗ fails reference" in told
    assert "✗ fails" in told


def test_a_report_is_made_from_the_reference_alone(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(reference.rglob("*"))
    assert run("report", str(reference / "tiny"), "--out", str(tmp_path / "page")) == 0
    assert capsys.readouterr().out.endswith(f"Report: {tmp_path / 'page' / 'index.html'}\n")
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Made from the reference results that are stored with softadv: all 3 trials of the grid." in page
    assert SOFT in page
    assert str(tmp_path) not in page
    assert (tmp_path / "page" / "trade-off.svg").exists()
    assert sorted(reference.rglob("*")) == before


BAD_SUMMARIES: dict[str, tuple[dict[str, Any], str]] = {
    "no counts": ({"parts": {"finished": "3"}}, "parts.finished: expected a whole number, got '3'"),
    "no name": ({"grid": None}, "grid: expected a text, got None"),
    "no command": ({"command": 7}, "command: expected a text, got 7"),
}


@pytest.mark.parametrize("case", BAD_SUMMARIES)
def test_a_damaged_summary_is_named(
    case: str, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = BAD_SUMMARIES[case]
    summary = reference / "tiny" / SUMMARY
    edit(summary, lambda t: t.update(change))
    assert run("report", str(reference / "tiny"), "--out", str(tmp_path / "page")) == 2
    assert capsys.readouterr().err.startswith(f"softadv: {summary}: {message}")
    assert not (tmp_path / "page").exists()


def test_no_report_is_written_into_a_reference(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(reference.rglob("*"))
    assert run("report", str(reference / "tiny")) == 2
    told = capsys.readouterr().err
    assert told == (
        f"softadv: {reference / 'tiny'}: a report is not written into a reference; name a folder with --out\n"
    )
    assert run("compare", str(reference / "tiny")) == 0
    assert "Report:" not in capsys.readouterr().out
    assert sorted(reference.rglob("*")) == before


def test_a_run_folders_report_can_lie_elsewhere(tiny: Path, tmp_path: Path) -> None:
    assert run("report", str(tiny), "--out", str(tmp_path / "page")) == 0
    assert (tmp_path / "page" / "examples.svg").exists()


def test_the_reference_of_the_checkout_is_whole() -> None:
    """Every file there reads, its weights are those that were measured, and its summaries are of its trials."""
    root = expected_folder() / REFERENCE
    for summary in root.glob(f"*/{SUMMARY}"):
        records = read_grid_reference(summary.parent)
        assert read_json(summary)["results"] == json.loads(json.dumps(summary_rows(records)))
        assert not any(mark in path.read_text() for path in summary.parent.glob("*.json") for mark in ('"/', " /"))
        for record in records:
            if record.weights.exists():
                assert tensors_sha256(read_tensors(record.weights)[0]) == record.result.weights_sha256


def test_a_trial_of_two_grids_is_stored_once_and_is_in_the_reference_of_both(tmp_path: Path) -> None:
    """Of controls and paper-short: a part of the trials lies under each name."""
    stored = expected_folder() / REFERENCE / "paper-short"
    shutil.copytree(stored, tmp_path / "paper-short")
    (tmp_path / "controls").mkdir()
    moved = [path for path in record_files(stored) if "eps4-short-soft" in path.name]
    for path in moved:
        (tmp_path / "paper-short" / path.name).rename(tmp_path / "controls" / path.name)
    edit_copy = (tmp_path / "paper-short" / SUMMARY).read_text().replace('"grid": "paper-short"', '"grid": "controls"')
    (tmp_path / "controls" / SUMMARY).write_text(edit_copy)
    whole = [path.stem for path in record_files(stored)]
    for grid in ("controls", "paper-short"):
        entries = read_entries(tmp_path / grid)
        assert sorted(entry.name for entry in entries) == whole
        assert {entry.state for entry in entries} == {"finished"}
    # A trial of the same name that is another one is not taken.
    edit(tmp_path / "controls" / moved[0].name, lambda t: t["spec"].update(test_images=9))
    assert moved[0].stem not in {entry.name for entry in read_entries(tmp_path / "paper-short")}


def add_seed(folder: Path, method: str, *, seed: int, natural: float | None = None) -> None:
    """Copy a trial as another seed's."""
    copy = shutil.copytree(folder / f"digits-tiny-{method}-seed0", folder / f"digits-tiny-{method}-seed{seed}")
    for name in ("spec", "result"):
        edit(copy / f"{name}.json", lambda t: t.get("trial", t).update(seed=seed))
    if natural is not None:
        edit(copy / "result.json", lambda t: t.update(natural_accuracy=natural))


STORED = Path(__file__).parents[2] / "expected_results" / REFERENCE


@pytest.mark.parametrize("grid", sorted(path.name for path in STORED.iterdir() if path.is_dir()))
def test_a_stored_summary_counts_trials_that_another_grid_shares(grid: str) -> None:
    parts = read_summary(STORED / grid).parts
    own = {path.stem for path in record_files(STORED / grid)}
    assert set(parts.elsewhere) == {path.stem for path in shared_files(STORED / grid)}
    assert own.isdisjoint(parts.elsewhere)
    assert parts.finished == parts.trials - len(parts.missing)
    assert parts.finished == sum(t.name in own or t.name in parts.elsewhere for t in load_grid(grid).trials)
