"""What the documents say of the reference is what the reference says; tests/test_documents.py holds their tables."""

import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks import answer, trial_times
from benchmarks.answer import REFERENCE, Answered
from benchmarks.documents import makers, parts
from benchmarks.reference_table import GRIDS, claims, differences, provenance, results, table, verdicts
from softadv._decimals import decimal
from softadv.claims.judge import load_expectations
from softadv.claims.stats import estimate
from softadv.experiments.runs import all_series, read_entries
from softadv.experiments.spec_text import fraction
from softadv.report.results_table import result_groups

ROOT = Path(__file__).parents[2]
PAGE_OF = {name.removeprefix("results "): page for page, name in makers() if name.startswith("results ")}


@pytest.mark.parametrize("grid", GRIDS)
def test_the_page_of_a_grid_has_its_tables_and_what_its_records_do_not_tell_of_their_code(grid):
    shown = parts(PAGE_OF[grid])[f"results {grid}"]
    for made in (table(grid), provenance(grid), verdicts(grid), differences(grid, "soft", "adversarial")):
        assert made in shown, f"{PAGE_OF[grid]}: make it again: python -m benchmarks.documents"
    assert shown == results(grid)
    assert not provenance(grid) or "commit" in provenance(grid)


def test_the_answer_has_the_numbers_of_the_results():
    made = answer.table(answer.answers())
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in made.splitlines()[2:]]
    settings = "\n".join(table(grid) for grid in GRIDS)
    changes = "\n".join(differences(grid, "soft", "adversarial") for grid in GRIDS)
    trials = [run for grid in GRIDS for run in all_series(read_entries(REFERENCE / grid)) if run.result]
    naturals = {
        (run.names.dataset_title, run.trial.epochs, run.trial.seed): 100 * run.result.natural_accuracy
        for run in trials
        if run.trial.method == "natural"
    }
    for setting, epochs, seeds, natural, adversarial, soft, gain, under_pgd in rows:
        # of the seeds that the others have: it may have more, or fewer
        title, _, eps = setting.partition(" at ε ")
        both = [
            {run.trial.seed for run in trials if _is_in(run, title, eps, epochs) and run.trial.method == method}
            for method in ("adversarial", "soft")
        ]
        shared = [
            naturals[title, int(epochs), seed] for seed in both[0] & both[1] if (title, int(epochs), seed) in naturals
        ]
        assert natural == decimal(fmean(shared))
        assert soft == "not run" or f"| {seeds} | {soft}" in settings
        assert all(change in changes for change in (gain, under_pgd) if change != "not run")
        if soft == "not run":
            assert f"| {seeds} | {adversarial}" in settings
        else:  # of the seeds that soft training has, too, as the difference is
            change = float(gain.partition(" ")[0].replace("\N{MINUS SIGN}", "-"))
            assert float(soft) - float(adversarial) == pytest.approx(change, abs=0.011)
    assert len(rows) >= 4


def _is_in(run, title, eps, epochs):
    return (run.names.dataset_title, fraction(run.trial.eps), str(run.trial.epochs)) == (title, eps, epochs)


def test_the_answer_in_words_has_the_numbers_of_the_table():
    found = answer.answers()
    lines = re.split(r"^- ", answer.words(found), flags=re.MULTILINE)[1:]
    assert len(lines) == len({(it.dataset, it.epochs) for it in found})
    for it in found:
        (line,) = [line for line in lines if line.startswith(f"{it.dataset}, {it.epochs} epochs: ")]
        natural, adversarial, _ = it.means
        clear = it.cost.low is not None and it.cost.low > 0
        assert clear or it.cost.low is None or "no clear cost" in line
        if clear or it.cost.low is None:
            assert f"{decimal(it.cost.mean, places=1)} " in line
        if it.cost.seeds == it.seeds:
            assert natural - adversarial == pytest.approx(it.cost.mean)
        if it.gain is not None and it.gain.low is not None and it.gain.low > 0 and clear:
            assert f"keeps {decimal(it.gain.mean, places=1)} of them" in line


def a_setting(
    *, cost: list[float], gain: list[float], eps: str = "4/255", certified: list[float] | None = None
) -> Answered:
    """Differences seed by seed, in points."""
    none = Answered(
        dataset="CIFAR-10", eps=eps, epochs=6, seeds=5, means=(None, None, None), cost=None, gain=None, under_pgd=None
    )
    made = {
        name: estimate(values, label="", unit="points") for name, values in (("cost", cost), ("gain", gain)) if values
    }
    beside = {"certified accuracy": estimate(certified, label="", unit="points")} if certified else {}
    return replace(none, **made, beside=beside)


