"""What a run of tests says at its end of those that need a real account: none is left out in silence."""

import pytest
from _pytest.terminal import TerminalReporter

from tests.dropbox_account import MISSING


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Say that the live tests were not run, and what they need."""
    if MISSING and "not live" in config.option.markexpr:
        terminalreporter.write_line(
            f"not run: tests/providers/test_dropbox_live.py needs a Dropbox account; set {', '.join(MISSING)}"
        )
