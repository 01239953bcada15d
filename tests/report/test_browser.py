"""The report as a browser sees it: Debian's Chromium, headless, asked over a pipe; nothing leaves the machine."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from select import select
from typing import Any

import pytest

from softadv.claims.judge import Claim, Expectations, Outcome, Verdict
from softadv.claims.rules.methods import Gain
from softadv.claims.stats import Estimate
from softadv.experiments.records import Autoattacked
from softadv.experiments.spec import METHODS, Trial
from softadv.report.page import write_report
from tests.report.test_page import finish, make_run, make_trial

CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
PHONE, DESK, PAPER = 390, 1280, 680  # widths in CSS pixels; A4 within the margins of 15 mm
PATIENCE = 60.0  # seconds for an answer: a busy machine is slow to start a browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

# Puts the browser's ends of the two pipes where --remote-debugging-pipe looks for them, and becomes the browser.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little
    "--hide-scrollbars",  # as on a phone they take no room
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # a page that asks for a host gets none, and the request is seen
    *(("--no-sandbox",) if os.geteuid() == 0 else ()),  # root has no sandbox to give away
)

# The images of a page once they are decoded, or cannot be.
DRAWN = """Promise.all([...document.images].map(image => image.decode().catch(() => 0)))
    .then(() => [...document.images].map(image => ({width: image.naturalWidth, alt: image.alt})))"""


@dataclass(frozen=True)
class Seen:
    """What happened while a page was open, and what it looks like."""

    errors: list[str]  # console errors and warnings, uncaught exceptions, failed requests
    requests: list[str]  # other than for the page itself and data: URIs
    figures: list[dict[str, Any]]  # naturalWidth and alt of every image
    scroll_width: int


class Browser:
    """A headless Chromium, over the DevTools protocol: JSON messages that end in a zero byte, on two pipes."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        (to_it, self._write), (self._read, from_it) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_it, from_it)]  # clear of 3 and 4
        arguments = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, ends), *arguments],
            pass_fds=ends, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": str(profile)},
        )  # fmt: skip
        for end in (to_it, from_it, *ends):
            os.close(end)
        self._events: list[dict[str, Any]] = []
        self._received = b""
        self._tab = ""
        self._asked = 0

    def ask(self, method: str, *, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it are kept."""
        self._asked += 1
        message: dict[str, Any] = {"id": self._asked, "method": method, "params": parameters}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._asked:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer.get("result", {})

    def _wait_for(self, event: str, session: str) -> None:
        while not any((found.get("method"), found.get("sessionId")) == (event, session) for found in self._events):
            self._events.append(self._next())

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._received:
            ready, _, _ = select([self._read], [], [], max(until - time.monotonic(), 0))
            assert ready, f"no answer from Chromium in {PATIENCE:g} s"
            more = os.read(self._read, 1 << 16)
            assert more, f"Chromium ended, with exit code {self._process.wait(PATIENCE)}"
            self._received += more
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, *, width: int, scheme: str = "light", media: str = "screen") -> tuple[str, Seen]:
        """Open a page in a new tab of this width; returns the tab's session and what was seen."""
        if self._tab:
            self.ask("Target.closeTarget", targetId=self._tab)
        self._events = []
        self._tab = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=self._tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable", session=session)
        self.ask("Emulation.setDeviceMetricsOverride", session=session, width=width, height=844, deviceScaleFactor=1,
                 mobile=False)  # fmt: skip
        self.ask("Emulation.setEmulatedMedia", session=session, media=media,
                 features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
        self.ask("Page.navigate", session=session, url=page.as_uri())
        self._wait_for("Page.loadEventFired", session)
        figures = self.value(session, DRAWN)
        scroll_width = self.value(session, "document.scrollingElement.scrollWidth")
        return session, Seen(self._errors(), self._requests(page), figures, scroll_width)

    def value(self, session: str, expression: str) -> Any:
        """What a JavaScript expression comes to."""
        answer = self.ask(
            "Runtime.evaluate", session=session, expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"]["value"]

    def _of(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self._events if event.get("method") == method]

    def _errors(self) -> list[str]:
        return [
            *(json.dumps(event["args"]) for event in self._of("Runtime.consoleAPICalled")),
            *(event["exceptionDetails"]["text"] for event in self._of("Runtime.exceptionThrown")),
            *(event["entry"]["text"] for event in self._of("Log.entryAdded")),
            *(event["errorText"] for event in self._of("Network.loadingFailed")),
        ]

    def _requests(self, page: Path) -> list[str]:
        urls = [event["request"]["url"] for event in self._of("Network.requestWillBeSent")]
        return [url for url in urls if url != page.as_uri() and not url.startswith("data:")]

    def close(self) -> None:
        """End the browser."""
        try:
            self.ask("Browser.close")
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._write)
            os.close(self._read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


def estimate(mean: float, *, spread: float | None = 0.5, claimed: tuple[float, float] | None = None) -> Estimate:
    low, high = (None, None) if spread is None else (mean - spread, mean + spread)
    label = "digits-a: natural accuracy, soft - adversarial"
    seeds = 1 if spread is None else 5
    return Estimate(label=label, unit="points", seeds=seeds, mean=mean, low=low, high=high, claimed=claimed)


def verdict(outcome: Outcome, *estimates: Estimate) -> Verdict:
    claim = Claim(id=outcome, title="Soft training improves natural accuracy, not considerably", source="section 5")
    return Verdict(claim=claim, outcome=outcome, reason="natural accuracy: digits-a +1.60 points", estimates=estimates)


VERDICTS = [
    verdict("holds", estimate(1.6, claimed=(1.0, 2.5)), estimate(0.7, spread=None, claimed=(0.0, float("inf")))),
    verdict("inconclusive", estimate(-0.2, claimed=(-2.0, 2.0))),
    verdict("fails", estimate(-3.0, claimed=(float("-inf"), -4.0))),
    verdict("not run"),
]


def complete(folder: Path, trials: Sequence[Trial]) -> None:
    """Finish these trials, with AutoAttack."""
    for trial in trials:
        run = make_run(folder, trial)
        finish(run)
        result = run.result()
        assert result is not None
        run.write_result(replace(result, autoattack=Autoattacked(images=1000, correct=512, seconds=9.0)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a report can show: seeds, radii, variations, trials that failed or are not finished."""
    folder = tmp_path_factory.mktemp("grid")
    complete(folder, [make_trial(method, seed=seed) for method in METHODS for seed in (0, 1)])
    once = make_trial(setting="digits-a-once-certified-and-never-again")
    complete(folder, [replace(once, epochs=2, natural_epochs=1, split_every=50, optimizer="sgd", lr=0.01)])
    complete(folder, [make_trial("natural", eps=8 / 255, setting="digits-b")])
    make_run(folder, make_trial("soft", eps=8 / 255, setting="digits-b"), epochs=1)
    notice = "Evaluated from reference weights: nothing was trained."
    command = "./reproduce.sh smoke --seeds 2 --out runs/a-rather-long-name-of-a-folder"
    gain = Gain(settings=["digits-a"], figure="natural_accuracy", method="soft", over="adversarial", above=1.0)
    expected = [Expectations([(Claim(id="3", title="t", source="s"), gain)], {})]
    return write_report(folder, verdicts=VERDICTS, title="smoke", command=command, expected=expected, notice=notice)


def check(seen: Seen, *, width: int, figures: int) -> list[str]:
    """What is wrong with a page, in words."""
    wrong = [f"error: {error}" for error in seen.errors]
    wrong += [f"request: {url}" for url in seen.requests]
    wrong += [f"not drawn: {figure['alt']}" for figure in seen.figures if not figure["width"] > 0]
    if len(seen.figures) != figures:
        wrong.append(f"{len(seen.figures)} figures instead of {figures}")
    if seen.scroll_width > width:
        wrong.append(f"{seen.scroll_width} pixels wide")
    return wrong


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_without_fault(browser: Browser, page: Path, width: int, scheme: str) -> None:
    session, seen = browser.open(page, width=width, scheme=scheme)
    assert check(seen, width=width, figures=len(list(page.parent.glob("*.png")))) == []
    assert browser.value(session, "[...document.querySelectorAll('details')].map(d => d.open = true).length") > 0
    assert browser.value(session, "document.scrollingElement.scrollWidth") <= width  # unfolded, too
    paper = browser.value(session, "getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(","))) / 3
    assert (light > 200) == (scheme == "light")


def test_the_page_fits_on_paper_and_is_black_on_white(browser: Browser, page: Path) -> None:
    session, seen = browser.open(page, width=PAPER, scheme="dark", media="print")
    assert check(seen, width=PAPER, figures=len(list(page.parent.glob("*.png")))) == []
    colours = "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
    assert browser.value(session, colours) == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    assert browser.value(session, "document.querySelector('nav').offsetHeight") == 0  # links lead nowhere on paper


def test_every_estimate_has_a_bar(browser: Browser, page: Path) -> None:
    session, _ = browser.open(page, width=PHONE)
    count = sum(len(verdict.estimates) for verdict in VERDICTS)
    sizes = browser.value(
        session, "[...document.querySelectorAll('.estimates svg')].map(s => s.getBoundingClientRect().width)"
    )
    assert len(sizes) == count
    assert min(sizes) > 50


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ('<img src="http://example.org/a.png" alt="theirs">', "request: http://example.org/a.png"),
        ('<img src="data:image/png;base64,AAAA" alt="theirs">', "not drawn: theirs"),
        ("<script>throw new Error('no')</script>", "error: Uncaught"),
        ("<script>console.error('no')</script>", "error: "),
        ("<link rel='stylesheet' href='other.css'>", "request: file://"),
        ("<p style='width: 391px'>wide</p>", "pixels wide"),
    ],
)
def test_a_fault_is_found(browser: Browser, page: Path, tmp_path: Path, addition: str, complaint: str) -> None:
    broken = tmp_path / "index.html"
    broken.write_text(page.read_text().replace("</main>", f"{addition}</main>"))
    _, seen = browser.open(broken, width=PHONE)
    found = check(seen, width=PHONE, figures=len(list(page.parent.glob("*.png"))) + ("<img" in addition))
    assert any(complaint in text for text in found), found
