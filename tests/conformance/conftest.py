"""Prints the table of the conformance run at the end of pytest's output."""

from __future__ import annotations

import pytest

from conformance import suite

RESULTS = pytest.StashKey[list[suite.Result]]()


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> list[suite.Result]:
    """Where the tests leave their results for the table."""
    return pytestconfig.stash.setdefault(RESULTS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(RESULTS, [])
    if found:
        terminalreporter.section("CPython's asyncio tests on noria")
        terminalreporter.write_line(suite.table(found))
