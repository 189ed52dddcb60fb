"""What a Dropbox account's calls met is among the metrics, each kind of limit apart."""

from collections.abc import Callable
from typing import Any

import pytest

from spoolway_server.clock import Clock
from tests.dropbox_emulator.scene import DropboxAccount, Fault, make_account
from tests.server.conftest import StartLab
from tests.server.test_metrics import ON, figure, scrape


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


@pytest.fixture
def storage_settings(account: DropboxAccount) -> Callable[[str], dict[str, Any]]:
    return lambda name: {"type": "dropbox", "login": account.login}


async def test_limits_are_counted_apart(start_lab: StartLab, account: DropboxAccount) -> None:
    """A rate limit and lock contention are two series, beside the calls by name."""
    lab = await start_lab(clock=Clock(), **ON)
    await lab.caller("robot").register("sim")
    account.fail(Fault.TOO_MANY_WRITES_409, "files/upload", times=2)
    await lab.caller("alice").submit()
    account.fail(Fault.TOO_MANY_REQUESTS, "files/upload", seconds=1)
    await lab.caller("alice").submit()

    figures = await scrape(lab)

    def count(event: str) -> float:
        return figure(figures, "provider_events_total", storage="main", event=event)

    assert (count("too_many_requests"), count("too_many_write_operations")) == (1, 2)
    assert count("upload") >= 4
