"""How fast it is where each call takes 100 ms, as over the internet; latency holds no lock there."""

import asyncio
from statistics import median
from time import monotonic

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import token_of
from spoolway_providers.model import Job
from tests.dropbox_emulator.scene import DropboxAccount, Timings, make_account, opened, staged_scene

CALL_S = 0.1
CREDIT = 50
LIVES = 150
MIN_LIVES_A_SECOND = 20
MAX_ASSIGNMENT_S = 0.4


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


async def test_idle_storage_assigns_soon(account: DropboxAccount) -> None:
    """From a submit's acknowledgement to the job in a spooler's hands: under 400 ms at the median."""
    async with opened(account, timings=Timings()) as provider:
        scene = await staged_scene(provider)
        account.set(latency_s=CALL_S)
        waits: list[float] = []
        for n in range(7):
            await scene.submit(request_id=f"r-{n}")
            acknowledged_at = monotonic()
            assert len(await scene.claim()) == 1
            waits.append(monotonic() - acknowledged_at)
        account.set(latency_s=0.0)

    assert median(waits) < MAX_ASSIGNMENT_S


async def test_many_lives_a_second(account: DropboxAccount) -> None:
    """With 50 jobs waiting and a spooler that takes 50 at once: at least 20 whole lives a second."""
    async with opened(account, timings=Timings()) as provider:
        scene = await staged_scene(provider)
        await provider.submit([scene.draft(request_id=f"r-{n}") for n in range(LIVES)])
        account.set(latency_s=CALL_S)
        started_at = monotonic()
        done = await _Spooler(scene).run(LIVES)
        elapsed_s = monotonic() - started_at
        account.set(latency_s=0.0)

    assert len({job.key for job in done}) == LIVES
    assert LIVES / elapsed_s >= MIN_LIVES_A_SECOND


class _Spooler:
    """Takes as many jobs as it has credit for, and ends each at once."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._credit = CREDIT
        self._freed = asyncio.Event()

    async def run(self, number: int) -> list[Job]:
        lives: list[asyncio.Task[Job]] = []
        while len(lives) < number:
            if not self._credit:
                self._freed.clear()
                await self._freed.wait()
            claimed = await self._scene.claim(self._credit)
            self._credit -= len(claimed)
            lives += [asyncio.create_task(self._live(job)) for job in claimed]
        return await asyncio.gather(*lives)

    async def _live(self, job: Job) -> Job:
        running = await self._scene.do(job, rules.Accept(token_of(job)))
        done = await self._scene.complete(running)
        self._credit += 1
        self._freed.set()
        return done
