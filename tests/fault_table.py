"""One table of what the tests of faults did and what was lost, at the end of a run. Knows no fault.

A test adds a row when it has counted and before it judges, so that a failure is in it, too.
"""

from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Row:
    """What was done, how often, and what came of it."""

    number: int = 0
    lost: int = 0
    seen: str = ""


class Table:
    """The rows of a run, by fault and by what was done."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}

    def add(self, fault: str, done: str, number: int, lost: int, seen: str = "") -> None:
        """Count a fault; what is done again is counted to the same row."""
        row = self._rows.setdefault((fault, done), Row())
        row.number += number
        row.lost += lost
        row.seen = seen

    def plain(self) -> list[tuple[str, str, int, int, str]]:
        """Return what `add` would take."""
        return [(*key, row.number, row.lost, row.seen) for key, row in self._rows.items()]

    def lines(self) -> list[str]:
        """Write it down."""
        if not self._rows:
            return []
        cells = [("fault", "what was done", "times", "lost", "seen")]
        for (fault, done), row in self._rows.items():
            cells.append((fault, done, f"{row.number:,}", f"{row.lost:,}", row.seen))
        first, second, *_ = (max(map(len, column)) for column in zip(*cells, strict=True))
        return [
            f"{fault:{first}}  {done:{second}}  {number:>6}  {lost:>4}  {seen}".rstrip()
            for fault, done, number, lost, seen in cells
        ]


TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin a table."""
    config.stash[TABLE] = Table()


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """Where tests add what they did and what was lost."""
    return pytestconfig.stash[TABLE]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand it on, if this is one of several processes that test side by side."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["faults"] = session.config.stash[TABLE].plain()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take in what one of those hands on."""
    for row in getattr(node, "workeroutput", {}).get("faults", ()):
        node.config.stash[TABLE].add(*row)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print it."""
    lines = terminalreporter.config.stash[TABLE].lines()
    if lines:
        terminalreporter.section("faults")
    for line in lines:
        terminalreporter.write_line(line)
