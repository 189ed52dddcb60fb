"""Dropbox's limits are obeyed, and its slowness stays its own."""

import asyncio
import threading
from time import monotonic

import pytest

from spoolway_providers.errors import LoginRefused, Unavailable
from spoolway_providers.model import Job
from tests.dropbox_emulator.scene import (
    DropboxAccount,
    Fault,
    make_account,
    opened,
    staged_scene,
    until,
)

JSON_AND_TEXT = [Fault.TOO_MANY_REQUESTS, Fault.TOO_MANY_REQUESTS_TEXT]


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


@pytest.mark.parametrize("fault", JSON_AND_TEXT)
async def test_rate_limit_is_waited_out_in_silence(account: DropboxAccount, fault: Fault) -> None:
    """After 429 with Retry-After no call at all is made before that time, and then the write is done."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        account.fail(fault, "files/upload_session/finish_batch_v2", seconds=1)
        started_at = monotonic()
        submitting = [asyncio.create_task(scene.submit()) for _ in range(3)]
        await asyncio.sleep(0.3)
        account.calls(forget=True)
        await asyncio.sleep(0.5)
        meanwhile = account.calls()
        jobs = await asyncio.gather(*submitting)

        assert meanwhile.total() == 0
        assert monotonic() - started_at >= 1.0
        assert len({job.key for job in jobs}) == 3
        assert provider.counters["too_many_requests"] == 1
        assert provider.counters["too_many_write_operations"] == 0


async def test_long_rate_limit_fails_fast(account: DropboxAccount) -> None:
    """Where Dropbox wants silence for long, callers are told at once, and for how long."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        account.fail(Fault.TOO_MANY_REQUESTS, "files/upload", seconds=90)
        started_at = monotonic()
        with pytest.raises(Unavailable) as caught:
            await provider.submit([scene.draft()])
        with pytest.raises(Unavailable):
            await provider.submit([scene.draft()])

        assert monotonic() - started_at < 2
        assert caught.value.retry_after.total_seconds() >= 60


@pytest.mark.parametrize("fault", [Fault.TOO_MANY_WRITES, Fault.TOO_MANY_WRITES_409])
@pytest.mark.parametrize("route", ["files/upload", "files/move_v2", "files/upload_session/finish_batch_v2"])
async def test_lock_contention_is_tried_again(account: DropboxAccount, fault: Fault, route: str) -> None:
    """too_many_write_operations, with 429 or 409, is no rate limit: tried again soon, and counted apart."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        account.fail(fault, route, times=2)
        jobs = await provider.submit([scene.draft() for _ in range(3)])
        await scene.submit()
        claimed = await scene.claim(1)

        assert [job.key for job in claimed] == [jobs[0].key] if isinstance(jobs[0], Job) else []
        assert provider.counters["too_many_write_operations"] == 2
        assert provider.counters["too_many_requests"] == 0


async def test_one_writer_at_a_time(account: DropboxAccount) -> None:
    """However many jobs come at once, the namespace sees one write at a time."""
    async with opened(account, renew_every_s=0.2) as provider:
        scene = await staged_scene(provider)
        account.set(write_hold_s=0.01)
        account.calls(forget=True)
        await asyncio.gather(*(scene.submit(request_id=f"r-{n}") for n in range(30)))
        claimed = await asyncio.gather(*(scene.claim(3) for _ in range(10)))
        most = account.control()["most_writers"]

    assert sum(map(len, claimed)) == 30
    # The control call itself is one.
    assert most <= 2
    assert provider.counters["too_many_write_operations"] == 0


async def test_token_is_refreshed_once_for_all(account: DropboxAccount) -> None:
    """Many calls that find their token expired refresh it once between them."""
    async with opened(account) as provider:
        assert provider._calls is not None
        calls = provider._calls
        account.calls(forget=True)
        account.set(latency_s=0.05)
        account.control(expire_tokens=True)
        await asyncio.gather(*(calls.read(calls.client.metadata, f"/{n}") for n in range(16)))

        assert account.calls()["oauth2/token"] == 1


async def test_token_is_refreshed_before_it_ends(account: DropboxAccount) -> None:
    """A token that ends within minutes is not used any more."""
    account.set(token_life_s=200.0)
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        account.calls(forget=True)
        account.set(token_life_s=14_400.0)
        await scene.submit()
        await scene.submit()

        assert account.calls()["oauth2/token"] == 1


async def test_call_that_hangs_is_given_up_and_settled(account: DropboxAccount) -> None:
    """A call that Dropbox does not answer in time is looked after: it was done, and is not done twice."""
    async with opened(account, call_limit_s=0.3) as provider:
        scene = await staged_scene(provider)
        account.fail(Fault.SLOW, "files/upload", seconds=1.0, skip=1)
        job = await scene.submit()
        await asyncio.sleep(1.0)

        assert [one.key for one in await scene.claim(5)] == [job.key]
        assert provider.counters["lost_answers"] == 1


async def test_slow_dropbox_stalls_nobody_else(account: DropboxAccount) -> None:
    """While calls wait in their own threads, the event loop goes on, and the threads are bounded."""
    async with opened(account) as provider:
        assert provider._calls is not None
        calls = provider._calls
        account.set(latency_s=0.2)
        reading = [asyncio.create_task(calls.read(calls.client.metadata, f"/{n}")) for n in range(40)]
        longest_s = 0.0
        while not all(task.done() for task in reading):
            before = monotonic()
            await asyncio.sleep(0.005)
            longest_s = max(longest_s, monotonic() - before)
            names = [t.name for t in threading.enumerate() if t.name.startswith("dropbox-")]
            assert len([name for name in names if "longpoll" not in name]) <= 16 * 2

        assert longest_s < 0.15


async def test_a_longpoll_takes_no_thread_of_the_calls(account: DropboxAccount) -> None:
    """It lasts for minutes, in a pool of its own."""
    account.set(longpoll_scale=10.0)
    async with opened(account) as provider:
        assert provider._calls is not None
        calls = provider._calls
        await until(lambda: (calls._waiters._busy, calls._threads._busy) == (1, 0))


async def test_f19_refused_login_ends_nothing(account: DropboxAccount) -> None:
    """A login that is revoked while the server runs is an error of its calls; restored, all goes on."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        await scene.submit()
        account.control(expire_tokens=True)
        account.set(app_secret="another")
        for attempt in (scene.claim(), provider.submit([scene.draft()])):
            with pytest.raises(LoginRefused):
                await attempt
        account.set(app_secret="secret")

        assert len(await scene.claim()) == 1
