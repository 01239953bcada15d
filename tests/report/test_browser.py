"""The pages as a browser sees them: wide and narrow, light, dark and on paper."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page

from softadv.claims.judge import Claim, Expectations, Outcome, Verdict
from softadv.claims.rules.methods import Gain
from softadv.claims.stats import Estimate
from softadv.cli.finish import verdicts_on, write_grid_page
from softadv.experiments.expected import expected_folder
from softadv.experiments.records import Autoattacked
from softadv.experiments.reference import REFERENCE
from softadv.experiments.runs import read_entries
from softadv.experiments.spec import METHODS, Trial
from softadv.report.page import write_report
from softadv.report.two_runs import write_comparison
from tests.report.browser import CHROMIUM, Browser, Seen, complaints
from tests.report.trials import finish, make_run, make_trial

PHONE, DESK, PAPER = 390, 1280, 680  # widths in CSS pixels; A4 within its margins
RIVALS = (
    *(f"trades(beta={beta})" for beta in (1, 3, 6)), *(f"fat(tau={tau})" for tau in (0, 1, 2)),
    "random", "confident", "survivors", "inverted", "adversarial(train_eps=4/255)",
)  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

# Texts of figures that reach beyond their figure, and whatever reaches beyond the page.
CUT = """[...document.querySelectorAll('svg.figure text, main *, header *')].filter(it => {
    const box = it.getBoundingClientRect();
    const room = it.matches('text') ? it.closest('svg').getBoundingClientRect() : {left: 0, right: innerWidth};
    return box.width > 0 && (box.left < room.left - 1 || box.right > room.right + 1 ||
        it.matches('text') && (box.top < room.top - 1 || box.bottom > room.bottom + 1));
}).map(it => it.tagName + ': ' + it.textContent.trim().slice(0, 60))"""
# What scrolls sideways within the page.
SCROLLS = """[...document.querySelectorAll('main *, header *')].filter(it =>
    it.scrollWidth > it.clientWidth + 1 && ['auto', 'scroll'].includes(getComputedStyle(it).overflowX)
).map(it => it.tagName + '.' + it.className)"""
# Every symbol with its value: the text that they are in, and in how many lines the two are.
SYMBOLS = """(() => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
    while (texts.nextNode()) {
        const node = texts.currentNode, range = document.createRange();
        if (node.parentElement.closest('script, style, svg') || !node.parentElement.checkVisibility()) continue;
        for (const match of node.textContent.matchAll(/[εατβ]\\s[\\d/.]+/g)) {
            range.setStart(node, match.index);
            range.setEnd(node, match.index + match[0].length);
            found.push([node.textContent, range.getClientRects().length]);
        }
    }
    return found;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(home=tmp_path_factory.mktemp("chromium")) as found:
        yield found


def estimate(mean: float, *, spread: float | None = 0.5, claimed: tuple[float, float] | None = None) -> Estimate:
    low, high = (None, None) if spread is None else (mean - spread, mean + spread)
    label = "digits-a: natural accuracy, soft - adversarial"
    seeds = 1 if spread is None else 5
    return Estimate(label=label, unit="points", seeds=seeds, mean=mean, low=low, high=high, claimed=claimed)


def verdict(outcome: Outcome, *estimates: Estimate) -> Verdict:
    claim = Claim(
        id=outcome, title="Soft training improves natural accuracy, not considerably", source="section 5", kind="paper"
    )
    return Verdict(claim=claim, outcome=outcome, reason="natural accuracy: digits-a +1.60 points", estimates=estimates)


VERDICTS = [
    verdict("holds", estimate(1.6, claimed=(1.0, 2.5)), estimate(0.7, spread=None, claimed=(0.0, float("inf")))),
    verdict("inconclusive", estimate(-0.2, claimed=(-2.0, 2.0))),
    verdict("fails", estimate(-3.0, claimed=(float("-inf"), -4.0))),
    verdict("not run"),
]


def complete(folder: Path, trials: Sequence[Trial]) -> None:
    """Finish these trials, with AutoAttack; every method lies elsewhere on the plane."""
    for trial in trials:
        run = make_run(folder, trial)
        finish(run)
        result = run.result()
        assert result is not None
        place = [*METHODS, *RIVALS].index(trial.method) if trial.method in (*METHODS, *RIVALS) else 0
        natural = 0.92 - 0.02 * place + 0.004 * trial.seed
        attacked = Autoattacked(images=100, correct=48 + 2 * (place % 7) + trial.seed, seconds=9.0)
        run.write_result(replace(result, autoattack=attacked, natural_accuracy=natural))
    assert {entry.state for entry in read_entries(folder)} == {"finished"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a report can show: seeds, radii, rivals, variations, trials that failed or are not finished."""
    folder = tmp_path_factory.mktemp("grid")
    complete(folder, [make_trial(method, seed=seed) for method in (*METHODS, *RIVALS) for seed in (0, 1)])
    once = make_trial(setting="digits-a-once-certified-and-never-again")
    complete(folder, [replace(once, epochs=2, natural_epochs=1, split_every=50, optimizer="sgd", lr=0.01)])
    complete(folder, [make_trial("natural", eps=8 / 255, setting="digits-b")])
    make_run(folder, make_trial("soft", eps=8 / 255, setting="digits-b"), epochs=1)
    notice = "Evaluated from reference weights: nothing was trained."
    command = "./reproduce.sh smoke --seeds 2 --out runs/a-rather-long-name-of-a-folder"
    gain = Gain(settings=["digits-a"], figure="natural_accuracy", method="soft", over="adversarial", above=1.0)
    expected = [Expectations([(Claim(id="3", title="t", source="s", kind="paper"), gain)], {})]
    return write_report(folder, verdicts=VERDICTS, title="smoke", command=command, expected=expected, notice=notice)


@pytest.fixture(scope="module")
def paper_short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    expected = expected_folder()
    folder = expected / REFERENCE / "paper-short"
    entries = read_entries(folder)
    verdicts = verdicts_on(folder, entries, expected=expected)
    return write_grid_page(folder, entries, verdicts, expected=expected, out=tmp_path_factory.mktemp("paper-short"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for name, seeds in (("a", (0, 1)), ("b", (1, 2))):
        complete(folder / name, [make_trial(method, seed=seed) for method in METHODS for seed in seeds])
    complete(folder / "a", [make_trial("random")])
    return write_comparison(folder / "a", folder / "b", names=("a", "b"))


def check(tab: Page, seen: Seen, *, width: int) -> list[str]:
    """What is wrong with a page, in words."""
    wrong = [f"error: {error}" for error in seen.errors]
    wrong += [f"request: {url}" for url in seen.requests]
    if seen.scroll_width > width:
        wrong.append(f"{seen.scroll_width} pixels wide")
    wrong += [f"cut: {what}" for what in tab.evaluate(CUT)]
    wrong += [f"scrolls: {what}" for what in tab.evaluate(SCROLLS)]
    return wrong


def unfold(tab: Page) -> int:
    return tab.evaluate("[...document.querySelectorAll('details')].map(it => it.open = true).length")


@pytest.mark.parametrize("which", ["page", "compared"])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_opens_without_fault(
    browser: Browser, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    tab, seen = browser.open(request.getfixturevalue(which), width=width, scheme=scheme)
    assert check(tab, seen, width=width) == []
    unfold(tab)
    assert check(tab, seen, width=width) == []  # unfolded, too
    assert complaints(tab) == []
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(","))) / 3
    assert (light > 200) == (scheme == "light")


def test_the_first_screen_has_the_question_the_answer_and_the_picture(browser: Browser, paper_short: Path) -> None:
    tab, _ = browser.open(paper_short, width=DESK)
    bottoms = "['h1', '.answer', '.counts', 'header figure .drawn'].map(it => document.querySelector(it)"
    found = tab.evaluate(f"{bottoms}.getBoundingClientRect().bottom)")
    assert found == sorted(found)
    assert found[-1] <= 800
    line = "parseFloat(getComputedStyle(document.querySelector('.answer')).lineHeight)"
    assert tab.evaluate(f"Math.round(document.querySelector('.answer').offsetHeight / {line})") <= 2
    counts = tab.evaluate("document.querySelector('.counts').textContent")
    assert "The paper's claims 1 holds, 14 not run" in counts


@pytest.mark.parametrize("which", ["page", "paper_short", "compared"])
def test_no_line_breaks_between_a_symbol_and_its_value(
    browser: Browser, request: pytest.FixtureRequest, which: str
) -> None:
    tab, _ = browser.open(request.getfixturevalue(which), width=PHONE)
    unfold(tab)
    found = tab.evaluate(SYMBOLS)
    assert found
    assert [text for text, lines in found if lines > 1] == []


def test_a_figure_says_its_values(browser: Browser, page: Path) -> None:
    tab, _ = browser.open(page, width=DESK)
    said = "(tip => tip.hidden ? '' : tip.textContent)(document.getElementById('tip'))"
    panel = "document.querySelector('#accuracy svg[aria-label^=Natural]')"
    # From the keyboard: the figure in focus shows its last values, and the arrow keys go on from there.
    tab.evaluate(f"{panel}.focus({{focusVisible: true}})")
    assert "epoch 2" in tab.evaluate(said)
    key = "dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true}))"
    tab.evaluate(f"document.activeElement.{key}")
    assert "epoch 1" in tab.evaluate(said)
    tab.evaluate("document.activeElement.blur()")
    assert tab.evaluate(said) == ""
    pointed = f"{panel}.querySelector('.hit').dispatchEvent(new PointerEvent('pointerenter'))"
    assert tab.evaluate(f"{pointed}, {said}").startswith("Natural training, epoch 1: natural 80.00%")


def test_a_table_sorts_and_is_copied_as_csv(browser: Browser, page: Path) -> None:
    tab, _ = browser.open(page, width=DESK)
    table = "document.querySelector('#results table')"
    rows = list(csv.DictReader(tab.evaluate(f"csv({table})").splitlines()))
    assert [row["Method"] for row in rows if row["Seeds"] == "2"][:3] == ["Natural", "Adversarial", "Soft"]
    assert rows[0]["Setting"].startswith("Digits")
    assert set(rows[0]) >= {"Seeds", "Natural (%)", "PGD (%)", "AutoAttack (%)", "Certified, DeepPoly (%)"}
    sort = f"{table}.tHead.rows[0].cells[2].querySelector('button').click()"
    tab.evaluate(sort)
    first = [row for row in csv.DictReader(tab.evaluate(f"csv({table})").splitlines()) if row["Seeds"] == "2"]
    natural = [float(row["Natural (%)"].split()[0]) for row in first]
    assert natural == sorted(natural)
    assert len(natural) == len(METHODS) + len(RIVALS)
    assert tab.evaluate(f"{table}.tHead.rows[0].cells[2].ariaSort") == "ascending"
    right = f"[...{table}.querySelectorAll('th:not(:first-child), td:not(.lacking)')]"
    assert tab.evaluate(f"{right}.every(it => getComputedStyle(it).textAlign === 'right')")


def test_every_estimate_has_a_place_in_a_plot(browser: Browser, page: Path) -> None:
    tab, _ = browser.open(page, width=PHONE)
    count = sum(len(verdict.estimates) for verdict in VERDICTS)
    assert tab.evaluate("document.querySelectorAll('.claim .hit').length") == count
    sizes = tab.evaluate("[...document.querySelectorAll('.claim svg')].map(it => it.getBoundingClientRect().width)")
    assert len(sizes) == 3
    assert min(sizes) > 300


@pytest.mark.parametrize("which", ["page", "paper_short", "compared"])
@pytest.mark.parametrize("width", [PHONE, PAPER])
def test_a_page_fits_on_paper_of_any_width(
    browser: Browser, request: pytest.FixtureRequest, which: str, width: int
) -> None:
    tab, seen = browser.open(request.getfixturevalue(which), width=width, media="print")
    assert check(tab, seen, width=width) == []


def test_paper_is_black_on_white_and_has_the_commands(browser: Browser, page: Path) -> None:
    tab, _ = browser.open(page, width=PAPER, scheme="dark", media="print")
    colours = "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
    assert tab.evaluate(colours) == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    assert tab.evaluate("document.querySelector('nav').offsetHeight") == 0  # links lead nowhere on paper
    seen_on_paper = "it.checkVisibility({contentVisibilityAuto: true}) && it.getBoundingClientRect().height > 5"
    commands = f"[...document.querySelectorAll('.command > pre')].filter(it => {seen_on_paper}).length"
    assert tab.evaluate(commands) == len(list(page.parent.parent.glob("*/spec.json")))


def test_paper_short_takes_eight_pages_none_of_them_blank(browser: Browser, paper_short: Path) -> None:
    tab, _ = browser.open(paper_short, width=PAPER, media="print")
    shown = letters(tab.pdf(prefer_css_page_size=True, print_background=True))
    assert 0 < len(shown) <= 8
    assert min(shown) > 100, shown


def letters(pdf: bytes) -> list[int]:
    """How many glyphs each page of a PDF by Skia shows."""
    objects = dict(re.findall(rb"\n(\d+) 0 obj\n(.*?)\nendobj", pdf, re.DOTALL))
    counts = []
    for content in objects.values():
        drawn = re.search(rb"/Contents (\d+) 0 R", content)
        if drawn:
            stream = objects[drawn[1]].partition(b"stream\n")[2].rpartition(b"\nendstream")[0]
            text = zlib.decompress(stream)
            counts.append(sum(len(glyphs) // 4 for glyphs in re.findall(rb"<([0-9A-Fa-f]+)> ?T[jJ]", text)))
    return counts


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ('<img src="http://example.org/a.png" alt="theirs">', "request: http://example.org/a.png"),
        ("<script>throw new Error('no')</script>", "error: Uncaught"),
        ("<script>console.error('no')</script>", "error: "),
        ("<link rel='stylesheet' href='other.css'>", "request: file://"),
        ("<p style='width: 391px'>wide</p>", "pixels wide"),
        ("<svg class='figure' viewBox='0 0 50 20'><text x='40' y='10'>too long</text></svg>", "cut: text: too long"),
        ("<div style='overflow-x: auto; width: 99px'><p style='width: 199px'>x</p></div>", "scrolls: DIV"),
    ],
)
def test_a_fault_is_found(browser: Browser, page: Path, tmp_path: Path, addition: str, complaint: str) -> None:
    broken = tmp_path / "index.html"
    broken.write_text(page.read_text().replace("</main>", f"{addition}</main>"))
    tab, seen = browser.open(broken, width=PHONE)
    found = check(tab, seen, width=PHONE)
    assert any(complaint in text for text in found), found


def test_faint_text_is_found(browser: Browser, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "index.html"
    faint = "<p style='color: #aaa; background: #fff'>faint</p>"
    broken.write_text(page.read_text().replace("</main>", f"{faint}</main>"))
    tab, _ = browser.open(broken, width=DESK)
    found = complaints(tab)
    assert [text for text in found if text.startswith("color-contrast")], found
