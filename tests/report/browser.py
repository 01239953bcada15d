"""Debian's Chromium, headless, through Playwright; nothing leaves the machine."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
PATIENCE = 600_000.0  # milliseconds for an answer: a busy machine is slow to start a browser


@dataclass(frozen=True)
class Seen:
    """What happened while a page was opened, and how wide it came out."""

    errors: list[str]  # console messages, uncaught exceptions, failed requests
    requests: list[str]  # other than for the page itself and data: URIs
    scroll_width: int


class Browser(ExitStack):
    """A headless Chromium with one tab; ends with the `with` block."""

    def __init__(self, *, home: Path) -> None:
        super().__init__()
        self._chromium = self.enter_context(sync_playwright()).chromium.launch(
            executable_path=CHROMIUM,
            chromium_sandbox=os.geteuid() != 0,  # root has no sandbox to give away
            args=[
                "--host-resolver-rules=MAP * ~NOTFOUND"
            ],  # a page that asks for a host gets none, and the request is seen
            env=os.environ | {"HOME": str(home)},
            timeout=PATIENCE,
        )
        self.callback(self._chromium.close)

    def open(
        self,
        page: Path,
        *,
        width: int,
        scheme: Literal["light", "dark"] = "light",
        media: Literal["screen", "print"] = "screen",
    ) -> tuple[Page, Seen]:
        """Open a page in a new tab of this width, in place of the last one."""
        for context in self._chromium.contexts:
            context.close()
        tab = self._chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        tab.set_default_timeout(PATIENCE)
        tab.emulate_media(media=media)
        errors: list[str] = []
        requests: list[str] = []
        tab.on("console", lambda message: errors.append(message.text))
        tab.on("pageerror", lambda error: errors.append(f"Uncaught {error}"))
        tab.on("requestfailed", lambda request: errors.append(f"{request.url}: {request.failure}"))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri())
        scroll_width = tab.evaluate("document.scrollingElement.scrollWidth")
        others = [url for url in requests if url != page.as_uri() and not url.startswith("data:")]
        return tab, Seen(errors, others, scroll_width)


def complaints(tab: Page) -> list[str]:
    """What axe-core finds hard to read or to use, in words."""
    violations = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:99]} {node['failureSummary']}"
        for violation in violations
        for node in violation["nodes"][:3]
    ]
