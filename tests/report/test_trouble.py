"""A page about trials that are few, damaged, failed or not there."""

from pathlib import Path

import pytest

from softadv._io import write_text
from softadv.errors import SoftadvError
from softadv.experiments.runs import read_entry
from softadv.experiments.spec import METHODS
from softadv.report.page import write_report
from tests.report.trials import VERDICTS, References, finish, make_run, make_trial, report


@pytest.mark.parametrize("method", METHODS)
def test_a_single_trial_is_enough(tmp_path: Path, method: str) -> None:
    finish(make_run(tmp_path, make_trial(method)))
    page = report(tmp_path)
    assert 'id="claims"' not in page  # a section without content is left out
    assert "<b>Trials</b> 1 of 1 finished" in page
    assert ('id="verified"' in page) == (method == "soft")
    assert (tmp_path / "report" / "accuracy-digits-a.svg").stat().st_size > 2000
    assert "One seed" in page
    assert "±" not in page.partition('id="results"')[2].partition("<tbody>")[2].partition("</tbody>")[0]


def test_a_grid_that_has_only_begun(tmp_path: Path) -> None:
    make_run(tmp_path, make_trial("soft"), epochs=0)
    page = report(tmp_path, VERDICTS)
    assert "0 of 2 epochs finished" in page
    assert not References(page).loaded
    assert not list((tmp_path / "report").glob("*.svg"))
    for section in ("accuracy", "verified", "costs", "examples", "comparisons", "sensitivity"):
        assert f'id="{section}"' not in page


def test_damaged_files_make_their_trial_unreadable_not_the_report(tmp_path: Path) -> None:
    finish(make_run(tmp_path, make_trial("natural")))
    finish(make_run(tmp_path, make_trial("soft")))
    (tmp_path / "digits-a-natural-seed0" / "result.json").write_text("{")
    (tmp_path / "digits-a-soft-seed0" / "examples.safetensors").write_bytes(b"x")
    broken = make_run(tmp_path, make_trial("adversarial"))
    (broken.path / "spec.json").write_text("[]")
    page = report(tmp_path)
    assert "<b>Trials</b> 1 of 3 finished, 2 unreadable" in page
    assert "<b>digits-a-natural-seed0</b>: result.json: not valid JSON" in page
    assert "<b>digits-a-adversarial-seed0</b>: spec.json: expected a JSON object" in page
    assert str(tmp_path) not in page
    assert 'id="examples"' not in page


def test_a_result_without_its_epochs_is_not_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_trial())
    finish(run)
    (run.path / "metrics.json").unlink()
    entry = read_entry(run)
    assert (entry.state, entry.result) == ("unreadable", None)
    assert entry.note == "metrics.json: is missing, though the trial has finished"


def test_a_finished_trial_tells_of_a_later_failure(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_trial())
    finish(run)
    write_text(run.path / "traceback.txt", "Traceback\nValueError: no\n")
    entry = read_entry(run)
    assert entry.state == "finished"
    assert entry.note == "a later attempt to run it failed: ValueError: no"


def test_a_folder_without_trials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SoftadvError, match="holds no runs"):
        report(tmp_path)
    with pytest.raises(SoftadvError, match=r"nowhere: no such folder$"):
        report(tmp_path / "nowhere")
    (tmp_path / "spec.json").touch()  # as softadv train leaves it
    with pytest.raises(SoftadvError, match=r"is one run, not the folder of a grid$"):
        report(tmp_path)


def test_a_file_in_the_place_of_the_pages_folder_is_named(tmp_path: Path) -> None:
    complete = tmp_path / "grid"
    finish(make_run(complete, make_trial()))
    (tmp_path / "page").write_text("mine")
    with pytest.raises(SoftadvError, match=r"page: is a file, not a folder$"):
        write_report(complete, verdicts=[], title="x", command="x", out=tmp_path / "page")
    assert (tmp_path / "page").read_text() == "mine"
