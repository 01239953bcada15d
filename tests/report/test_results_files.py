"""results.csv and results.tex beside the page, and which files a page leaves when it is made again."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from softadv.errors import SoftadvError
from softadv.experiments.expected import expected_folder
from softadv.experiments.reference import REFERENCE
from softadv.experiments.report_files import PAGES, delete_page, files_list
from softadv.experiments.run_folder import GRID, clear_grid
from softadv.experiments.runs import read_entries
from softadv.experiments.spec import METHODS
from softadv.report.page import write_report
from softadv.report.results_files import results_csv, results_tex
from softadv.report.results_table import result_groups
from tests.report.trials import finish, make_run, make_trial


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for method in METHODS:
        for seed in (0, 1):
            finish(make_run(tmp_path, make_trial(method, seed=seed)))
    make_run(tmp_path, make_trial("soft", seed=2), epochs=1)
    return tmp_path


def test_results_csv_is_tidy(folder: Path) -> None:
    rows = list(csv.DictReader(results_csv(read_entries(folder)).splitlines()))
    assert list(rows[0]) == ["setting", "method", "seed", "metric", "value"]
    found = {(row["method"], row["seed"], row["metric"]): row["value"] for row in rows}
    assert len(found) == len(rows)  # one number a row
    assert found["soft", "1", "natural_accuracy"] == "0.92"
    assert found["soft", "1", "certified_accuracy_deeppoly"] == "0.4"
    assert found["soft", "0", "verified_share"] == "0.25"
    assert ("natural", "0", "verified_share") not in found
    assert {seed for _, seed, _ in found} == {"0", "1"}  # what has not finished has no results


def test_results_tex_is_the_table_of_the_page(folder: Path) -> None:
    entries = read_entries(folder)
    text = results_tex(result_groups(entries), entries)
    assert r"Soft & 2 of 3 & 91.00 $\pm$ 1.41 & 60.00 $\pm$ 0.00 & 40.00 $\pm$ 0.00 & 0.00 $\pm$ 0.00 & 25.00" in text
    assert r"{Digits, Epochs: 2, $\varepsilon$: 0.1, Steps: 3, $\alpha$: 0.01}" in text
    columns = {line.count("&") for line in text.splitlines() if "&" in line and "multicolumn" not in line}
    assert len(columns) == 1
    assert text.isascii()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_reads_results_tex(folder: Path, tmp_path: Path) -> None:
    stored = expected_folder() / REFERENCE
    for name in ("of these trials", *(path.name for path in sorted(stored.iterdir()) if path.is_dir())):
        entries = read_entries(stored / name if (stored / name).is_dir() else folder)
        body = results_tex(result_groups(entries), entries)
        around = r"\documentclass{article}\usepackage[a4paper,margin=2cm]{geometry}\usepackage{booktabs}"
        source = rf"{around}\begin{{document}}\noindent\footnotesize{body}\end{{document}}"
        (tmp_path / "a.tex").write_text(source)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: {done.stdout}"
        assert "Overfull" not in done.stdout, name  # it fits a page


def test_a_page_made_again_leaves_no_figure_of_the_old_one_and_nothing_else_goes(folder: Path) -> None:
    (folder / GRID).write_text('{"name": "mine"}')
    report = write_report(folder, verdicts=[], title="x", command="x").parent
    listed = set(json.loads((report / files_list("index.html")).read_text())["files"])
    assert listed == {path.name for path in report.iterdir()} - {files_list("index.html")}
    (report / "notes.txt").write_text("mine")
    for seed in (0, 1):
        shutil.rmtree(folder / f"digits-a-soft-seed{seed}")
    shutil.rmtree(folder / "digits-a-soft-seed2")
    write_report(folder, verdicts=[], title="x", command="x")
    assert {path.name for path in report.iterdir()} == listed - {
        f"{stem}.{kind}" for stem in ("partition-digits-a", "verified-digits") for kind in ("csv", "svg")
    } | {files_list("index.html"), "notes.txt"}
    clear_grid(folder)
    assert [path.name for path in report.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("listed", ['{"files": ["../out.txt", "sub/out.txt", "folder"]}', '{"files": 3}', "{", "[]"])
def test_a_list_names_nothing_outside_its_folder(tmp_path: Path, listed: str) -> None:
    for place in ("out.txt", "report/sub/out.txt", "report/folder/a.txt", "report/index.html"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("mine")
    (tmp_path / "report" / files_list("index.html")).write_text(listed)
    delete_page(tmp_path / "report", "index.html")
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert left == ["out.txt", "report/folder/a.txt", "report/sub/out.txt"]


def test_what_cannot_be_deleted_is_named(tmp_path: Path) -> None:
    (tmp_path / files_list(PAGES[0])).mkdir()
    with pytest.raises(SoftadvError, match="cannot be deleted"):
        delete_page(tmp_path, PAGES[0])
