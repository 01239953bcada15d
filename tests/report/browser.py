"""Debian's Chromium, headless, asked over a pipe; nothing leaves the machine."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any

CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
PATIENCE = 600.0  # seconds for an answer: a busy machine is slow to start a browser

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


@dataclass(frozen=True)
class Seen:
    """What happened while a page was open, and what it looks like."""

    errors: list[str]  # console errors and warnings, uncaught exceptions, failed requests
    requests: list[str]  # other than for the page itself and data: URIs
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
        self.ask("Emulation.setDeviceMetricsOverride", session=session, width=width, height=800, deviceScaleFactor=1,
                 mobile=False)  # fmt: skip
        self.ask("Emulation.setEmulatedMedia", session=session, media=media,
                 features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
        # On a busy machine the window may not have the focus yet.
        self.ask("Emulation.setFocusEmulationEnabled", session=session, enabled=True)
        self.ask("Page.navigate", session=session, url=page.as_uri())
        self._wait_for("Page.loadEventFired", session)
        scroll_width = self.value(session, "document.scrollingElement.scrollWidth")
        return session, Seen(self._errors(), self._requests(page), scroll_width)

    def value(self, session: str, expression: str) -> Any:
        """What a JavaScript expression comes to."""
        answer = self.ask(
            "Runtime.evaluate", session=session, expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")  # undefined has none

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
