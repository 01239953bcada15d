"""The reference: what is kept of a run folder, how it is read again, and runs compared with it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from softadv.agreement import (
    ENOUGH_SEEDS,
    ONE_SEED,
    ONE_SEED_UNTRAINED,
    OTHER_START,
    RESOLUTION,
    SAME_WEIGHTS,
    agree,
)
from softadv.claims import Verdict, expected_folder
from softadv.entries import read_entries
from softadv.errors import SoftadvError
from softadv.evidence import Run, finished_runs
from softadv.keeping import keep, portable_command, summarize
from softadv.reference import (
    REFERENCE,
    SUMMARY,
    Record,
    read_grid_reference,
    read_record,
    read_reference,
    training_difference,
)
from softadv.runs import RunFolder, read_json, read_tensors, tensors_sha256, write_json
from tests.test_cli import run
from tests.test_grid import TINY

SOFT = "digits-tiny-soft-seed0"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny grid's folder, run through the command line. Shared: tests change copies of it."""
    root = tmp_path_factory.mktemp("reference")
    (root / "tiny.toml").write_text(TINY)
    assert run("reproduce", str(root / "tiny.toml"), "--out", str(root / "tiny"), "--device", "cpu") == 0
    return root / "tiny"


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the grid's folder."""
    return shutil.copytree(tiny, tmp_path / "runs")


@pytest.fixture
def reference(tiny: Path, tmp_path: Path) -> Path:
    """The folder of references, with the tiny grid's in it."""
    keep(tiny, reference=tmp_path / "expected" / REFERENCE)
    return tmp_path / "expected" / REFERENCE


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
    kept = keep(folder, reference=tmp_path / REFERENCE)
    texts = {path: path.read_text() for path in kept.folder.glob("*.json")}
    assert len(texts) == 4
    assert not [path for path, text in texts.items() if "/my" in text or str(tmp_path) in text]
    assert read_json(kept.folder / SUMMARY)["command"] == "./reproduce.sh tiny.toml --seeds 1"
    assert read_record(kept.folder / f"{SOFT}.json").result.data_source == "mnist"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("./reproduce.sh mnist --data /a --out '/b c' --seeds 2", "./reproduce.sh mnist --seeds 2"),
        ("./reproduce.sh mnist --data=/a --methods natural,soft", "./reproduce.sh mnist --methods natural,soft"),
        ("./reproduce.sh 'unfinished", ""),
    ],
)
def test_a_command_is_kept_without_its_folders(given: str, kept: str) -> None:
    assert portable_command(given) == kept


def test_the_summary_says_what_was_run_and_how_it_spreads(folder: Path, tmp_path: Path) -> None:
    add_seed(folder, "soft", seed=1, natural=0.5)
    shutil.rmtree(folder / "digits-tiny-natural-seed0")
    (folder / "digits-tiny-adversarial-seed0" / "result.json").unlink()
    summary = read_json(keep(folder, reference=tmp_path / REFERENCE).folder / SUMMARY)
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
    kept = keep(folder, reference=tmp_path / REFERENCE).folder / "weights"
    assert "digits-tiny-soft-seed1.safetensors" in {path.name for path in kept.iterdir()}
    shutil.move(later, folder / SOFT)
    keep(folder, reference=tmp_path / REFERENCE)
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
        keep(folder, reference=reference)


def test_a_packaged_grids_name_is_for_that_grid(folder: Path, tmp_path: Path) -> None:
    edit(folder / "grid.json", lambda t: t.update(name="smoke"))
    with pytest.raises(SoftadvError, match="grid smoke has no such trial"):
        keep(folder, reference=tmp_path / REFERENCE)
    assert not (tmp_path / REFERENCE).exists()


def test_a_reference_keeps_only_weights_that_were_measured(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "digits-tiny-natural-seed0" / "weights.safetensors", folder / SOFT)
    with pytest.raises(SoftadvError, match=r"not the weights that result\.json was measured with"):
        keep(folder, reference=tmp_path / REFERENCE)
    assert not (tmp_path / REFERENCE).exists()


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another file": (dict.clear, "not a reference (needs spec, epochs and result)"),
    "no epochs": (lambda t: t.pop("epochs"), "not the metrics of a run ('epochs')"),
    "epochs that are none": (lambda t: t.update(epochs=3), "not the metrics of a run"),
    "an epoch too few": (lambda t: t["epochs"].clear(), "holds 0 epochs of 1"),
    "a figure that is none": (
        lambda t: t["result"].update(natural_accuracy="high"),
        "natural_accuracy: expected a fraction, got 'high'",
    ),
    "a figure out of range": (
        lambda t: t["result"].update(adversarial_accuracy=91.2),
        "adversarial_accuracy: expected a fraction, got 91.2",
    ),
    "more verified than asked": (lambda t: t["result"]["certified"][0].update(verified=33), "are no counts of images"),
    "a result without a figure": (lambda t: t["result"].pop("neurons"), "not the result of a trial"),
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


