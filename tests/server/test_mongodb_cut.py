"""The connection to MongoDB is cut in each phase of a job's life, in the worst moment: the answer is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from spoolway import Job, JobClient, JobState, RunningJob, Spooler
from spoolway_providers.interface import Change
from spoolway_providers.model import Outcome, State
from spoolway_providers.mongodb import MongoProvider
from spoolway_providers.mongodb.login import login_of
from spoolway_server import reaper
from spoolway_server.clock import Clock
from tests.providers.mongodb_server import DRIVERS_LEFTOVERS, Proxy, StandIn, leftovers, stand_in
from tests.server.conftest import StartLab
from tests.server.lab import Lab, eventually

__all__ = ["leftovers", "stand_in"]

pytestmark = [DRIVERS_LEFTOVERS, pytest.mark.usefixtures("leftovers")]

SHORT_S = 1.0
FULL_S = 10.0
RUN_S = 1.5
"""Longer than a few beats."""
PHASES = ("submit", "claim", "accept", "complete", "renew")


@pytest.fixture
async def proxy(stand_in: StandIn) -> AsyncIterator[Proxy]:
    """The way to the database."""
    async with Proxy(stand_in.port) as proxy:
        yield proxy


@pytest.fixture
async def storage_settings(stand_in: StandIn, proxy: Proxy) -> AsyncIterator[Callable[[str], dict[str, Any]]]:
    """A MongoDB behind the proxy."""
    async with stand_in.database() as name:
        yield lambda _: {"type": "mongodb", "uri": proxy.uri, "database": name}


class Cutter:
    """Cuts the connection when a provider is about to do something, once, and mends it some time later."""

    def __init__(self, proxy: Proxy, provider: Any, for_s: float) -> None:
        self._proxy = proxy
        self._provider = provider
        self._for_s = for_s
        self._mending: asyncio.Task[None] | None = None

    def at(self, phase: str) -> None:
        """Cut at the first command, at a claim at the second, which takes what the first has found."""
        match phase:
            case "submit":
                self._at("submit", lambda *_: True)
            case "claim":
                self._after_submit()
            case "accept":
                self._at("commit", lambda changes: _has(changes, State.RUNNING))
            case "complete":
                self._at("commit", lambda changes: _has(changes, State.DONE))
            case _:
                self._at("renew", lambda *_: True)

    async def mended(self) -> None:
        """Wait until the connection works again."""
        assert self._mending is not None
        await self._mending

    def _at(self, method: str, is_it: Callable[..., bool], number: int = 1) -> None:
        original = getattr(self._provider, method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._mending is None and is_it(*args):
                self._proxy.break_at(number, after_it=True)
                self._mending = asyncio.create_task(self._mend())
            return await original(*args, **kwargs)

        setattr(self._provider, method, call)

    def _after_submit(self) -> None:
        submit = self._provider.submit

        async def call(*args: Any) -> Any:
            answers = await submit(*args)
            self._at("claim", lambda *_: True, number=2)
            self._provider.submit = submit
            return answers

        self._provider.submit = call

    async def _mend(self) -> None:
        while not self._proxy.is_dark:  # noqa: ASYNC110 - a proxy tells nobody
            await asyncio.sleep(0.005)
        await asyncio.sleep(self._for_s)
        self._proxy.heal()


def _has(changes: Sequence[Change], state: State) -> bool:
    return any(change.job.state is state for change in changes)


class Runs:
    """A device that counts its runs."""

    def __init__(self, run_s: float) -> None:
        self.count = 0
        self._run_s = run_s

    async def run(self, job: RunningJob) -> dict[str, Any]:
        self.count += 1
        await asyncio.sleep(self._run_s)
        return {"run": self.count}


async def one_job(lab: Lab, cutter: Cutter, phase: str, runs: Runs) -> Job:
    """A job from its submit to its end."""
    spooler = Spooler(
        "spooler", backend="sim", config={}, run=runs.run, address=lab.server.address, user="robot"
    )
    serving = asyncio.create_task(spooler.serve())
    try:
        async with JobClient(lab.server.address, user="alice") as client:
            await eventually(lambda: lab.storage().dispatcher("sim").waiting_places)
            cutter.at(phase)
            job = await client.submit("sim", {"shots": 1}, request_id="once", timeout=60)
            return await job.wait(timeout=60)
    finally:
        spooler.stop()
        await serving


async def check(start_lab: StartLab, proxy: Proxy, phase: str, cut_s: float, run_s: float) -> None:
    lab = await start_lab(clock=Clock(), leases={"ttl_s": 3, "heartbeat_interval_s": 0.3})
    runs = Runs(run_s)
    cutter = Cutter(proxy, lab.storage().provider, cut_s)

    async with asyncio.timeout(60):
        ended = await one_job(lab, cutter, phase, runs)
        await cutter.mended()

    [stored] = await lab.caller("alice").all_jobs()
    job = await lab.storage().provider.get(lab.key(stored.name))
    assert ended.state is JobState.DONE
    assert runs.count == 1
    assert [a.outcome for a in job.attempts if a.outcome is not Outcome.WITHDRAWN] == [Outcome.DONE]


@pytest.mark.parametrize("phase", PHASES)
async def test_f3_a_cut_connection_loses_and_doubles_nothing(
    start_lab: StartLab, proxy: Proxy, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut for longer than a call may last: the job is done, once, by one run."""

    def make(login: Any) -> MongoProvider:
        options = {"heartbeatFrequencyMS": 500}
        return MongoProvider(login_of(login), time_limit=timedelta(seconds=SHORT_S / 2), options=options)

    monkeypatch.setattr(MongoProvider, "from_login", make)
    monkeypatch.setattr(reaper, "CLAIM_PATIENCE_S", 2.0)
    await check(start_lab, proxy, phase, SHORT_S, RUN_S)


async def test_f3_ten_seconds_without_a_database_cost_no_run(start_lab: StartLab, proxy: Proxy) -> None:
    """Cut at a sign of life, for longer than the lease: what runs runs on, and its result counts."""
    await check(start_lab, proxy, "renew", FULL_S, FULL_S / 2)


@pytest.mark.fleet
@pytest.mark.parametrize("phase", PHASES)
async def test_f3_ten_seconds_in_each_phase(start_lab: StartLab, proxy: Proxy, phase: str) -> None:
    """The same as for the short cuts, with all times as they are."""
    await check(start_lab, proxy, phase, FULL_S, RUN_S)