COST = [10.0, 10.2, 9.8]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            [a_setting(cost=COST, gain=[1.0, 1.2, 1.4])],
            "adversarial training costs 10.0 points of natural accuracy (+9.5 to +10.5). "
            "Soft training keeps 1.2 of them (+0.7 to +1.7).",
        ),
        (  # a price is told where its interval excludes zero
            [
                a_setting(cost=COST, gain=[1.0, 1.2, 1.4], certified=[-4.0, -4.2, -4.4]),
                a_setting(cost=COST, gain=[1.0, 1.2, 1.4], certified=[-4.0, 4.2, -4.4], eps="8/255"),
            ],
            "adversarial training costs 10.0 points of natural accuracy at ε 4/255 (+9.5 to +10.5) and 10.0 at ε 8/255 "
            "(+9.5 to +10.5). Soft training keeps 1.2 of them at ε 4/255 (+0.7 to +1.7) and keeps 1.2 of them at ε "
            "8/255 (+0.7 to +1.7). At ε 4/255 it has 4.2 points less certified accuracy (−4.7 to −3.7).",
        ),
        (
            [a_setting(cost=COST, gain=[-1.0, -1.2, -1.4])],
            "adversarial training costs 10.0 points of natural accuracy (+9.5 to +10.5). "
            "Soft training loses 1.2 more (−1.7 to −0.7).",
        ),
        (
            [a_setting(cost=COST, gain=[-1.0, 1.2]), a_setting(cost=[3.0], gain=[-2.0], eps="8/255")],
            "adversarial training costs 10.0 points of natural accuracy at ε 4/255 (+9.5 to +10.5) and ends 3.0 points "
            "below natural training at ε 8/255 (one seed, which decides nothing). Soft training shows no clear "
            "difference from it at ε 4/255 (two seeds: −13.9 to +14.1) and is 2.0 points behind at ε 8/255 (one "
            "seed, which decides nothing).",
        ),
        (
            [a_setting(cost=[0.1, -0.1], gain=[0.3, 0.4])],
            "adversarial training shows no clear cost in natural accuracy (two seeds: −1.3 to +1.3). "
            "Soft training shows no clear difference from it (two seeds: −0.3 to +1.0).",
        ),
        (  # two seeds that differ show neither a cost nor that there is none
            [
                a_setting(cost=[1.3, 2.0], gain=[2.0, 2.1, 2.2]),
                a_setting(cost=[-0.5], gain=[-2.0, -2.1, -2.2], eps="8/255"),
            ],
            "adversarial training ends 0.5 points above natural training at ε 8/255 (one seed, which decides nothing) "
            "and shows no clear cost in natural accuracy at ε 4/255 (two seeds: −2.8 to +6.1). Soft training is 2.1 "
            "points ahead at ε 4/255 (+1.9 to +2.3) and is 2.1 points behind at ε 8/255 (−2.3 to −1.9).",
        ),
        (
            [a_setting(cost=COST, gain=[]), a_setting(cost=[0.1, -0.1], gain=[], eps="8/255")],
            "adversarial training costs 10.0 points of natural accuracy at ε 4/255 (+9.5 to +10.5) and shows no clear "
            "cost in natural accuracy at ε 8/255 (two seeds: −1.3 to +1.3). Soft training has not finished.",
        ),
    ],
)
def test_the_answer_says_what_the_seeds_show(settings, said):
    assert " ".join(answer.words(settings).split()) == f"- CIFAR-10, 6 epochs: {said}"


def test_the_times_of_trials_are_those_of_the_records():
    rows = [row.split(" | ") for row in trial_times.table().splitlines()[2:]]
    (mnist,) = [told for setting, _, told in rows if setting == "| MNIST, ε 0.1"]
    assert re.fullmatch(r"natural \d+ min, adversarial \d+ min, soft \d+ min \|", mnist)
    assert len(rows) == len({tuple(row[:2]) for row in rows})


def test_every_claim_of_the_paper_is_in_the_list_for_reviewers():
    ids = [claim.id for claim, _ in load_expectations(REFERENCE.parent / "paper.toml").claims]
    rows = claims().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ids
    assert any("*holds*" in row for row in rows)
    assert any("not run" in row for row in rows)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_report_shows_the_figures_of_the_documents(grid):
    groups = result_groups(read_entries(REFERENCE / grid))
    shown = [text for group in groups for row in group.rows for text in (*row.accuracies, row.autoattack)]
    assert all(text in table(grid) for text in shown)
    seeds = {row.seeds for group in groups for row in group.rows}
    assert any("±" in text for text in shown) or seeds == {"1"}


@pytest.mark.parametrize("page", sorted(set(PAGE_OF.values())))
def test_the_figures_of_the_results_are_there(page):
    text = (ROOT / page).read_text()
    named = [part.split(")")[0] for part in text.split("](")[1:]]
    assert named
    for name in named:
        assert (ROOT / "docs" / name).exists(), name