def runs_and_records(tiny: Path, reference: Path) -> tuple[list[Run], list[Record]]:
    """Of soft training alone."""
    runs = [found for found in finished_runs(read_entries(tiny)) if found.result.trial.method == "soft"]
    return runs, [record for record in read_grid_reference(reference / "tiny") if record.trial.method == "soft"]


def with_results(run: Run, **changes: Any) -> Run:
    return replace(run, result=replace(run.result, **changes))


def verdict_on(runs: list[Run], records: list[Record]) -> Verdict:
    (verdict,) = agree(runs, records)
    return verdict


def test_the_same_runs_agree(tiny: Path, reference: Path) -> None:
    found = agree(finished_runs(read_entries(tiny)), read_reference(reference, grid="tiny"))
    assert [(verdict.claim.id, verdict.outcome) for verdict in found] == [
        (f"reference digits-tiny {method}", "holds") for method in ("natural", "adversarial", "soft")
    ]
    assert "(the same weights)" in found[0].reason


@pytest.mark.parametrize("figure", ["natural_accuracy", "adversarial_accuracy"])
def test_the_same_weights_have_next_to_no_tolerance(figure: str, tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    was = getattr(run.result, figure)
    for points, outcome in ((SAME_WEIGHTS, "holds"), (SAME_WEIGHTS + 0.001, "fails")):
        found = verdict_on([with_results(run, **{figure: was + points / 100})], records)
        assert found.outcome == outcome
    assert f"differs by {SAME_WEIGHTS + 0.001:.2f} points" in found.reason


def test_a_gpu_starts_its_attacks_elsewhere(tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    gpu = run.result.environment | {"device": "NVIDIA H100"}
    for points, outcome in ((OTHER_START, "holds"), (OTHER_START + 0.01, "fails")):
        moved = run.result.adversarial_accuracy + points / 100
        assert verdict_on([with_results(run, adversarial_accuracy=moved, environment=gpu)], records).outcome == outcome
    moved = run.result.natural_accuracy + 2 * SAME_WEIGHTS / 100
    assert verdict_on([with_results(run, natural_accuracy=moved, environment=gpu)], records).outcome == "fails"


def test_the_same_weights_verify_as_many_images_but_for_rounding(tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)
    (certified,) = record.result.certified
    reasons = {}
    for images, verified, recorded, outcome in ((1000, 502, 500, "holds"), (1000, 503, 500, "fails")):
        here = with_results(run, certified=(replace(certified, images=images, verified=verified),))
        there = replace(record.result, certified=(replace(certified, images=images, verified=recorded),))
        verdict = verdict_on([here], [replace(record, result=there)])
        assert verdict.outcome == outcome
        reasons[outcome] = verdict.reason
    assert "certified accuracy of 1,000 by DeepPoly 50.20%, reference 50.00 ± 0.20" in reasons["holds"]


def test_one_seed_trained_again_has_a_margin(tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)
    there = [replace(record, result=replace(record.result, natural_accuracy=0.5))]
    for points, outcome in ((ONE_SEED, "holds"), (ONE_SEED + 0.1, "fails")):
        again = with_results(run, weights_sha256="other", natural_accuracy=0.5 + points / 100)
        found = verdict_on([again], there)
        assert found.outcome == outcome
    assert found.reason.startswith("natural accuracy 53.10%, reference 50.00 ± 3.00: differs by 3.10 points; ")
    assert found.reason.endswith("(trained again: 1 seed against 1)")


def test_several_seeds_say_how_far_means_may_lie_apart(tiny: Path, reference: Path) -> None:
    (run,), (record,) = runs_and_records(tiny, reference)

    def seeds(*values: float) -> list[Record]:
        trials = [replace(record.trial, seed=seed) for seed in range(len(values))]
        results = [
            replace(record.result, trial=trial, natural_accuracy=value)
            for trial, value in zip(trials, values, strict=True)
        ]
        return [replace(record, result=result) for result in results]

    def outcome(natural: float, *values: float) -> str:
        return verdict_on([with_results(run, weights_sha256="other", natural_accuracy=natural)], seeds(*values)).outcome

    values = (0.78, 0.79, 0.8, 0.81, 0.82)
    spread = 5 * stdev(values) * (1 / 5 + 1) ** 0.5
    assert outcome(0.8 + spread - 0.001, *values) == "holds"
    assert outcome(0.8 + spread + 0.001, *values) == "fails"
    # Seeds that happen to be alike do not make the tolerance nothing, and few of them not even a small one.
    for count, least in ((ENOUGH_SEEDS, RESOLUTION), (ENOUGH_SEEDS - 1, ONE_SEED), (2, ONE_SEED)):
        assert outcome(0.8 + (least - 0.1) / 100, *[0.8] * count) == "holds"
        assert outcome(0.8 - (least + 0.1) / 100, *[0.8] * count) == "fails"


def test_what_is_not_trained_for_has_a_wider_margin(tiny: Path, reference: Path) -> None:
    runs = {run.result.trial.method: run for run in finished_runs(read_entries(tiny))}
    records = {record.trial.method: record for record in read_grid_reference(reference / "tiny")}
    margins = {}
    for method in ("natural", "soft"):
        again = with_results(runs[method], weights_sha256="other")
        margins[method] = re.findall(r"± ([\d.]+)", verdict_on([again], [records[method]]).reason)
    one, untrained = f"{ONE_SEED:.2f}", f"{ONE_SEED_UNTRAINED:.2f}"
    # Natural, adversarial, certified.
    assert margins == {"natural": [one, untrained, untrained], "soft": [one, one, untrained]}


def test_only_the_same_training_is_compared(tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    trial = run.result.trial
    for change in ({"eps": 0.03}, {"steps": 3}, {"batch_size": 16}, {"update": "two-pass"}, {"test_images": 31}):
        assert agree([with_results(run, trial=replace(trial, **change))], records) == []
    for change in ({"seed": 4}, {"certifier": "gpupoly"}, {"autoattack_images": 10}, {"certified_images": 5}):
        assert len(agree([with_results(run, trial=replace(trial, **change))], records)) == 1
    assert agree([run], []) == []
    assert training_difference(trial, replace(trial, eps=0.03, seed=3)) == "eps 0.03 instead of 0.02"


def test_what_was_certified_otherwise_is_said_not_to_be_compared(tiny: Path, reference: Path) -> None:
    (run,), records = runs_and_records(tiny, reference)
    fewer = tuple(replace(certified, images=5, verified=0) for certified in run.result.certified)
    found = verdict_on([with_results(run, certified=fewer, data_fingerprint="0" * 64)], records)
    assert "certified accuracy" not in found.reason
    assert "on other digits images, certified on different numbers of images: not compared" in found.reason


def test_a_row_outside_the_tolerance_is_red_and_exit_code_1(
    tiny: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = reference.parent
    shutil.copy(expected_folder() / "paper.toml", expected)
    assert run("compare", str(tiny), "--expected", str(expected)) == 0
    assert "4 holds, 0 fails" in capsys.readouterr().out
    edit(reference / "tiny" / f"{SOFT}.json", lambda t: t["result"].update(natural_accuracy=0.999))
    assert run("compare", str(tiny), "--expected", str(expected)) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "3 holds, 1 fails" in told
    assert "✗ fails" in told


def test_a_report_is_made_from_the_reference_alone(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(reference.rglob("*"))
    assert run("report", str(reference / "tiny"), "--out", str(tmp_path / "page")) == 0
    assert capsys.readouterr().out == f"Report: {tmp_path / 'page' / 'index.html'}\n"
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Made from the reference results that are stored with softadv: all 3 trials of the grid." in page
    assert SOFT in page
    assert str(tmp_path) not in page
    assert (tmp_path / "page" / "trade-off.svg").exists()
    assert sorted(reference.rglob("*")) == before


BAD_SUMMARIES: dict[str, tuple[dict[str, Any], str]] = {
    "no counts": ({"parts": {"finished": "3"}}, "parts: expected the numbers finished and trials, got"),
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
    assert (tmp_path / "page" / "examples.png").exists()


def test_the_reference_of_the_checkout_is_whole() -> None:
    """Every file there reads, its weights are those that were measured, and its summaries are of its trials."""
    root = expected_folder() / REFERENCE
    for summary in root.glob(f"*/{SUMMARY}"):
        records = read_grid_reference(summary.parent)
        assert read_json(summary)["results"] == json.loads(json.dumps(summarize(records)))
        assert not any(mark in path.read_text() for path in summary.parent.glob("*.json") for mark in ('"/', " /"))
        for record in records:
            if record.weights.exists():
                assert tensors_sha256(read_tensors(record.weights)[0]) == record.result.weights_sha256


def add_seed(folder: Path, method: str, *, seed: int, natural: float | None = None) -> None:
    """Copy a trial as another seed's."""
    copy = shutil.copytree(folder / f"digits-tiny-{method}-seed0", folder / f"digits-tiny-{method}-seed{seed}")
    for name in ("spec", "result"):
        edit(copy / f"{name}.json", lambda t: t.get("trial", t).update(seed=seed))
    if natural is not None:
        edit(copy / "result.json", lambda t: t.update(natural_accuracy=natural))
