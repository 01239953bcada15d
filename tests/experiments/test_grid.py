"""A grid: all of its trials, whatever happens to one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from softadv._locks import held
from softadv.errors import SoftadvError
from softadv.experiments import side_by_side, trial_job
from softadv.experiments.grid import GridReport, Prepared, grid_command, grid_name, prepare
from softadv.experiments.run_folder import RunFolder
from softadv.experiments.run_grid import run_grid
from softadv.experiments.runs import read_entries
from softadv.experiments.spec import Grid, parse_grid

TINY = """
name = "tiny"
methods = ["natural", "adversarial", "soft"]
seeds = [0]

[[setting]]
setting = "digits-tiny"
dataset = "digits"
eps = 0.02
alpha = 0.01
steps = 2
epochs = 1
batch_size = 32
train_images = 64
test_images = 32
"""


@pytest.fixture
def tiny() -> Grid:
    return parse_grid(TINY, source="tiny")


def prepared(grid: Grid, folder: Path, *, fresh: bool = False, redo: Sequence[str] = ()) -> Prepared:
    return prepare(
        grid, folder=folder, data_root=None, device=torch.device("cpu"), fresh=fresh, redo=redo, command="again"
    )


@pytest.fixture(scope="module")
def finished_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny grid, finished. Shared: tests change copies of it."""
    folder = tmp_path_factory.mktemp("finished") / "tiny"
    run_grid(prepared(parse_grid(TINY, source="tiny"), folder), report=silent)
    return folder


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user whom no permission is given: root may read everything, and so tests nothing."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_every_trial_has_its_result_and_its_work_is_reported(tiny: Grid, tmp_path: Path) -> None:
    ready = prepared(tiny, tmp_path / "tiny")
    done: list[float] = []
    ran = run_grid(ready, report=lambda trial, what, work, **_: done.append(work))
    assert ran.finished == tuple(trial.name for trial in tiny.trials)
    assert [(entry.trial, entry.state) for entry in read_entries(tmp_path / "tiny")] == [
        (trial, "finished") for trial in tiny.trials
    ]
    assert sum(done) == ready.work
    assert (grid_name(tmp_path / "tiny"), grid_command(tmp_path / "tiny")) == ("tiny", "again")


