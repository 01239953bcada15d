"""The files of expected results, and verdicts from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from softadv.claims import expected_folder, judge, load_expectations
from softadv.errors import SoftadvError
from softadv.spec import load_grid, packaged_grids
from tests.test_rules import a_run

CLAIM = """
[[claim]]
id = "a"
title = "t"
source = "s"
rule = "verified-at-most"
settings = ["s"]
share = 0.5
"""


def test_the_paper_makes_ten_claims_each_with_its_section() -> None:
    claims = [claim for claim, _ in load_expectations(expected_folder() / "paper.toml").claims]
    assert [claim.id for claim in claims] == [str(number) for number in range(1, 11)]
    assert all(claim.source.startswith("section") for claim in claims)


def test_the_papers_settings_are_those_of_the_packaged_grid() -> None:
    required = load_expectations(expected_folder() / "paper.toml").required
    trials = load_grid("paper").trials
    assert {trial.setting for trial in trials} <= required.keys()
    for trial in trials:
        assert required[trial.setting].shortfall(trial) is None


def test_every_packaged_grid_can_be_judged_and_nothing_holds_that_was_not_run() -> None:
    for grid in packaged_grids():
        verdicts = judge([], grid=grid, expected=expected_folder())
        assert [v.claim.id for v in verdicts if v.outcome != "not run"] == ["1"]  # table 1 needs no run


def test_a_grid_without_a_file_of_its_own_is_judged_by_the_papers() -> None:
    assert len(judge([], grid="mine", expected=expected_folder())) == 10


@pytest.mark.parametrize(("verified", "outcome"), [(50, "holds"), (51, "fails")])
def test_a_verdict_has_its_outcome_and_its_figure(tmp_path: Path, verified: int, outcome: str) -> None:
    (tmp_path / "e.toml").write_text(CLAIM)
    (verdict,) = load_expectations(tmp_path / "e.toml").verdicts([a_run(verified=verified)])
    assert verdict.outcome == outcome
    assert f"{verified}.00%" in verdict.reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", "not valid TOML"),
        (CLAIM.replace("verified-at-most", "guess"), "claim a: unknown rule 'guess'"),
        (CLAIM.replace("share = 0.5", ""), "claim a: share is missing"),
        (CLAIM.replace("share = 0.5", "share = '0.5'"), "claim a: share: unexpected value '0.5'"),
        (CLAIM.replace('["s"]', '"s"'), "claim a: settings: unexpected value 's'"),
        (CLAIM + "shar = 1", "claim a: unknown key 'shar'"),
        (CLAIM.replace('title = "t"', ""), "claim a: title is missing"),
        ("[settings]\nx = 3", r"settings\.x: expected a table, got 3"),
        ("[claim]\nid = 'a'", r"claim: expected \[\[claim\]\] tables"),
        ("[settings.x]\ndataset = 'mnist'", r"settings\.x: eps is missing"),
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
        judge([], grid="smoke", expected=tmp_path)
