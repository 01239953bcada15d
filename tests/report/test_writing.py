"""A page's files: those that softadv wrote are replaced, a file of somebody else's is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from softadv.errors import SoftadvError
from softadv.report.page import write_report
from softadv.report.writing import write_page
from tests.report.trials import finish, make_run, make_trial

PAGE = "<title>softadv</title>"


def test_no_line_ends_between_a_symbol_and_its_value(tmp_path: Path) -> None:
    finish(make_run(tmp_path, make_trial(eps=0.1)))
    write_report(tmp_path, verdicts=[], title="mine", command="x")
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    title = "Digits   Epochs: 2   ε: 0.1   Steps: 3   α: 0.01"
    assert title.replace(": ", ":\N{NO-BREAK SPACE}") in page
    assert title not in page
    assert "\N{NO-BREAK SPACE}" not in page.partition("<style>")[2].partition("</style>")[0]


def test_a_page_is_replaced_and_its_old_figures_go(tmp_path: Path) -> None:
    write_page(tmp_path, "index.html", PAGE, {"old.svg": b"1", "results.csv": b"1"})
    (tmp_path / "mine.txt").write_text("mine")
    write_page(tmp_path, "index.html", PAGE, {"new.svg": b"2", "results.csv": b"2"})
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html", "index.html.files.json", "new.svg", "results.csv", "mine.txt",
    }  # fmt: skip
    assert (tmp_path / "results.csv").read_bytes() == b"2"


@pytest.mark.parametrize("name", ["index.html", "results.csv"])
def test_a_file_of_somebody_else_is_named_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<p>my home page</p>")
    with pytest.raises(SoftadvError, match=f"{name}: is there already, and softadv did not write it"):
        write_page(tmp_path, "index.html", PAGE, {"results.csv": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "<p>my home page</p>"


def test_a_link_to_what_is_not_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "results.csv").symlink_to("elsewhere")
    with pytest.raises(SoftadvError, match=r"results\.csv: is there already, and softadv did not write it"):
        write_page(tmp_path, "index.html", PAGE, {"results.csv": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
    assert (tmp_path / "results.csv").is_symlink()


def test_a_file_of_somebody_else_beside_a_page_is_not_overwritten_by_the_next_page(tmp_path: Path) -> None:
    write_page(tmp_path, "index.html", PAGE, {"time.svg": b"1"})
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(SoftadvError, match=r"results\.csv: is there already, and softadv did not write it"):
        write_page(tmp_path, "index.html", PAGE, {"results.csv": b"2"})
    assert (tmp_path / "results.csv").read_text() == "mine"
    assert (tmp_path / "time.svg").read_bytes() == b"1"


def test_a_page_from_before_there_were_lists_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(f"<!doctype html><html><head>{PAGE}</head>")
    (tmp_path / "time.svg").write_text("old")
    write_page(tmp_path, "index.html", PAGE, {"time.svg": b"new"})
    assert (tmp_path / "time.svg").read_bytes() == b"new"
