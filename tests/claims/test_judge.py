"""The files of expected results, and verdicts from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from softadv.claims.judge import Claim, judge, load_expectations
from softadv.claims.rules.kinds import DomainTotals, ExportParity
from softadv.claims.rules.methods import Comparable
from softadv.errors import SoftadvError
from softadv.experiments.expected import expected_folder
from softadv.experiments.spec import load_grid, packaged_grids
from tests.finished import a_run, finished

CLAIM = """
[[claim]]
id = "a"
title = "t"
source = "s"
rule = "verified-at-most"
settings = ["s"]
share = 0.5
"""


def test_the_paper_makes_ten_claims_each_with_its_section_some_of_two_parts() -> None:
    claims = [claim for claim, _ in load_expectations(expected_folder() / "paper.toml").claims]
    apart = [claim.id for claim in claims if "-" not in claim.id]
    assert apart == [str(number) for number in range(1, 11)]
    assert {claim.id.removesuffix("-mnist").removesuffix("-scalability") for claim in claims} == set(apart)
    assert len({claim.id for claim in claims}) == len(claims)
    assert all(claim.source.startswith("section") for claim in claims)


def test_a_claim_is_of_the_kind_that_its_file_says_whatever_its_source(tmp_path: Path) -> None:
    kinds = {
        path.stem: {c.kind for c, _ in load_expectations(path).claims} for path in expected_folder().glob("*.toml")
    }
    assert kinds["paper"] == {"paper"}
    assert {name for name, kind in kinds.items() if kind == {"short"}} == {n for n in kinds if n.endswith("-short")}
    assert kinds["smoke"] == {"check"}
    text = CLAIM.replace('"s"\nrule', '"section 5"\nrule') + CLAIM.replace('id = "a"', 'id = "b"\nkind = "short"')
    for above, kind in (("", "own"), ('kind = "check"\n', "check")):
        (tmp_path / "e.toml").write_text(above + text)
        found = [claim.kind for claim, _ in load_expectations(tmp_path / "e.toml").claims]
        assert found == [kind, "short"]


@pytest.mark.parametrize("name", packaged_grids())
def test_a_grids_trials_are_what_its_claims_require(name: str) -> None:
    folder = expected_folder()
    files = [path for path in (folder / f"{name}.toml", folder / "paper.toml") if path.exists()]
    required = {key: value for path in files for key, value in load_expectations(path).required.items()}
    for trial in load_grid(name).trials:
        if not name.startswith(("sensitivity", "mnist-certified")):  # their variants are settings of no claim
            assert trial.setting in required
        if trial.setting in required:
            assert required[trial.setting].shortfall(trial) is None


def test_claims_speak_only_of_settings_that_say_what_they_require() -> None:
    for path in expected_folder().glob("*.toml"):
        expectations = load_expectations(path)
        for claim, rule in expectations.claims:
            named = [*getattr(rule, "settings", []), *([rule.setting] if hasattr(rule, "setting") else [])]
            assert set(named) <= expectations.required.keys(), claim.id


def test_every_packaged_grid_can_be_judged_and_nothing_holds_that_was_not_run() -> None:
    for grid in packaged_grids():
        verdicts = judge([], grid=grid, settings=(), expected=expected_folder())
        assert [v.claim.id for v in verdicts if v.outcome != "not run"] == ["1"]  # table 1 needs no run
        assert len({v.claim.id for v in verdicts}) == len(verdicts)


def test_a_grid_of_ones_own_is_judged_by_the_paper_where_it_has_a_setting_of_the_paper() -> None:
    paper = [claim for claim, _ in load_expectations(expected_folder() / "paper.toml").claims]
    none: list[Claim] = []
    for settings, claims in (({"flowers", "mnist-eps0.1"}, paper), ({"flowers"}, none), (set[str](), none)):
        verdicts = judge([], grid="mine", settings=settings, expected=expected_folder())
        assert [verdict.claim for verdict in verdicts] == claims


def test_a_grid_of_ones_own_is_judged_by_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "paper.toml").write_text(CLAIM)
    (tmp_path / "mine.toml").write_text(CLAIM.replace('id = "a"', 'id = "own"'))
    verdicts = judge([], grid="mine", settings={"s"}, expected=tmp_path)
    assert [verdict.claim.id for verdict in verdicts] == ["own"]


def test_short_runs_are_judged_under_ids_and_titles_of_their_own() -> None:
    full = load_expectations(expected_folder() / "paper.toml")
    told = {claim.id: rule for claim, rule in full.claims}
    for name in [grid for grid in packaged_grids() if grid.endswith("-short")]:
        short = load_expectations(expected_folder() / f"{name}.toml")
        assert short.claims
        assert not short.required.keys() & full.required.keys()
        epochs = {setting: required.epochs for setting, required in short.required.items()}
        for claim, rule in short.claims:
            number, _, suffix = claim.id.rpartition("-")
            its_settings = getattr(rule, "settings", [])
            (its_epochs,) = {epochs[setting] for setting in its_settings}
            (of,) = {full.required[setting].epochs for setting in getattr(told[number], "settings", [])}
            assert suffix in ("short", f"{its_epochs}epochs")
            assert claim.title.startswith(f"After {its_epochs} epochs, ")
            assert claim.source == f"as claim {number}, with {its_epochs} of {of} epochs"
            assert type(rule) is type(told[number])


DECIDED = {
    "mnist": "1 2 4-mnist 9 9-scalability",
    "cifar10": "1 3 4 5 6 8 10",
    "paper": "1 2 3 4 4-mnist 5 6 8 9 9-scalability 10",
    "paper-wide": "1 2 4-mnist 5-mnist 7 8-mnist 9 9-scalability 10-mnist",
    "paper-wide-short": "2-10epochs 4-mnist-10epochs 5-mnist-10epochs 7-10epochs 8-mnist-10epochs 9-10epochs "
    "9-scalability-10epochs 10-mnist-10epochs 1",
    "paper-short": "3-short 4-short 5-short 8-short 10-short 1",
    "sensitivity": "1 2 4-mnist",  # by its settings that vary nothing
    "sensitivity-short": "2-5epochs 4-mnist-5epochs 3-6epochs 4-6epochs 1",
}


@pytest.mark.parametrize("name", DECIDED)
def test_which_claims_a_grid_decides(name: str) -> None:
    runs = [
        finished(
            trial,
            natural=0.9,
            adversarial=0.6 - trial.eps + trial.seed / 100,
            verified=round(90 * (1 - trial.eps)),
            certified={domain: (30 - 10 * place, 1.0) for place, domain in enumerate(trial.certified_domains)},
        )
        for trial in load_grid(name).trials
        if trial.seed < 2
    ]
    settings = {run.result.trial.setting for run in runs}
    verdicts = judge(runs, grid=name, settings=settings, expected=expected_folder())
    decided = [verdict for verdict in verdicts if verdict.outcome != "not run"]
    assert " ".join(verdict.claim.id for verdict in decided) == DECIDED[name]
    assert all(verdict.estimates and "2 seeds" in verdict.reason for verdict in decided if verdict.claim.id != "1")
    # What is not decided says what lacks.
    lacking = [verdict.reason for verdict in verdicts if verdict.outcome == "not run"]
    assert all("no finished" in reason or "certified no test images" in reason for reason in lacking)


def test_what_the_smoke_grid_gives_is_never_inconclusive() -> None:
    # Two seeds settle no comparison of means. What the figures are is the reference's to say.
    for claim, rule in load_expectations(expected_folder() / "smoke.toml").claims:
        assert isinstance(rule, DomainTotals | ExportParity), claim.id


@pytest.mark.parametrize(
    ("verified", "outcome"),
    [((50, 50), "holds"), ((51, 51), "fails"), ((49, 51), "inconclusive"), ((10,), "inconclusive"), ((), "not run")],
)
def test_a_verdict_has_its_outcome_its_figures_and_its_sentence(
    tmp_path: Path, verified: tuple[int, ...], outcome: str
) -> None:
    (tmp_path / "e.toml").write_text(CLAIM)
    runs = [a_run(verified=count, seed=seed) for seed, count in enumerate(verified)]
    (verdict,) = load_expectations(tmp_path / "e.toml").verdicts(runs)
    assert verdict.outcome == outcome
    assert [(e.seeds, e.mean) for e in verdict.estimates] == ([(len(runs), sum(verified) / len(runs))] if runs else [])
    assert f"{sum(verified) / len(runs):.2f}%" in verdict.reason if runs else "no finished soft run" in verdict.reason


def test_lists_may_be_left_out_where_a_rule_has_a_default(tmp_path: Path) -> None:
    text = CLAIM.replace("verified-at-most", "comparable").replace(
        "share = 0.5", 'figures = ["natural_accuracy"]\nmargin = 1'
    )
    (tmp_path / "e.toml").write_text(text)
    ((_, rule),) = load_expectations(tmp_path / "e.toml").claims
    assert isinstance(rule, Comparable)
    assert rule.beside == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", "not valid TOML"),
        (CLAIM.replace("verified-at-most", "guess"), "claim a: unknown rule 'guess'"),
        (CLAIM.replace("share = 0.5", ""), "claim a: share is missing"),
        (CLAIM.replace("share = 0.5", "share = '0.5'"), "claim a: share: expected a number, got '0.5'"),
        (CLAIM.replace('["s"]', '"s"'), "claim a: settings: expected a list, got 's'"),
        (CLAIM + "shar = 1", "claim a: unknown key 'shar'"),
        ("kind = 'ours'" + CLAIM, "claim a: kind: unknown value 'ours', expected 'paper', 'short'"),
        ("kind = 3" + CLAIM, "claim a: kind: unknown value 3, expected 'paper', 'short'"),
        (CLAIM.replace('title = "t"', ""), "claim a: title is missing"),
        (CLAIM.replace('["s"]', "[]"), "claim a: settings: at least 1 needed"),
        ("[settings]\nx = 3", r"settings\.x: expected a table, got 3"),
        ("[claim]\nid = 'a'", r"claim: expected \[\[claim\]\] tables"),
        ("[settings.x]\ndataset = 'mnist'", r"settings\.x: eps is missing"),
        (CLAIM.replace("[[claim]]", "[[claims]]"), "unknown key 'claims'; known are claim, kind, settings"),
        ("[setting.x]\ndataset = 'mnist'", "unknown key 'setting'"),
        ("[settings.x]\neps = 'much'", r"settings\.x: eps: expected a number"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "e.toml").write_text(text)
    with pytest.raises(SoftadvError, match=message) as caught:
        load_expectations(tmp_path / "e.toml")
    assert str(caught.value).startswith(str(tmp_path / "e.toml"))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SoftadvError, match=r"paper\.toml: cannot be read"):
        judge([], grid="smoke", settings=(), expected=tmp_path)
