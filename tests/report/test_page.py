"""The report of run folders that no training made: their files are written from the dataclasses."""

import base64
import csv
import math
import re
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest

from softadv._io import write_text
from softadv.certify.records import Certified
from softadv.claims.judge import Claim, Outcome, Verdict
from softadv.claims.stats import Estimate
from softadv.experiments.records import Autoattacked
from softadv.experiments.spec import METHODS
from softadv.report.page import write_report
from softadv.report.words import capital
from tests.report.trials import VERDICTS, References, finish, make_run, make_trial, report, words_of

SECTIONS = ("claims", "comparisons", "accuracy", "verified", "results", "costs", "examples", "rerun")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings, three methods, two seeds; in the second setting soft failed and is unfinished."""
    folder = tmp_path_factory.mktemp("grid")
    for method in METHODS:
        for seed in (0, 1):
            finish(make_run(folder, make_trial(method, seed=seed)))
            other = make_trial(method, seed=seed, eps=8 / 255, setting="digits-b")
            if method != "soft":
                finish(make_run(folder, other))
    failed = make_run(folder, make_trial("soft", eps=8 / 255, setting="digits-b"), epochs=1)
    write_text(failed.path / "traceback.txt", 'Traceback:\n  File "x", line 1\nRuntimeError: out of <memory>\n')
    make_run(folder, make_trial("soft", seed=1, eps=8 / 255, setting="digits-b"), epochs=1)
    return folder


@pytest.fixture(scope="module")
def page(grid: Path) -> str:
    return report(grid, VERDICTS)


def test_the_page_is_self_contained(page: str) -> None:
    references = References(page)
    assert all(reference.startswith("data:image/png;base64,") for reference in references.loaded)
    assert not {"link", "iframe", "img"} & references.tags
    for text in ("http://", "https://", "@import", "url("):
        assert text not in page


def test_every_figure_is_embedded_and_beside_the_page(page: str, grid: Path) -> None:
    files = {path.name for path in (grid / "report").iterdir()} - {"index.html", "index.html.files.json"}
    stems = {
        *(f"{figure}-{setting}" for figure in ("accuracy", "partition") for setting in ("digits-a", "digits-b")),
        "verified-digits",
        "trade-off",
        "time",
        "examples",
    }
    figures = {f"{stem}.{kind}" for stem in stems for kind in ("svg", "csv")}
    assert files == {*figures, "results.csv", "results.tex"}
    assert all(link.startswith(("#", "data:")) for link in References(page).links)  # the page holds them itself
    for stem in stems:
        drawn = ElementTree.fromstring((grid / "report" / f"{stem}.svg").read_text())
        marks = [text for element in drawn.iter() if element.tag.endswith("}text") and (text := element.text)]
        assert marks
        assert all(escape(text, quote=False) in page for text in marks[1:]), stem


def test_figures_are_svg_too(grid: Path, page: str) -> None:
    assert page
    for path in (grid / "report").glob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        assert root.tag.endswith("svg")
        assert "prefers-color-scheme: dark" in path.read_text()
        assert "var(" not in path.read_text()  # which not every reader of SVG knows


def test_the_numbers_behind_a_figure_are_csv(grid: Path, page: str) -> None:
    assert page
    tables = {
        path.stem: list(csv.DictReader(path.read_text().splitlines())) for path in (grid / "report").glob("*.csv")
    }
    assert len(tables["accuracy-digits-a"]) == 3 * 2 * 2  # methods, seeds, epochs
    last = tables["accuracy-digits-a"][-1]
    assert (last["method"], last["seed"], last["epoch"]) == ("soft", "1", "2")
    assert (last["natural_accuracy_percent"], last["adversarial_accuracy_percent"]) == ("92", "60")
    assert {row["verified"] for row in tables["verified-digits"]} == {"50"}
    assert {row["eps"] for row in tables["verified-digits"]} == {"0.1", "8/255"}
    assert len(tables["trade-off"]) == 10  # the finished trials
    assert tables["time"][0]["evaluation_seconds"] == "0.5000"
    assert tables["examples"][1]["predicted_attacked"] == "5"


def test_the_page_brings_its_data_along_when_it_is_passed_on_by_itself(grid: Path, page: str) -> None:
    link = r'<a href="data:([a-z/+-]+);charset=utf-8;base64,([^"]*)" title="[^"]*" download="([^"]*)">'
    found = {name: (kind, data) for kind, data, name in re.findall(link, page)}
    files = {path.name: path for path in (grid / "report").iterdir() if path.suffix in (".csv", ".svg", ".tex")}
    assert found.keys() == files.keys()
    for name, (kind, data) in found.items():
        assert base64.b64decode(data) == files[name].read_bytes(), name
        assert kind == {".csv": "text/csv", ".svg": "image/svg+xml", ".tex": "text/x-tex"}[files[name].suffix]


def test_links_within_the_page_have_a_target(page: str) -> None:
    for link in References(page).links:
        assert not link.startswith("#") or f'id="{link[1:]}"' in page


def test_verdicts_are_words_and_everything_is_escaped(page: str) -> None:
    for verdict in VERDICTS:
        assert f"</span> {verdict.outcome}</span>" in page
        assert escape(capital(verdict.reason)) in page
        assert escape(capital(verdict.claim.title)) in page
    assert "<b>so</b>" not in page
    assert page.index('id="claims"') < page.index('id="results"')
    assert "A &lt;grid&gt;" in page
    assert "--out &lt;y&gt;" in page
    assert "machine &lt;0&gt; / machine &lt;1&gt;" in page
    assert "<b>The paper's claims</b> 1 holds, 1 fails, 1 not run" in unescape(page)
    assert "<b>Trials</b> 10 of 12 finished, 1 unfinished, 1 failed" in page


def test_unfinished_and_failed_trials_are_named(page: str) -> None:
    assert "<b>digits-b-soft-seed0</b>: 1 of 2 epochs finished; RuntimeError: out of &lt;memory&gt;" in page
    assert "<b>digits-b-soft-seed1</b>: 1 of 2 epochs finished</li>" in page
    assert "<b>digits-a-soft-seed0</b>:" not in page
    assert "no finished trial" in page
    assert "Soft adversarial training: not every trial has finished" in page


def test_the_results_are_means_with_their_spread_over_seeds(page: str) -> None:
    results = page.partition('id="results"')[2].replace("\n", "")
    deviation = 2 / math.sqrt(2)
    cells = [
        ("Seeds", "2"), ("Natural (%)", f"91.00 ± {deviation:.2f}"), ("PGD (%)", "60.00 ± 0.00"),
        ("Certified, DeepPoly (%)", "40.00 ± 0.00"), ("Certified, Box (%)", "0.00 ± 0.00"),
        ("Verified (%)", "25.00 ± 0.00"),  # 50 of 200
    ]  # fmt: skip
    assert "".join(f'<td data-label="{label}">{text}</td>' for label, text in cells) in results
    assert "AutoAttack" not in results


def test_autoattack_stands_beside_pgd_where_it_was_run(tmp_path: Path) -> None:
    for method in METHODS:
        run = make_run(tmp_path, make_trial(method))
        finish(run)
    result = run.result()
    assert result is not None
    run.write_result(replace(result, autoattack=Autoattacked(images=1000, correct=512, seconds=9.0), test_images=1000))
    results = report(tmp_path).partition('id="results"')[2].replace("\n", "")
    assert '<th scope="col">PGD (%)</th><th scope="col">AutoAttack (%)</th>' in results
    for autoattack in ("51.20", "\N{EN DASH}"):
        assert f'"PGD (%)">60.00</td><td data-label="AutoAttack (%)">{autoattack}</td>' in results
    assert "AutoAttack on the first 1,000" in results


def test_a_figure_that_not_every_seed_has_says_of_how_many_it_is_and_on_which_images(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = make_run(tmp_path, make_trial(seed=seed))
        finish(run)
    result = run.result()
    assert result is not None
    deeppoly = Certified(domain="deeppoly", images=25, verified=10, seconds=1.0)
    run.write_result(
        replace(result, certified=(deeppoly,), autoattack=Autoattacked(images=50, correct=25, seconds=9.0))
    )
    results = report(tmp_path).partition('id="results"')[2]
    assert '<td data-label="AutoAttack (%)">50.00 (1 of 2)</td>' in results
    assert '<td data-label="Certified, Box (%)">0.00 (1 of 2)</td>' in results
    assert '<td data-label="Certified, DeepPoly (%)">40.00 ± 0.00</td>' in results
    assert "certified on the first 25 or 50 of these, AutoAttack on the first 50" in results


def test_the_costs_are_seconds_steps_and_certifications(page: str) -> None:
    costs = page.partition('id="costs"')[2].replace("\n", "")
    labels = ("Attack", "Certification", "Update", "Evaluation", "At the end", "All")
    times = zip(labels, ("4.0", "6.0", "2.0", "1.0", "1.1", "14.1"), strict=True)
    seconds = "".join(f'<td data-label="{label} (s)">{value}</td>' for label, value in times)
    rest = '<td data-label="Attack steps (millions)">0.0</td><td data-label="Splits">2</td>'
    assert f'<td data-label="Trials">2</td>{seconds}{rest}<td data-label="Images each">140</td>' in costs


def test_the_answer_comes_first_with_what_it_rests_on(page: str) -> None:
    parts = ["<h1>Does soft", "Not shown: on Digits at ε 0.1", *(f'id="{part}"' for part in SECTIONS)]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_a_notice_stands_under_the_title(tmp_path: Path, page: str) -> None:
    assert 'class="notice"' not in page
    make_run(tmp_path, make_trial(), epochs=0)
    noticed = words_of(write_report(tmp_path, verdicts=[], title="x", command="x", notice="Nothing was <trained>."))
    assert noticed.index("</h1>") < noticed.index("Nothing was &lt;trained&gt;.") < noticed.index('class="answer"')


def test_the_specification_has_a_row_a_setting_of_what_differs(tmp_path: Path) -> None:
    for trial in (make_trial(), make_trial(eps=0.2, setting="digits-b")):
        make_run(tmp_path, trial, epochs=0)
    page = words_of(write_report(tmp_path, verdicts=[], title="x", command="x"))
    table = page.partition("<h3>Specification</h3>")[2].partition("</table>")[0]
    cells = ["Setting", "eps", "Digits, ε 0.1", "0.1", "Digits, ε 0.2", "0.2"]
    assert re.findall(r"<t[hd](?: [^>]*)?>([^<]*)<", table) == cells
    assert "<dt>steps</dt><dd>3</dd>" in page
    assert "<dt>eps</dt>" not in page


def test_a_claim_has_one_plot_and_its_sentence_unfolds(tmp_path: Path) -> None:
    make_run(tmp_path, make_trial(), epochs=0)
    label = "digits-a: natural accuracy, soft - adversarial"
    estimate = Estimate(label=label, unit="points", seeds=5, mean=1.5, low=1.0, high=2.0, claimed=(0.5, 2.5))
    reason = "natural accuracy, soft - adversarial: digits-a +1.50 points [+1.00, -2.00]"
    claim = Claim(id="3", title="Digits, eps 0.1: more than eps_0 - or -1", source="section 5", kind="paper")
    found = Verdict(claim=claim, outcome="holds", reason=reason, estimates=(estimate, replace(estimate, mean=1.2)))
    shown = report(tmp_path, [found]).partition('<section id="claims">')[2].partition("</section>")[0]
    assert shown.count("<svg") == 1
    assert shown.count('class="claimed"') == shown.count('class="zero dotted"') == 2
    assert "<title>Digits, ε 0.1: +1.50 points (+1.00 to +2.00), 5 seeds</title>" in shown
    assert "<p>Digits, ε 0.1: more than eps_0 − or −1</p>" in shown
    folded = shown.partition("<details>")[2]
    assert "<p>Natural accuracy, soft − adversarial: Digits, ε 0.1 +1.50 points [+1.00, −2.00]</p>" in folded
    assert "digits-a" not in shown


def test_a_verdict_shows_what_it_assumes(tmp_path: Path) -> None:
    make_run(tmp_path, make_trial(), epochs=0)
    few = Claim(id="1", title="t", source="s", kind="paper", assumption="Few: at most < 3.")
    asked: list[tuple[Claim, Outcome]] = [(few, "holds"), (few, "not run"), (replace(few, assumption=""), "holds")]
    verdicts = [Verdict(claim=claim, outcome=outcome, reason="") for claim, outcome in asked]
    page = words_of(write_report(tmp_path, verdicts=verdicts, title="x", command="x"))
    assert page.count('class="assumption"') == 1
    assert "<b>Assumed</b> Few: at most &lt; 3.</p>" in page


def test_no_path_of_the_machine_is_on_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_trial())
    finish(run)
    result = run.result()
    assert result is not None
    run.write_result(replace(result, data_source=str(tmp_path / "data")))
    write_text(run.path / "traceback.txt", f"Traceback\nOSError: {tmp_path}/a/b.bin: no such file\n")
    command = f"./reproduce.sh smoke --out {tmp_path}/x --data {tmp_path}/data --seeds 1"
    page = words_of(write_report(tmp_path, verdicts=[], title="x", command=command))
    assert str(tmp_path) not in page
    assert "./reproduce.sh smoke --seeds 1" in page
    assert "OSError: …/b.bin: no such file" in page
    assert "files in a folder" in page


def test_the_report_is_written_whole_and_the_same_again(page: str, grid: Path) -> None:
    before = {path.name: path.read_bytes() for path in (grid / "report").iterdir()}
    assert report(grid, VERDICTS) == page
    assert {path.name: path.read_bytes() for path in (grid / "report").iterdir()} == before
    assert not list(grid.rglob("*.partial"))


def test_variations_are_folded_away_and_the_base_is_not(tmp_path: Path) -> None:
    for index in range(6):
        trial = replace(make_trial(), setting=f"digits-batch{index + 1:02}", batch_size=128 + index)
        make_run(tmp_path, trial, epochs=1)
    page = report(tmp_path)
    section = page.partition('<section id="accuracy">')[2].partition("</section>")[0]
    shown, folded = section.partition("<details")[0], section.partition("<details")[2]
    assert "accuracy-digits-batch01.svg" in shown
    assert "accuracy-digits-batch02.svg" not in shown
    assert "accuracy-digits-batch06.svg" in folded
    assert "Variations (5 figures)" in page
    assert 'id="sensitivity"' in page
