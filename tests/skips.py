"""A pytest plugin: skipped tests fail the run, but for those on a list (--allowed-skips FILE).

A line of the file is `TESTS | REASON`: a shell pattern for the tests' names, and words that the reason for skipping
contains. Empty lines and lines that begin with # say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Allowed:
    """A line of the list."""

    tests: str
    reason: str

    def covers(self, test: str, reason: str) -> bool:
        """Whether this test may be skipped for this reason."""
        return fnmatchcase(test, self.tests) and self.reason in reason


class Skips:
    """Gathers what is skipped. With pytest-xdist only the process that gathers the results has one."""

    def __init__(self, allowed: list[Allowed]) -> None:
        self._allowed = allowed
        self._others: dict[str, str] = {}  # what is skipped and not on the list, and why

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at a test's outcome; one that fails as expected counts as skipped to pytest, but not here."""
        if not hasattr(report, "wasxfail"):
            self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Look at a file's outcome, which may be skipped whole."""
        self._look(report)

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            if not any(allowed.covers(report.nodeid, reason) for allowed in self._allowed):
                self._others[report.nodeid] = reason.removeprefix("Skipped: ")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail a run that is otherwise green."""
        if self._others and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which, and why."""
        if self._others:
            terminalreporter.section("skipped, and not on the list of what may be", red=True)
            for test, reason in self._others.items():
                terminalreporter.write_line(f"{test}: {reason}")


def read_allowed(path: Path) -> list[Allowed]:
    """Read a list. Raises pytest.UsageError for a file that cannot be read, and a line that is none of it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise pytest.UsageError(f"--allowed-skips: {path} cannot be read ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        tests, _, reason = (part.strip() for part in line.partition("|"))
        if not (tests and reason):
            raise pytest.UsageError(f"--allowed-skips: {path}, line {number}: expected TESTS | REASON, got {line!r}")
        found.append(Allowed(tests, reason))
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that switches this on."""
    parser.addoption(
        "--allowed-skips", type=Path, metavar="FILE", help="fail if a test is skipped that is not on this list"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to gather, where the option is given."""
    path = config.getoption("--allowed-skips")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Skips(read_allowed(path)))
