"""A page on methods and a data set of one's own, none of whose code is there to be imported."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from softadv.cli.finish import verdicts_on
from softadv.errors import SoftadvError
from softadv.experiments.expected import expected_folder
from softadv.experiments.grid import grid_command
from softadv.experiments.names import Names, names_of
from softadv.experiments.records import check_together
from softadv.experiments.reference import read_record, record_from_table, record_table
from softadv.experiments.run_folder import GRID
from softadv.experiments.runs import Run, all_series, read_entries
from softadv.experiments.spec import Trial
from softadv.experiments.spec_text import Series
from softadv.registry import Origin
from softadv.report.comparisons import comparisons
from softadv.report.costs import attack_steps, certified_images, cost_groups
from softadv.report.figures import accuracy, trade_off
from softadv.report.figures.page_figure import page_figure
from softadv.report.page import write_report
from tests.report.trials import IMAGES, finish, make_epoch, make_run, make_trial, words_of

MINE = "my.nets:Mine"
FLOWERS = "my.flowers:load"
METHODS = ("natural", "adversarial", "soft", MINE, "trades(beta=6)")
TITLES = {MINE: "Mine <at> $5 & $\\nothing", "trades(beta=6)": "TRADES, β = 6, which has a rather long title"}


def names(method: str) -> Names:
    plain = names_of(make_trial(method))
    return Names(
        method_title=TITLES.get(method, plain.method_title),
        method_color="#AA4499" if method == MINE else plain.method_color,
        dataset_title="Flowers & weeds",
        class_names=("rose", "tulip", "thistle"),
        sources={"dataset": Origin(FLOWERS, "d" * 64)} | ({"method": Origin(MINE, None)} if method == MINE else {}),
    )


def own_trial(method: str, *, seed: int = 0) -> Trial:
    return replace(make_trial(method, seed=seed, setting="flowers"), dataset=FLOWERS)


def fill(folder: Path, methods: tuple[str, ...] = METHODS, *, seeds: int = 2) -> Path:
    """A grid's folder with finished trials; every later method is 3 points less natural, and 1 per seed."""
    for place, method in enumerate(methods):
        for seed in range(seeds):
            run = make_run(folder, own_trial(method, seed=seed))
            finish(run)
            result = run.result()
            assert result is not None
            natural = 0.9 - 0.03 * place - 0.01 * seed * place
            own_loss = method == MINE
            run.write_result(replace(result, names=names(method), natural_accuracy=natural, own_loss=own_loss))
    (folder / GRID).write_text('{"name": "mine", "description": "", "command": "softadv reproduce mine.toml"}')
    return folder


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def page(grid: Path) -> str:
    before = set(sys.modules)
    text = words_of(write_report(grid, verdicts=[], title="mine", command=grid_command(grid)))
    assert not [name for name in set(sys.modules) - before if name.startswith("my")]
    return text


def test_every_method_is_in_the_tables_with_its_title_and_colour(page: str) -> None:
    for section, rows in (("results", 1), ("costs", 1)):
        table = page.partition(f'<section id="{section}">')[2].partition("</table>")[0]
        found = re.findall(r'<span class="swatch f-(\w+)"></span>(.*?)</span></th>', table)
        assert [title for _, title in found] == ["Natural", "Adversarial", "Soft", *(
            escape(TITLES[MINE]), "TRADES β 6"
        )]  # fmt: skip
        assert [color for color, _ in found][3] == "AA4499"
        assert ".swatch.f-AA4499 { background: #AA4499; }" in page
        assert len({color for color, _ in found}) == len(METHODS) * rows


def test_the_data_set_and_the_code_have_their_names(page: str, grid: Path) -> None:
    assert "<b>Flowers &amp; weeds   Epochs: 2" in page
    code = page.partition("Your own code")[2].partition("</table>")[0]
    assert re.findall(r"<td[^>]*>(.*?)</td>", code) == ["dataset", FLOWERS, "d" * 64, "method", MINE, "unknown"]
    assert str(grid) not in page


def test_a_method_with_a_loss_of_its_own_is_said_to_do_without_the_kernel(page: str) -> None:
    costs = page.partition('<section id="costs">')[2].partition("</section>")[0]
    assert re.findall(r"<p class=\"note\">(.*) has a loss of its own: PyTorch's autograd", costs) == [
        escape(TITLES[MINE])
    ]


