"""How many calls things cost, counted by the emulator."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import BACKEND, token_of
from spoolway_providers.interface import Query
from spoolway_providers.model import Job, State
from tests.dropbox_emulator.scene import (
    DropboxAccount,
    Timings,
    make_account,
    opened,
    staged_scene,
    until,
)

MAX_CALLS_A_JOB = 8
MAX_CALLS_A_JOB_IN_BATCHES = 3
MAX_IDLE_CALLS_A_MINUTE = 2
AS_SHIPPED = Timings(place_after_s=1.0)
"""But for the time until files of ended jobs are moved together, which the tests wait for."""


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


async def live(scene: Scene, request_id: str) -> Job:
    await scene.submit(request_id=request_id)
    return await scene.complete(await scene.claim_and_accept())


async def test_f15_one_jobs_life_is_few_calls(account: DropboxAccount) -> None:
    """From submit to its file among the finished ones, a job costs at most 8 calls; today it is 36."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        account.set(longpoll_scale=10.0)
        calls = account.calls(forget=True)
        await live(scene, "r-1")
        await until(lambda: account.tree("/Backend_files/Finished_Jobs"))
        calls = account.calls()

    looked = calls["files/list_folder/continue"] + calls["files/list_folder/longpoll"]
    assert calls.total() - looked <= MAX_CALLS_A_JOB


async def test_f15_jobs_one_by_one_are_few_calls(account: DropboxAccount) -> None:
    """The same for jobs one after the other, all that the owner does by itself included."""
    async with opened(account, timings=AS_SHIPPED) as provider:
        scene = await staged_scene(provider)
        account.calls(forget=True)
        for n in range(20):
            await live(scene, f"r-{n}")
        await until(lambda: len(account.tree("/Backend_files/Finished_Jobs")) == 20)
        calls = account.calls()

    assert calls.total() <= 20 * MAX_CALLS_A_JOB


@pytest.mark.parametrize("asynchronous", [False, True], ids=["at-once", "asynchronous"])
async def test_f15_batches_are_very_few_calls(account: DropboxAccount, asynchronous: bool) -> None:
    """50 jobs at a time cost at most 3 calls a job, also where Dropbox does batches in the background."""
    account.set(batches_are_async=asynchronous)
    async with opened(account, timings=AS_SHIPPED) as provider:
        scene = await staged_scene(provider)
        account.calls(forget=True)
        await provider.submit([scene.draft(request_id=f"r-{n}") for n in range(50)])
        claimed = await scene.claim(50)
        running = await asyncio.gather(*(scene.do(job, rules.Accept(token_of(job))) for job in claimed))
        await asyncio.gather(*(scene.complete(job) for job in running))
        await until(lambda: len(account.tree("/Backend_files/Finished_Jobs")) == 50)
        calls = account.calls()

    assert calls.total() <= 50 * MAX_CALLS_A_JOB_IN_BATCHES


async def test_f15_idle_costs_nearly_nothing(account: DropboxAccount) -> None:
    """While nothing happens, beside the owner's renewals there are at most 2 calls a minute; today 2,700."""
    minute_s = 0.5
    account.set(longpoll_scale=minute_s / 60)
    scaled = Timings(renew_every_s=minute_s, care_every_s=minute_s / 60, sync_every_s=minute_s / 2)
    async with opened(account, timings=scaled) as provider:
        scene = await staged_scene(provider)
        await live(scene, "r-1")
        await asyncio.sleep(2 * minute_s)
        renewals_before = account.calls(forget=True)["files/upload"]
        await asyncio.sleep(6 * minute_s)
        calls = account.calls()

    assert renewals_before > 0
    assert calls["files/upload"] >= 4
    assert calls.total() - calls["files/upload"] <= 6 * MAX_IDLE_CALLS_A_MINUTE


async def test_f15_asking_costs_nothing(account: DropboxAccount) -> None:
    """Looking for work, reading jobs, heartbeats, and progress of a running job, are no calls at all."""
    async with opened(account, progress_after_s=60.0) as provider:
        scene = await staged_scene(provider)
        job = await scene.submit(request_id="r-1")
        running = await scene.claim_and_accept()
        before = await _rest(account)
        for n in range(100):
            running = await scene.do(running, rules.Progress(token_of(running), fraction=n / 100))
            await provider.renew(scene.session_id, n)
            assert await provider.claim(BACKEND, [scene.order()]) == []
            await provider.get(job.key)
            await provider.find(Query(states=(State.RUNNING,)))
            await provider.backends()
            await provider.read_blob(job.content)
            await provider.wait(timedelta(0))
        after = account.calls()
        assert await scene.submit(request_id="r-1") == running

        assert after - before == {}
    assert account.calls()["files/upload"] > after["files/upload"]


async def _rest(account: DropboxAccount) -> Counter[str]:
    """The calls so far, once there are no more."""
    calls = account.calls()
    while True:
        await asyncio.sleep(0.3)
        if (now := account.calls()) == calls:
            return calls
        calls = now