def test_a_failed_trial_leaves_its_traceback_and_loses_no_other(
    tiny: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepared(tiny, tmp_path)
    run_trial = trial_job.run_trial

    def failing(trial, **rest):
        if trial.method == "adversarial":
            raise RuntimeError("the machine hiccupped")
        return run_trial(trial, **rest)

    monkeypatch.setattr(trial_job, "run_trial", failing)
    ran = run_grid(ready, report=lambda trial, what, work, **_: None)
    assert ran.failed == ("digits-tiny-adversarial-seed0",)
    assert len(ran.finished) == 2
    traceback = tmp_path / "digits-tiny-adversarial-seed0" / "traceback.txt"
    assert "the machine hiccupped" in traceback.read_text()
    # The next run takes the failed trial up again, and the traceback goes.
    monkeypatch.undo()
    again = run_grid(prepared(tiny, tmp_path), report=lambda trial, what, work, **_: None)
    assert again.failed == ()
    assert not traceback.exists()


def silent(trial: str, what: str, work: float, *, before: bool = False, note: str = "") -> None:
    pass


@pytest.fixture
def seeds() -> Grid:
    """Three seeds of two epochs each."""
    return parse_grid(TINY.replace("seeds = [0]", "seeds = [0, 1, 2]"), source="tiny").select(epochs=2)


def weights(folder: Path, grid: Grid) -> list[str]:
    results = [RunFolder(folder / trial.name).result() for trial in grid.trials]
    return [result.weights_sha256 for result in results if result is not None]


def test_seeds_side_by_side_leave_what_seeds_one_by_one_leave(seeds: Grid, tmp_path: Path) -> None:
    done: list[float] = []
    ready = prepared(seeds, tmp_path / "together")

    def report(trial: str, what: str, work: float, *, before: bool = False, note: str = "") -> None:
        done.append(work)

    ran = run_grid(ready, report=report, side_by_side=True)
    assert ran.finished == tuple(trial.name for trial in seeds.trials)
    assert sum(done) == pytest.approx(ready.work)
    run_grid(prepared(seeds, tmp_path / "alone"), report=silent)
    for trial in seeds.trials:
        together, alone = (RunFolder(tmp_path / how / trial.name) for how in ("together", "alone"))
        assert sorted(p.name for p in together.path.iterdir()) == sorted(p.name for p in alone.path.iterdir())
        for ours, theirs in zip(together.metrics(), alone.metrics(), strict=True):
            assert ours.loss == pytest.approx(theirs.loss, abs=1e-3)
            assert (ours.verified is None) == (trial.method != "soft")
    # What is finished is not run again.
    again = run_grid(ready, report=silent, side_by_side=True)
    assert again == ran


@pytest.mark.parametrize("resumed_side_by_side", [True, False])
def test_seeds_side_by_side_stopped_at_any_moment_go_on(
    seeds: Grid, tmp_path: Path, resumed_side_by_side: bool
) -> None:
    grid = seeds.select(methods=["soft"])
    run_grid(prepared(grid, tmp_path / "whole"), report=silent, side_by_side=True)

    def stop_at(moment: str) -> GridReport:
        def report(trial: str, what: str, work: float, *, before: bool = False, note: str = "") -> None:
            if f"{trial} {what}" == moment:
                raise KeyboardInterrupt

        return report

    first, second, _ = (trial.name for trial in grid.trials)
    for moment, kept in (
        (f"{first} epoch 1/2: evaluating", [0, 0, 0]),
        (f"{second} epoch 1/2: evaluating", [1, 0, 0]),
        (f"{first} epoch 2/2: training", [1, 1, 1]),
    ):
        folder = tmp_path / f"{sum(kept)} kept"
        with pytest.raises(KeyboardInterrupt):
            run_grid(prepared(grid, folder), report=stop_at(moment), side_by_side=True)
        assert [len(RunFolder(folder / trial.name).metrics()) for trial in grid.trials] == kept
        ran = run_grid(prepared(grid, folder), report=silent, side_by_side=resumed_side_by_side)
        assert len(ran.finished) == 3
        for trial in grid.trials:
            metrics, whole = (RunFolder(where / trial.name).metrics() for where in (folder, tmp_path / "whole"))
            assert [e.loss for e in metrics] == pytest.approx([e.loss for e in whole], abs=1e-3)
        if resumed_side_by_side and len(set(kept)) == 1:
            assert weights(folder, grid) == weights(tmp_path / "whole", grid)


def test_a_seed_that_cannot_go_on_does_not_take_the_others_down(seeds: Grid, tmp_path: Path) -> None:
    grid = seeds.select(methods=["adversarial"])
    ready = prepared(grid, tmp_path)
    damaged = tmp_path / grid.trials[1].name / "checkpoint.safetensors"
    damaged.write_text("nonsense")
    ran = run_grid(ready, report=silent, side_by_side=True)
    assert ran.finished == (grid.trials[0].name, grid.trials[2].name)
    assert str(damaged) in ran.refused[grid.trials[1].name]


def test_where_seeds_fail_side_by_side_they_go_on_one_by_one(
    seeds: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(runs: object) -> None:
        raise RuntimeError("the device is full")

    grid = seeds.select(methods=["natural"])
    monkeypatch.setattr(side_by_side, "train_side_by_side", fail)
    run_grid(prepared(grid, tmp_path / "together"), report=silent, side_by_side=True)
    run_grid(prepared(grid, tmp_path / "alone"), report=silent)
    assert weights(tmp_path / "together", grid) == weights(tmp_path / "alone", grid)
    (record,) = caplog.records
    assert "the device is full" in record.message


def test_another_run_in_the_folder_is_refused_before_any_work(tiny: Grid, tmp_path: Path) -> None:
    prepared(tiny, tmp_path)
    with pytest.raises(SoftadvError, match="holds a run with epochs = 1, not 2; use --fresh or another folder"):
        prepared(tiny.select(epochs=2), tmp_path)
    prepared(tiny.select(epochs=2), tmp_path, fresh=True)
    assert RunFolder(tmp_path / tiny.trials[0].name).trial().epochs == 2


def files(folder: Path) -> dict[Path, str]:
    """Every file and link below a folder, with what is in it or where it leads."""
    return {
        path: path.readlink().name if path.is_symlink() else path.read_bytes().hex()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thesis.tex", "years of work"),
        ("grid.json", '{"rows": 12, "columns": 16}'),  # of a page's layout
        ("grid.json", "[]"),
        ("grid.json", '{"name": "..", "description": "", "command": ""}'),
    ],
)
def test_a_folder_that_softadv_did_not_make_is_left_alone(
    tiny: Grid, tmp_path: Path, fresh: bool, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "spec.json").write_text('{"openapi": "3.1.0"}')
    (tmp_path / "src" / "main.c").write_text("int main;")
    before = files(tmp_path)
    with pytest.raises(SoftadvError, match=r"not a folder that softadv made|grid\.json: "):
        prepared(tiny, tmp_path, fresh=fresh)
    assert files(tmp_path) == before


def test_fresh_deletes_by_name_what_softadv_writes_and_says_what_it_leaves(tiny: Grid, tmp_path: Path) -> None:
    folder, trial = tmp_path / "tiny", tiny.trials[0].name
    run_grid(prepared(tiny, folder), report=silent)
    (folder / "notes.txt").write_text("mine")
    (folder / "src").mkdir()
    (folder / "src" / "spec.json").write_text('{"openapi": "3.1.0"}')
    (folder / "src" / "weights.safetensors").write_text("mine, too")
    (folder / trial / "drawing.svg").write_text("mine as well")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "spec.json").write_text("mine again")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    ready = prepared(tiny, folder, fresh=True)
    assert {path.relative_to(folder).as_posix() for path in ready.left} == {
        "notes.txt", "src", f"{trial}/drawing.svg", "link",
    }  # fmt: skip
    assert (tmp_path / "elsewhere" / "spec.json").read_text() == "mine again"
    kept = {path.relative_to(folder).as_posix() for path in files(folder)}
    specs = {f"{trial.name}/spec.json" for trial in tiny.trials}
    theirs = {"notes.txt", "src/spec.json", "src/weights.safetensors", f"{trial}/drawing.svg", "link"}
    assert kept == {"grid.json"} | specs | theirs
    assert run_grid(ready, report=silent).finished == tuple(trial.name for trial in tiny.trials)


