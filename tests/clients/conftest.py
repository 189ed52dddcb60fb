"""A scripted server, and clients of it whose waits are short."""

from collections.abc import AsyncIterator

import pytest

from spoolway import JobClient
from spoolway.timing import Timing
from tests.clients.fake_server import FakeServer, fake_server

QUICK = Timing(
    connect_s=5,
    welcome_s=5,
    silence_margin_s=5,
    close_s=1,
    confirm_s=5,
    unary_after_s=0,
    unary_poll_s=0.01,
    unary_timeout_s=5,
    progress_s=0.01,
    drain_s=5,
    stop_s=1,
    reconnect_first_s=0.01,
    reconnect_longest_s=0.05,
    settled_s=10,
    resend_first_s=0.01,
    resend_longest_s=0.05,
    first_event_s=5,
    bookmark_s=5,
    wait_job_s=0.5,
)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """No test sees the settings of who runs it."""
    for name in ("ADDRESS", "TOKEN", "USER", "CA", "PROFILE"):
        monkeypatch.delenv(f"SPOOLWAY_{name}", raising=False)
    monkeypatch.setenv("SPOOLWAY_PROFILES_FILE", f"{tmp_path}/profiles.toml")


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with fake_server() as running:
        yield running


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[JobClient]:
    async with JobClient(server.address, user="ada") as opened:
        opened._timing = QUICK
        yield opened
