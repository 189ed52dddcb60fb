"""What a whole server asks of MongoDB while nothing happens, and to serve many that wait."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from spoolway_providers.mongodb import MongoProvider
from spoolway_providers.mongodb.login import login_of
from spoolway_providers.mongodb.wake import Pace
from spoolway_server import dispatcher, janitor, reaper, storage
from spoolway_server.clock import Clock
from tests.providers.mongodb_server import Commands, MongoServer, server, stand_in
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Lab

__all__ = ["server", "stand_in"]

MINUTE_S = 0.5
"""So long, where all that paces a server is shorter."""
MINUTES = 20
"""Two rounds of the reaper and of the janitor."""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """What servers of this test send."""
    seen = Commands()
    monkeypatch.setattr(
        MongoProvider, "from_login", lambda login: MongoProvider(login_of(login), listeners=[seen])
    )
    # The polls have backed off long ago.
    monkeypatch.setattr(dispatcher, "FIRST_POLL_S", storage.POLL_MAX_S)
    return seen


@pytest.fixture
def short_minutes(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that paces a server is shorter, in proportion."""
    scale = MINUTE_S / 60
    pace = Pace(stream_s=Pace().stream_s * scale, beneath_stream_s=Pace().beneath_stream_s * scale)
    monkeypatch.setattr("spoolway_providers.mongodb.provider.Pace", lambda: pace)
    for module, name in (
        (storage, "POLL_MAX_S"),
        (storage, "WATCH_POLL_S"),
        (dispatcher, "FIRST_POLL_S"),
        (janitor, "PERIOD_S"),
        (reaper, "QUIET_LOOK_S"),
        (reaper, "IDLE_LOOK_S"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name) * scale)
    # The janitor's period as it is on the average.
    monkeypatch.setattr(janitor, "random", SimpleNamespace(uniform=lambda *_: 1.0))


@pytest.fixture
async def database(server: MongoServer) -> AsyncIterator[str]:
    async with server.database() as name:
        yield name


@pytest.fixture
def storage_settings(server: MongoServer, database: str) -> Callable[[str], dict[str, Any]]:
    """A MongoDB that the servers of a test share."""
    return lambda _: {"type": "mongodb", "uri": server.uri, "database": database}


async def waiting_spoolers(lab: Lab, count: int, backends: Sequence[str]) -> list[FakeSpooler]:
    """Spoolers that wait for a job of one of the backends each, and a server that has become quiet."""
    for backend in backends:
        await lab.caller("robot").register(backend)
    spoolers = []
    for number in range(count):
        spooler = FakeSpooler(lab, f"spooler-{number}", backends=[backends[number % len(backends)]])
        await spooler.connect()
        await spooler.credit(1)
        spoolers.append(spooler)
    await asyncio.sleep(2 * MINUTE_S)
    return spoolers


@pytest.mark.usefixtures("short_minutes")
async def test_f15_an_idle_server_asks_six_times_a_minute(start_lab: StartLab, commands: Commands) -> None:
    """With a healthy stream, all told: stream, looks beneath it, polls of backends, reaper and janitor."""
    lab = await start_lab(clock=Clock())
    await waiting_spoolers(lab, 6, ["one", "two", "three"])

    commands.places.clear()
    await asyncio.sleep(MINUTES * MINUTE_S)
    kinds = Counter(commands.places)

    assert kinds.total() <= 6 * MINUTES, kinds
    # The reaper or the janitor was among them.
    assert kinds["aggregate sessions"] > 0


async def test_f15_a_job_by_itself_costs_at_most_eight(
    start_lab: StartLab, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From submit to DONE through the whole server: five of the job, and some that read backends."""
    monkeypatch.setattr(reaper, "BUSY_LOOK_S", 30.0)  # its looks are told apart: they are not of the job
    lab = await start_lab(clock=Clock())
    [spooler] = await waiting_spoolers(lab, 1, ["one"])
    before = Counter(commands.places)

    job = await lab.caller("alice").submit("one")
    await spooler.serve(1)
    spent = Counter(commands.places) - before

    assert (await lab.caller("alice").job(job.name)).HasField("end_time")
    assert spent["find jobs"] <= 2, spent
    assert sum(count for place, count in spent.items() if not place.startswith("getMore")) <= 8, spent


async def test_one_claim_round_serves_all_that_wait(start_lab: StartLab, commands: Commands) -> None:
    """Twelve spoolers wait on one backend: a job costs one look for all of them, or two if told twice."""
    lab = await start_lab(clock=Clock())
    await waiting_spoolers(lab, 12, ["one"])

    commands.places.clear()
    job = await lab.caller("alice").submit("one")
    await lab.caller("alice").until(job.name, "CLAIMED")

    assert Counter(commands.places)["aggregate backends"] <= 2


async def test_who_was_replaced_at_another_server_is_told(
    start_lab: StartLab, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change stream tells of it: nobody waits for the next look of a quiet server."""
    monkeypatch.setattr(reaper, "IDLE_LOOK_S", 0.5)
    one, other = [await start_lab(clock=Clock()) for _ in range(2)]
    await one.caller("robot").register("one")
    old = FakeSpooler(one, "spooler", "first", backends=["one"])
    await old.connect()
    await asyncio.sleep(MINUTE_S)

    await FakeSpooler(other, "spooler", "second", backends=["one"]).connect()

    assert (await old.next_of("goaway")).goaway.reason == "SESSION_REPLACED"