def test_fresh_deletes_nothing_where_a_trial_lies_behind_a_link(tiny: Grid, tmp_path: Path) -> None:
    folder, trial = tmp_path / "tiny", tiny.trials[1].name
    run_grid(prepared(tiny, folder), report=silent)
    (folder / trial).rename(tmp_path / "disk")
    (folder / trial).symlink_to(tmp_path / "disk")
    before = files(tmp_path)
    with pytest.raises(SoftadvError, match=f"{trial}: a link"):
        prepared(tiny, folder, fresh=True)
    assert files(tmp_path) == before


def test_one_trial_is_run_again_and_no_other(tiny: Grid, tmp_path: Path) -> None:
    first, second, third = (trial.name for trial in tiny.trials)
    run_grid(prepared(tiny, tmp_path), report=silent)
    (tmp_path / first / "spec.json").write_text("no longer JSON")
    (tmp_path / second / "weights.safetensors").unlink()
    before = files(tmp_path / third)
    with pytest.raises(SoftadvError, match="it has digits-tiny-adversarial-seed0"):
        prepared(tiny, tmp_path, redo=["nothing"])
    ran = run_grid(prepared(tiny, tmp_path, redo=[first]), report=silent)
    assert ran.finished == (first, third)
    assert "weights.safetensors: is missing" in ran.refused[second]
    assert f"--redo {second}" in ran.refused[second]
    ran = run_grid(prepared(tiny, tmp_path, redo=[second]), report=silent)
    assert ran.finished == (first, second, third)
    assert files(tmp_path / third) == before


def test_one_process_at_a_time_writes_a_grids_folder(tiny: Grid, tmp_path: Path) -> None:
    ready = prepared(tiny, tmp_path)
    with held(tmp_path / ".lock", what=tmp_path):
        for fresh in (False, True):
            with pytest.raises(SoftadvError, match=f"{tmp_path}: in use by process {os.getpid()} on "):
                prepared(tiny, tmp_path, fresh=fresh)
        with pytest.raises(SoftadvError, match="in use"):
            run_grid(ready, report=silent)
        assert [entry.state for entry in read_entries(tmp_path)] == ["unfinished"] * 3  # reading needs no lock
    with held(tmp_path / tiny.trials[0].name / ".lock", what=tmp_path):  # as of softadv train
        ran = run_grid(ready, report=silent)
    assert list(ran.refused) == [tiny.trials[0].name]
    assert not list(tmp_path.rglob(".lock"))