def test_each_method_is_compared_with_adversarial_and_soft_with_each_control(page: str, grid: Path) -> None:
    found = comparisons(read_entries(grid))
    assert [(c.method, c.over) for c in found] == [
        ("soft", "adversarial"),
        ("natural", "adversarial"),
        (MINE, "adversarial"),
        ("trades(beta=6)", "adversarial"),
        ("soft", "natural"),
        ("soft", MINE),
        ("soft", "trades(beta=6)"),
    ]
    # Three points each place, and for seed 1 another point each.
    assert [c.natural and round(c.natural.mean, 9) for c in found] == [-3.5, 3.5, -7.0, -10.5, -7.0, 3.5, 7.0]
    assert {c.natural and c.natural.seeds for c in found} == {2}
    table = page.partition('<section id="comparisons">')[2].partition("</table>")[0]
    rows = re.findall(r'<th scope="row">(.*?)</th>', table)
    assert rows[:2] == ["Soft − adversarial", "Natural − adversarial"]
    assert rows[2] == f"{escape(TITLES[MINE])} − adversarial"
    assert len(rows) == len(found)
    assert "Not shown: on Flowers &amp; weeds at ε 0.1" in page


def test_without_soft_training_the_page_says_what_was_compared(tmp_path: Path) -> None:
    folder = fill(tmp_path, ("natural", "adversarial", MINE))
    text = words_of(write_report(folder, verdicts=[], title="mine", command="x"))
    assert "<h1>How do the methods compare?</h1>" in text
    assert (
        "Compared seed by seed, after 2 epochs, Natural − adversarial on Flowers &amp; weeds at ε 0.1 is +3.50 points "
        "of natural and 0.00 points of adversarial accuracy; "
    ) in text.replace("+0.00", "0.00")
    assert 'id="sensitivity"' not in text


def test_a_method_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    text = words_of(write_report(fill(tmp_path, (MINE,)), verdicts=[], title="mine", command="x"))
    assert "Nothing is compared yet: no seed has finished two methods of a setting." in text
    assert 'id="comparisons"' not in text


def test_variations_with_methods_of_ones_own_are_compared_too(tmp_path: Path) -> None:
    for setting, lr in (("a", 1e-3), ("b", 1e-2)):
        for method in ("adversarial", "soft", MINE) if setting == "b" else ("adversarial", "soft"):
            finish(make_run(tmp_path, replace(make_trial(method, setting=setting), lr=lr)))
    assert [(c.trial.setting, c.method, c.over) for c in comparisons(read_entries(tmp_path))] == [
        ("a", "soft", "adversarial"),
        ("b", "soft", "adversarial"),
        ("b", MINE, "adversarial"),
        ("b", "soft", MINE),
    ]


def test_the_papers_claims_have_no_row(grid: Path) -> None:
    assert verdicts_on(grid, read_entries(grid), expected=expected_folder()) == []


