"""What a grid's command ends with: in which order, how wide, and how much."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from softadv.claims.judge import Claim, ClaimKind, Outcome, Verdict, expectations_of
from softadv.claims.needed_grids import needed_grids
from softadv.cli import ending as module
from softadv.cli.ending import Ending, show_ending
from softadv.experiments.expected import expected_folder
from softadv.report.results_table import Group, MethodResults

LONG = "a claim that says so much of CIFAR-10, of MNIST and of every radius that no line of a terminal can hold it"


def verdict(name: str, outcome: Outcome, *, kind: ClaimKind = "paper", title: str = LONG) -> Verdict:
    claim = Claim(id=name, title=title, source="a file", kind=kind)
    return Verdict(claim=claim, outcome=outcome, reason=f"why {name} is so [95% interval]")


ROW = MethodResults(
    title="Adversarial", color="#D55E00", seeds="4 of 5", accuracies=("99.05 ± 0.09", "96.26 ± 0.12"),
    autoattack="95.38 ± 0.36", certified=("79.80 ± 4.05", "66.00 ± 4.05"),
)  # fmt: skip
ENDING = Ending(
    grid="mnist",
    folder=Path("runs/mnist"),
    answer="Yes: soft training keeps it.",
    groups=[Group(title="MNIST   ε: 0.1", images="", rows=(ROW, replace(ROW, title="Soft", seeds="5")))],
    attack="PGD",
    verdicts=[
        verdict("2", "holds"),
        verdict("9-scalability", "inconclusive"),
        verdict("reference mnist soft", "holds", kind="check"),
        verdict("s1", "holds", kind="check"),
        *(verdict(str(number), "not run") for number in range(10, 21)),
    ],
    needed=["paper"],
    report=Path("runs/mnist/report/index.html"),
    code=0,
)


def shown(ending: Ending, monkeypatch: pytest.MonkeyPatch, *, terminal: bool = False, **settings: object) -> str:
    stream = io.StringIO()
    screen = Console(file=stream, force_terminal=terminal, width=80, highlight=False, no_color=True)
    monkeypatch.setattr(module, "console", lambda *, log_width: screen if log_width == 80 else None)
    monkeypatch.setattr(module, "say", lambda line: stream.write(f"{line}\n"))
    show_ending(ending, **settings)  # type: ignore[arg-type]
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


def test_it_says_in_order_the_answer_accuracies_claims_checks_and_the_reports_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = shown(ENDING, monkeypatch)
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines == [
        "Yes: soft training keeps it.",
        "",
        "MNIST   ε: 0.1",
        "training      seeds       natural           PGD    AutoAttack     certified",
        "Adversarial  4 of 5  99.05 ± 0.09  96.26 ± 0.12  95.38 ± 0.36  79.80 ± 4.05",
        "Soft              5  99.05 ± 0.09  96.26 ± 0.12  95.38 ± 0.36  79.80 ± 4.05",
        "",
        "The paper's claims",
        "✓ holds         2              a claim that says so much of CIFAR-10, of MNIST …",
        "? inconclusive  9-scalability  a claim that says so much of CIFAR-10, of MNIST …",
        "11 not run: they need `paper`",
        "",
        "softadv's checks: 2 hold",
        "",
        "Report: runs/mnist/report/index.html",
    ]
    assert max(map(len, lines)) <= 80


def test_a_red_check_is_shown_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    red = verdict("reference mnist natural", "fails", kind="check", title="the reference")
    text = shown(replace(ENDING, verdicts=[*ENDING.verdicts, red]), monkeypatch)
    assert "softadv's checks: 2 hold, 1 fails\n✗ fails  reference mnist natural: the reference\n" in text
    assert "    why reference mnist natural is so [95% interval]" in text
    assert "why s1" not in text


@pytest.mark.parametrize("kind", ["short", "own"])
def test_claims_that_are_not_the_papers_stand_apart(kind: ClaimKind, monkeypatch: pytest.MonkeyPatch) -> None:
    other = [verdict("3-other", "fails", kind=kind), verdict("4-other", "not run", kind=kind)]
    text = shown(replace(ENDING, verdicts=[*ENDING.verdicts, *other]), monkeypatch)
    _, its_own = text.split("they need `paper`\n")
    assert re.match(
        r"\n(softadv's claims|.* after fewer epochs)\n✗ fails         3-other  a claim .*…\n1 not run\n", its_own
    )


def test_a_terminal_has_a_frame_and_a_log_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = set("─━│┃┌└╭╰┏┗╷╶")
    assert frames & set(shown(ENDING, monkeypatch, terminal=True))
    assert not frames & set(shown(ENDING, monkeypatch))


def test_verbose_gives_every_reason_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(shown(ENDING, monkeypatch, detail="verbose").split())
    assert text.count(LONG) == len(ENDING.verdicts)
    assert all(each.reason in text for each in ENDING.verdicts)


def test_quiet_says_the_answer_what_fails_and_where_the_report_is(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = verdict("3", "fails", title="it gains")
    text = shown(replace(ENDING, verdicts=[*ENDING.verdicts, failed]), monkeypatch, detail="quiet")
    assert text.splitlines() == [ENDING.answer, "✗ fails         3  it gains", "Report: runs/mnist/report/index.html"]


def test_json_is_one_object_with_verdicts_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads(shown(replace(ENDING, code=1), monkeypatch, detail="json"))
    assert (told["folder"], told["report"]) == ("runs/mnist", "runs/mnist/report/index.html")
    assert (told["grid"], told["exit_code"], told["answer"]) == ("mnist", 1, ENDING.answer)
    assert [(v["id"], v["kind"], v["outcome"]) for v in told["verdicts"][:3]] == [
        ("2", "paper", "holds"), ("9-scalability", "paper", "inconclusive"), ("reference mnist soft", "check", "holds"),
    ]  # fmt: skip


def test_many_settings_are_left_to_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [Group(title=f"setting {number}", images="", rows=(ROW,)) for number in range(11)]
    text = shown(replace(ENDING, groups=groups), monkeypatch)
    assert "setting 7" in text
    assert "setting 8" not in text
    assert "3 more settings are in the report." in text


def test_the_grids_that_claims_need_are_the_fewest() -> None:
    (paper,) = expectations_of("paper", (), expected_folder())
    claims = {claim.id: claim for claim, _ in paper.claims}
    assert needed_grids([claims["2"]], [paper]) == ["mnist"]
    assert needed_grids([claims["3"], claims["6"]], [paper]) == ["cifar10"]
    assert needed_grids([claims["2"], claims["3"]], [paper]) == ["paper"]
    assert needed_grids(list(claims.values()), [paper]) == ["paper", "paper-wide"]