@pytest.mark.parametrize("name", ["result.json", "metrics.json", "spec.json"])
@pytest.mark.parametrize("content", [None, "", "null", "{}", '{"trial": 3, "epochs": [{}]}', "[" * 100_000])
def test_a_damaged_trial_is_one_row_and_loses_no_other(
    finished_tiny: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    folder = shutil.copytree(finished_tiny, tmp_path / "copy")
    damaged = next(path for path in sorted(folder.glob("*-soft-*")))
    (damaged / name).unlink()
    if content is not None:
        (damaged / name).write_text(content)
    entries = {entry.name: entry for entry in read_entries(folder)}
    assert len(entries) == 3
    expected = "unfinished" if (name, content) == ("result.json", None) else "unreadable"
    assert entries[damaged.name].state == expected
    assert [entry.state for entry in entries.values()].count("finished") == 2
    assert "\n" not in entries[damaged.name].note


def test_a_trial_under_another_name_and_the_result_of_another_are_no_results(
    finished_tiny: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_tiny, tmp_path / "copy")
    natural, soft = folder / "digits-tiny-natural-seed0", folder / "digits-tiny-soft-seed0"
    shutil.copytree(natural, folder / "digits-tiny-natural-seed1")
    shutil.copy(natural / "result.json", soft)
    notes = {entry.name: entry.note for entry in read_entries(folder) if entry.state == "unreadable"}
    assert notes == {
        "digits-tiny-natural-seed1": "holds digits-tiny-natural-seed0, which its name does not say",
        soft.name: "the result is of a trial with method = 'natural', not 'soft'",
    }


def test_a_folder_that_may_not_be_read_is_one_row(finished_tiny: Path) -> None:
    # Not in pytest's own folder, which is nobody else's: another pytest that starts meanwhile sees to that.
    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = shutil.copytree(finished_tiny, Path(place) / "copy")
        closed = folder / "digits-tiny-soft-seed0" / "result.json"
        closed.chmod(0)
        with as_nobody():
            states = [entry.state for entry in read_entries(folder)]
    assert sorted(states) == ["finished", "finished", "unreadable"]


def test_too_many_images_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    grid = parse_grid(TINY.replace("train_images = 64", "train_images = 2000"), source="tiny")
    with pytest.raises(SoftadvError, match="asked for 2000 train images, there are 1437"):
        prepared(grid, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_two_grids_do_not_share_a_folder(tiny: Grid, tmp_path: Path) -> None:
    prepared(tiny, tmp_path)
    other = parse_grid(TINY.replace('"tiny"', '"other"'), source="other")
    with pytest.raises(SoftadvError, match="holds the grid tiny, not other"):
        prepared(other, tmp_path)


def test_bad_input_to_one_trial_loses_no_other(tiny: Grid, tmp_path: Path) -> None:
    ready = prepared(tiny, tmp_path)
    damaged = tmp_path / tiny.trials[0].name / "checkpoint.safetensors"
    damaged.write_text("nonsense")
    ran = run_grid(ready, report=lambda trial, what, work, **_: None)
    assert ran.finished == tuple(trial.name for trial in tiny.trials[1:])
    (message,) = ran.refused.values()
    assert str(damaged) in message


def test_a_refused_command_changes_nothing(tiny: Grid, tmp_path: Path) -> None:
    prepared(tiny.select(methods=["soft"]), tmp_path)
    with pytest.raises(SoftadvError, match="epochs = 1, not 2"):
        prepared(tiny.select(epochs=2), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["digits-tiny-soft-seed0"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset": "svhn"}, "dataset: unknown name 'svhn'"),
        ({"method": "hard"}, "method: unknown name 'hard'"),
        ({"method": "trades(gamma=1)"}, "no setting 'gamma'; it has beta"),
        ({"method": "nowhere:Method"}, "there is no module nowhere"),
        ({"model": "huge"}, "model: unknown name 'huge'"),
        ({"attack": "hack"}, "attack: unknown name 'hack'"),
    ],
)
def test_a_name_that_cannot_be_found_is_refused_before_anything_is_written(change, reason, tmp_path):
    tiny = parse_grid(TINY, source="tiny.toml")
    trial = replace(tiny.trials[0], **change)
    with pytest.raises(SoftadvError, match=reason):
        prepared(replace(tiny, trials=(trial,)), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