def test_every_figure_has_every_method(page: str, grid: Path) -> None:
    assert page
    stems = {path.stem for path in (grid / "report").glob("*.svg")}
    assert {"accuracy-flowers", "trade-off", "time", "examples", "verified-my.flowers-load"} <= stems
    rows = list(csv.DictReader((grid / "report" / "trade-off.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == set(METHODS)
    assert rows[0]["natural_accuracy_percent"] == "90"


def test_the_plane_shows_titles_colours_and_marks(grid: Path) -> None:
    (panel,) = trade_off.draw(all_series(read_entries(grid)))
    for text in ("Natural", "Adversarial", "Soft", TITLES[MINE], "TRADES β 6"):
        assert f">{escape(text)}<" in panel.svg()
    marks = re.findall(r'<(\w+ d="[^"]*Z"|circle [^>]*) class="point', panel.svg())
    assert len(set(marks)) == len(METHODS)


def test_epochs_that_were_not_evaluated_are_left_out(tmp_path: Path) -> None:
    trial = replace(own_trial(MINE), epochs=4)
    epochs = [make_epoch(trial, epoch=number) for number in range(1, 5)]
    for number in (1, 3):
        for key in ("natural_accuracy", "adversarial_accuracy"):
            object.__setattr__(epochs[number - 1], key, None)  # whether or not the record's type has it yet
    (panel,) = accuracy.draw([Series(trial=trial, epochs=tuple(epochs))])
    assert re.findall(r"epoch (\d)", panel.svg()) == ["2", "4"]
    assert Series(trial=trial, epochs=tuple(epochs[:3])).accuracies == pytest.approx((0.9, 0.6))
    for epoch in epochs:
        object.__setattr__(epoch, "natural_accuracy", None)
        object.__setattr__(epoch, "adversarial_accuracy", None)
    (panel,) = accuracy.draw([Series(trial=trial, epochs=tuple(epochs))])
    assert "<title>" not in panel.svg()


def test_attack_steps_of_ones_own_method_are_not_known(grid: Path) -> None:
    """It may attack more images than it trains on, or stop early."""
    trial = own_trial(MINE)
    epochs = [replace(make_epoch(trial, epoch=number), attacked=10) for number in (1, 2)]
    assert attack_steps(trial, epochs, train_images=IMAGES) is None
    (group,) = cost_groups(read_entries(grid))
    assert [row.steps for row in group.rows][-2:] == ["\N{EN DASH}"] * 2


def test_splits_of_ones_own_method_are_counted(grid: Path) -> None:
    trial = own_trial(MINE)
    split = {"misclassified": 60, "unverified": 90, "verified": 50}
    epochs = [replace(make_epoch(trial, epoch=number), **split, certifier="native") for number in (1, 2)]  # type: ignore[arg-type]
    assert certified_images(trial, epochs) == [140, 140]


def test_a_split_of_another_method_has_a_figure_of_its_own(tmp_path: Path) -> None:
    for method in ("soft", MINE):
        run = make_run(tmp_path, make_trial(method), epochs=0)
        verified = 50 if method == "soft" else 20
        split = {"misclassified": 60, "unverified": 140 - verified, "verified": verified}
        run.write_metrics([replace(make_epoch(run.trial(), epoch=n), **split) for n in (1, 2)])  # type: ignore[arg-type]
        finish(run)
    page = write_report(tmp_path, verdicts=[], title="x", command="x")
    captions = re.findall(r"verified at last: ([\d.]+)%", page.read_text())
    assert captions == ["25.0", "10.0"]
    assert (page.parent / "partition-digits-a-my.nets-Mine.svg").exists()


def test_a_reference_keeps_the_names(grid: Path) -> None:
    entry = next(entry for entry in read_entries(grid) if entry.trial and entry.trial.method == MINE)
    assert entry.result is not None
    table = json.loads(json.dumps(record_table(entry.result, entry.epochs)))
    assert record_from_table(table, path=Path(f"{entry.name}.json")).result.names == names(MINE)


def test_old_references_have_the_papers_names() -> None:
    folder = expected_folder() / "reference" / "mnist"
    for path in sorted(folder.glob("mnist-*.json"))[:3]:
        record = read_record(path)
        assert record.result.names is None
    assert {run.names.dataset_title for run in all_series(read_entries(folder))} == {"MNIST"}


def test_a_trial_that_stopped_early_has_finished(grid: Path) -> None:
    run = next(run for run in all_series(read_entries(grid)) if run.trial.method == MINE)
    early = replace(run, trial=replace(run.trial, epochs=9))
    for series, told in ((early, False), (replace(early, result=None), True)):
        figure = page_figure("accuracy", "x", accuracy.draw([series]), [series], caption="", csv="")
        assert ("not every trial has finished" in figure.caption) is told


def test_early_stopping_and_validation_images_fit_their_record(tmp_path: Path) -> None:
    trial = replace(make_trial("soft"), epochs=9, patience=1, validation_images=40, train_images=IMAGES)
    run = make_run(tmp_path, trial, epochs=0)
    split = {"misclassified": 60, "unverified": 60, "verified": 40}
    run.write_metrics([replace(make_epoch(trial, epoch=number), **split) for number in (1, 2)])  # type: ignore[arg-type]
    finish(run)
    (entry,) = read_entries(tmp_path)
    assert (entry.state, entry.note) == ("finished", "")
    assert entry.result is not None
    assert Run(entry.result, entry.epochs).verified_share == 40 / 160
    with pytest.raises(SoftadvError, match="there is a result after 1 of 9 epochs"):
        check_together(trial, entry.epochs[:1], entry.result)
    with pytest.raises(SoftadvError, match="the split is of 160 images, not of 200"):
        check_together(replace(trial, validation_images=0, patience=None), entry.epochs, None)
