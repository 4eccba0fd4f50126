"""Fixtures that many tests share. Time stands still and chance is seeded: a failure repeats."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from attested import World
from vectors_location import REASON, vectors
from verdicts import Verdict, table

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background: whatever the tests start would ignore Ctrl-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

VERDICTS = pytest.StashKey[list[tuple[str, str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--verdicts", action="store_true", help="print what was decided over each vector")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("verdicts"):
        terminalreporter.section("verdicts")
        for line in table(config.stash.get(VERDICTS, [])):
            terminalreporter.line(line)


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Verdict:
    """Notes what was decided over a vector."""

    def note(vector: str, expected: str, decided: str) -> None:
        request.config.stash.setdefault(VERDICTS, []).append((vector, expected, decided))

    return note


@pytest.fixture
def world() -> World:
    """A fresh simulated infrastructure with one enclave."""
    return World()


@pytest.fixture
def shared_vectors() -> Path:
    """The folder of shared vectors; skips the test where there is none."""
    folder = vectors()
    if folder is None:
        pytest.skip(REASON)
    return folder
