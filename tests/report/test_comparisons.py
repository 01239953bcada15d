"""Soft training against the others: the answer's sentence, the bars, the sensitivity table."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from softadv.claims.decision import Rule
from softadv.claims.judge import Claim, Expectations
from softadv.claims.rules.methods import Comparable, Gain
from softadv.claims.selection import Required
from softadv.claims.stats import Estimate
from softadv.experiments.runs import read_entries
from softadv.experiments.spec import METHODS, Trial, load_grid
from softadv.experiments.spec_text import Series
from softadv.report.comparison_plots import comparison_groups
from softadv.report.comparisons import MethodComparison, compare_methods, comparisons, families
from softadv.report.intervals import amount_text, interval_plot, kind_of, shared_scale
from softadv.report.page import write_report
from softadv.report.sensitivity import sensitivities
from softadv.report.summary import answer
from tests.report.trials import finish, make_run, make_trial


def estimate(mean: float, *, spread: float | None = 0.5, claimed: tuple[float, float] | None = None) -> Estimate:
    low, high = (None, None) if spread is None else (mean - spread, mean + spread)
    seeds = 1 if spread is None else 5
    return Estimate(label="x", unit="points", seeds=seeds, mean=mean, low=low, high=high, claimed=claimed)


def comparison(natural: Estimate | None, adversarial: Estimate | None, *, title: str = "A") -> MethodComparison:
    return MethodComparison(
        trial=make_trial(), place=title, method="soft", over="adversarial", title="Soft − adversarial", natural=natural,
        adversarial=adversarial,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("natural", "begins"),
    [
        (
            estimate(1.5),
            "Yes: on A, after 2 epochs, soft adversarial training ends with 1.50 points more natural accuracy",
        ),
        (estimate(0.3), "Not shown: on A"),
        (
            estimate(-1.5),
            "No: on A, after 2 epochs, soft adversarial training ends with 1.50 points less natural accuracy",
        ),
        (estimate(1.5, spread=None), "One seed cannot tell: on A"),
        (
            estimate(0.001),
            "Not shown: on A, after 2 epochs, soft adversarial training ends with the same natural accuracy as",
        ),
    ],
)
def test_one_setting_is_answered_in_a_word_and_figures(natural: Estimate, begins: str) -> None:
    sentence = answer([comparison(natural, estimate(-0.25, spread=None if natural.low is None else 0.5))])
    assert sentence.startswith(begins)
    assert "0.25 points less adversarial accuracy" in sentence
    assert ("95% interval" in sentence) == (natural.low is not None)
    assert sentence.count(". ") == 0


@pytest.mark.parametrize(
    ("gains", "begins"),
    [
        ((1.5, 2.0), "Yes: after 2 epochs, in all 2 settings, soft adversarial training ends with more natural"),
        ((-1.5, -2.0), "No: after 2 epochs, in all 2 settings"),
        (
            (1.5, 0.1),
            "In 1 of 2 settings: after 2 epochs, soft training ends with more natural accuracy than adversarial "
            "training on A (+1.50 points); no clear difference on B (+0.10); its adversarial accuracy differs "
            "by −0.25 points.",
        ),
        (
            (-1.5, 0.1),
            "No: after 2 epochs, soft training ends with less natural accuracy than adversarial training on A (−1.50 ",
        ),
        (
            (0.1, 0.2),
            "Not shown: after 2 epochs, soft training ends with no clear difference on A (+0.10 points) and B (+0.20)",
        ),
    ],
)
def test_several_settings_are_counted(gains: tuple[float, float], begins: str) -> None:
    compared = [comparison(estimate(g), estimate(-0.25), title=t) for g, t in zip(gains, "AB", strict=True)]
    assert answer(compared).startswith(begins)


def test_a_setting_that_compares_nothing_yet_is_left_out() -> None:
    compared = [comparison(estimate(1.0), estimate(0.0)), comparison(None, None)]
    assert len(comparison_groups(compared[:1], {})) == 1
    assert comparison_groups(compared[1:], {}) == []


def test_epochs_are_told_where_all_have_as_many() -> None:
    one, other = (comparison(estimate(1.5), estimate(0.0), title=title) for title in "AB")
    longer = replace(other, trial=replace(other.trial, epochs=3))
    assert answer([one, longer]).startswith("Yes: in all 2 settings, soft")


def test_a_data_set_is_named_once_for_all_its_radii() -> None:
    places = [f"CIFAR-10 at ε {count}/255" for count in (2, 4, 8)]
    gains = (0.1, 1.5, 2.0)
    compared = [comparison(estimate(g), estimate(-0.25), title=t) for g, t in zip(gains, places, strict=True)]
    assert "on CIFAR-10 at ε 4/255 (+1.50 points) and 8/255 (+2.00); no" in answer(compared)


def test_what_was_not_run_is_not_answered() -> None:
    assert answer([]).startswith("Not answered yet")
    assert answer([comparison(None, None)]).startswith("Not answered yet")


WORDS = {"a": "Digits, ε 0.1", "b": "Digits, ε 0.2"}


def test_a_plot_has_an_axis_zero_the_interval_and_the_claimed_range() -> None:
    infinite = float("inf")
    found = [
        replace(estimate(1.0, claimed=(0.0, infinite)), label="a: natural accuracy, soft - adversarial"),
        replace(estimate(3.0, spread=None), label="b: natural accuracy, soft - adversarial"),
    ]
    limits = shared_scale(found)
    assert limits[0] < 0
    assert limits[1] > 3
    drawn = ElementTree.fromstring(interval_plot(found, limits=limits, words=WORDS))
    texts = [text.text for text in drawn.iter("text")]
    heading, *rest = texts
    assert heading == "Natural accuracy, soft − adversarial"  # once for both
    assert rest[:4] == ["Digits, ε 0.1", "+1.00", "Digits, ε 0.2", "+3.00"]
    assert rest[4:] == ["0 points", "+1", "+2", "+3"]
    said = [title.text for title in drawn.iter("title")]
    assert said == [
        "Digits, ε 0.1: +1.00 points (+0.50 to +1.50), 5 seeds",
        "Digits, ε 0.2: +3.00 points, 1 seed",
    ]
    (claimed,) = [rect for rect in drawn.iter("rect") if rect.get("class") == "claimed"]
    zero = next(line for line in drawn.iter("line") if "zero" in line.get("class", ""))
    assert float(claimed.get("x", 0)) == float(zero.get("x1", 0))
    assert float(claimed.get("x", 0)) + float(claimed.get("width", 0)) == 340  # to the edge: it has no end
    points = [float(point.get("cx", 0)) for point in drawn.iter("circle")]
    assert float(zero.get("x1", 0)) < points[0] < points[1] < 340
    assert len([path for path in drawn.iter("path") if path.get("class") == "range"]) == 1  # one seed has no interval


def test_an_estimate_without_width_has_a_place() -> None:
    found = Estimate(label="x", unit="%", seeds=5, mean=0.0, low=0.0, high=0.0, claimed=(-float("inf"), 0.0))
    drawn = ElementTree.fromstring(interval_plot([found], limits=shared_scale([found]), words={}))
    (point,) = drawn.iter("circle")
    assert float(point.get("cx", 0)) == 170
    assert amount_text(found) == "0.00% (0.00 to 0.00), 5 seeds"


def test_what_is_on_one_scale_is_of_one_kind() -> None:
    labels = {
        "a: natural accuracy, soft - adversarial": ("points", "methods"),
        "b: accuracy under AutoAttack, soft - adversarial": ("points", "methods"),
        "a to b: adversarial accuracy, soft": ("points", "radii"),
        "a: verified test images, deeppoly - box": ("points", "domains"),
    }
    for label, kind in labels.items():
        assert kind_of(replace(estimate(1.0), label=label)) == kind
    found = replace(estimate(1.0), label="a to b: adversarial accuracy, soft")
    assert "Digits, ε 0.1 to 0.2: +1.00" in interval_plot([found], limits=(-2, 2), words=WORDS)


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("sensitivity", ["mnist-eps0.1", "cifar10-eps4"]),
        ("sensitivity-short", ["mnist-eps0.1-5epochs", "cifar10-eps4-short"]),
    ],
)
def test_the_packaged_sensitivity_grids_have_two_bases(name: str, bases: list[str]) -> None:
    found = families([Series(trial=trial) for trial in load_grid(name).trials])
    assert [family.base.trial.setting for family in found] == bases
    assert [len(family.variations) for family in found] == [8, 9]


def test_the_paper_grid_has_no_variations() -> None:
    runs = [Series(trial=trial) for trial in load_grid("paper").trials]
    assert not any(family.variations for family in families(runs))


@pytest.fixture
def varied(tmp_path: Path) -> Path:
    """A base setting with all methods, a variation with two, and one that only soft training knows of."""
    base = [make_trial(method, seed=seed) for method in METHODS for seed in (0, 1, 2)]
    sgd = [replace(trial, setting="digits-sgd", optimizer="sgd") for trial in base if trial.method != "natural"]
    once = [replace(trial, setting="digits-split5", split_every=5) for trial in base if trial.method == "soft"]
    for trial in [*base, *sgd, *once]:
        finish(make_run(tmp_path, trial))
    return tmp_path


def set_natural(folder: Path, trial: Trial, accuracy: float) -> None:
    entry = next(entry for entry in read_entries(folder) if entry.name == trial.name)
    assert entry.result is not None
    entry.folder.write_result(replace(entry.result, natural_accuracy=accuracy))


def test_differences_are_paired_by_seed(varied: Path) -> None:
    for seed, gain in ((0, 0.01), (1, 0.02), (2, 0.03)):
        set_natural(varied, make_trial("adversarial", seed=seed), 0.5 + 0.1 * seed)
        set_natural(varied, make_trial("soft", seed=seed), 0.5 + 0.1 * seed + gain)
    natural = compare_methods(read_entries(varied), Series(trial=make_trial())).natural
    assert natural is not None
    assert (natural.mean, natural.seeds) == (pytest.approx(2.0), 3)
    assert natural.low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5)  # t for 2 degrees of freedom


@pytest.mark.parametrize(
    ("epochs", "images", "why"),
    [(1, "f", "run with epochs 1 and 2"), (2, "0", "run on different digits images")],
)
def test_trials_that_are_no_comparison_are_not_subtracted_and_the_page_says_why(
    tmp_path: Path, epochs: int, images: str, why: str
) -> None:
    for seed in (0, 1):
        finish(make_run(tmp_path, make_trial("adversarial", seed=seed)))
        run = make_run(tmp_path, replace(make_trial("soft", seed=seed), epochs=epochs), epochs=epochs)
        finish(run)
        result = run.result()
        assert result is not None
        run.write_result(replace(result, data_fingerprint=images * 64))
    compared = comparisons(read_entries(tmp_path))
    assert [(found.natural, found.adversarial) for found in compared] == [(None, None)]
    assert answer(compared).endswith("no seed has finished both soft and adversarial training, run alike.")
    page = write_report(tmp_path, verdicts=(), title="t", command="c").read_text()
    assert f"its methods are not compared, {why}." in page


def test_the_base_does_not_stand_in_for_trials_of_other_images(varied: Path) -> None:
    for seed in range(3):
        entry = next(e for e in read_entries(varied) if e.name == f"digits-split5-soft-seed{seed}")
        assert entry.result is not None
        entry.folder.write_result(replace(entry.result, data_fingerprint="0" * 64))
    (table,) = sensitivities(read_entries(varied))
    assert [row.natural is None for row in table.rows] == [False, False, True]


def test_variations_name_what_differs_and_soft_only_ones_borrow_the_base(varied: Path) -> None:
    (table,) = sensitivities(read_entries(varied))
    assert [(row.setting, row.changes, row.borrowed) for row in table.rows] == [
        ("digits-a", "", False),
        ("digits-sgd", "optimizer: sgd", False),
        ("digits-split5", "split every: 5", True),
    ]
    assert all(row.natural is not None and row.natural.estimate.seeds == 3 for row in table.rows)


def claims(*rules: Rule) -> Expectations:
    """The rules as claims 0, 1, …"""
    return Expectations(
        [(Claim(id=str(number), title="t", source="s", kind="paper"), rule) for number, rule in enumerate(rules)], {}
    )


def judged_gain(**other: Any) -> Gain:
    keys = {"figure": "natural_accuracy", "method": "soft", "over": "adversarial", "above": 1.0, "below": 2.5} | other
    return Gain(settings=["digits-a", "digits-elsewhere"], **keys)  # in one of which nothing was run


def set_gains(folder: Path, **gains: float) -> None:
    """Natural accuracy: one half, and as much more after soft training in these settings."""
    for trial in [entry.trial for entry in read_entries(folder) if entry.result and entry.trial]:
        gained = gains[trial.setting.removeprefix("digits-")] if trial.method == "soft" else 0.0
        set_natural(folder, trial, 0.5 + gained)


def test_each_variation_is_asked_what_the_claims_ask_of_its_base(varied: Path) -> None:
    alike = Comparable(settings=["digits-a"], figures=["adversarial_accuracy"], margin=2.0)
    elsewhere = Comparable(settings=["digits-b"], figures=["natural_accuracy"], margin=99.0)
    asked = claims(elsewhere, judged_gain(over="natural"), judged_gain(), alike)
    set_gains(varied, a=0.02, sgd=0.04, split5=0.02)
    (table,) = sensitivities(read_entries(varied), [asked])
    assert table.asked == (
        "as in claim 2, each setting by itself: +1 to +2.5 points",
        "as in claim 3, each setting by itself: −2 to +2 points",
    )
    answers = [(row.natural and row.natural.answer, row.adversarial and row.adversarial.answer) for row in table.rows]
    assert answers == [("holds", "holds"), ("fails", "holds"), ("holds", "holds")]
    assert table.told == "A verdict changes with optimizer: sgd. No verdict changes with split every: 5."


def test_what_settles_nothing_is_not_said_to_change_a_verdict(varied: Path) -> None:
    set_gains(varied, a=0.02, sgd=0.04, split5=0.02)
    for seed in (0, 1):  # one seed of SGD is left
        shutil.rmtree(varied / f"digits-sgd-soft-seed{seed}")
    (table,) = sensitivities(read_entries(varied), [claims(judged_gain())])
    assert table.told == "No verdict changes with split every: 5. Not decided: optimizer: sgd."
    for seed in (0, 1):
        shutil.rmtree(varied / f"digits-a-soft-seed{seed}")
    (table,) = sensitivities(read_entries(varied), [claims(judged_gain())])
    assert table.told == "The first row is not decided, so that nothing is told of the choices."


def test_nothing_is_asked_of_settings_that_do_not_count(varied: Path) -> None:
    base = make_trial()
    counts = Required(
        dataset=base.dataset, eps=base.eps, alpha=base.alpha, steps=base.steps, epochs=base.epochs, domain=base.domain
    )
    for required, asked in ((counts, True), (replace(counts, epochs=base.epochs + 1), False)):
        expected = Expectations(claims(judged_gain()).claims, {"digits-a": required})
        (table,) = sensitivities(read_entries(varied), [expected])
        assert bool(table.asked[0]) is asked
        assert bool(table.told) is asked
    assert all(row.natural and row.natural.answer is None for row in table.rows)


def test_a_difference_at_the_edge_is_judged_as_in_the_claims(varied: Path) -> None:
    set_gains(varied, a=0.01, sgd=0.01, split5=0.01)  # 100 * (0.51 - 0.5) is more than 1 before it is rounded
    (table,) = sensitivities(read_entries(varied), [claims(judged_gain())])
    assert [row.natural and row.natural.answer for row in table.rows] == ["inconclusive"] * 3
