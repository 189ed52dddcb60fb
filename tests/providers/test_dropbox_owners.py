"""One server owns an account: the others say so, take over when it is gone, and it stops when it must."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance import ManualClock
from spoolway_providers.conformance.scene import BACKEND, token_of
from spoolway_providers.errors import Corrupt, NotOwner, Unavailable, Uncertain
from spoolway_providers.interface import Query
from spoolway_providers.model import State
from tests.dropbox_emulator.owner_process import TIMINGS
from tests.dropbox_emulator.scene import (
    DropboxAccount,
    Fault,
    ManualSeconds,
    kill,
    make_account,
    make_provider,
    opened,
    opened_after_crash,
    ownership,
    staged_scene,
    until,
)

ROOT = Path(__file__).parents[2]
OWNER = "/spoolway/owner.json"


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


def owner_of(account: DropboxAccount) -> dict[str, object]:
    document: dict[str, object] = json.loads(account.tree(OWNER)[OWNER])
    return document


class Process:
    """An owner in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def read(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            return (await self._process.stdout.readline()).decode().strip()

    async def read_until(self, word: str) -> None:
        while (line := await self.read()) != word:
            assert line, "it ended"

    async def do(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        return await self.read()

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def owner_process(account: DropboxAccount, address: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.dropbox_emulator.owner_process",
        account.refresh_token,
        address,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # else its pipes are closed too late


async def test_second_server_names_the_owner(account: DropboxAccount) -> None:
    """Of two servers one owns the account; the other says so with the owner's address, whatever is asked."""
    async with opened(account, address="lab-1:50061"):
        second = make_provider(account, address="lab-2:50061")
        with pytest.raises(NotOwner) as caught:
            await second.open()
        with pytest.raises(Unavailable):
            await second.backends()
        await second.close()

    assert caught.value.address == "lab-1:50061"


async def test_left_account_is_taken_at_once(account: DropboxAccount) -> None:
    """A server that was closed leaves the account, and the next one finds all as it was."""
    async with opened(account) as first:
        scene = await staged_scene(first)
        running = await scene.submit()
        running = await scene.claim_and_accept()
        await scene.submit()
        [claimed] = await scene.claim()
        queued = await scene.submit()
    async with opened(account) as second:
        assert (await second.find(Query())).jobs == [running, claimed, queued]


async def test_silent_owner_is_followed_after_its_time(account: DropboxAccount) -> None:
    """An owner that went without a word is waited for, 300 s by the successor's own clock; not less."""
    seconds = ManualSeconds()
    first = make_provider(account)
    await first.open()
    await kill(first)
    second = make_provider(account, monotonic=seconds)
    for waited_s in (0.0, 150.0, 149.0):
        seconds.now += waited_s
        with pytest.raises(NotOwner):
            await second.open()
    seconds.now += 2.0
    await second.open()
    await second.close()


async def test_renewing_owner_is_never_followed(account: DropboxAccount) -> None:
    """As long as the owner renews, nobody takes over, however long they wait."""
    seconds = ManualSeconds()
    async with opened(account) as first:
        second = make_provider(account, monotonic=seconds)
        for _ in range(4):
            with pytest.raises(NotOwner):
                await second.open()
            seconds.now += 299.0
            await first._office.tenure.ownership.renew()  # type: ignore[union-attr]
        await second.close()


async def test_process_that_is_gone_is_followed_at_once(account: DropboxAccount) -> None:
    """A killed owner on this very machine is known to be dead: its successor need not wait."""
    async with owner_process(account, "first") as process:
        await process.read_until("open")
        assert await process.do("submit r-1") == "QUEUED"
        await process.kill()
        async with opened(account) as second:
            scene = await staged_scene(second)
            assert len(await scene.claim(5)) == 1


async def test_owner_elsewhere_may_be_alive(account: DropboxAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process number says nothing about another machine, boot or container."""
    first = make_provider(account)
    await first.open()
    await kill(first)
    monkeypatch.setattr(ownership, "_start_of", lambda pid: None)
    monkeypatch.setattr(ownership, "_host", lambda: "elsewhere")
    second = make_provider(account)
    with pytest.raises(NotOwner):
        await second.open()
    await second.close()


async def test_owner_stops_writing_in_time(account: DropboxAccount) -> None:
    """180 s after its last confirmed renewal was sent an owner writes nothing, until one is confirmed."""
    seconds = ManualSeconds()
    async with opened(account, monotonic=seconds) as provider:
        scene = await staged_scene(provider)
        seconds.now += 179.0
        job = await scene.submit()
        [claimed] = await scene.claim()
        seconds.now += 2.0
        before = account.tree()
        assert isinstance(await self_or_error(scene.answer()), Unavailable)
        for attempt in (
            provider.claim(BACKEND, [scene.order()]),
            scene.do(claimed, rules.Accept(token_of(claimed))),
            provider.put_config("other", b"{}", None),
            provider.delete(job.key, 1),
            provider.renew(scene.session_id, 1),
        ):
            assert isinstance(await self_or_error(attempt), Unavailable)
        await asyncio.sleep(0.1)
        assert account.tree() == before

        assert provider._office is not None
        await provider._office.tenure.ownership.renew()
        assert (await scene.do(claimed, rules.Accept(token_of(claimed)))).state is State.RUNNING


async def self_or_error(attempt: object) -> object:
    try:
        return await attempt  # type: ignore[misc]
    except Exception as error:  # noqa: BLE001 - it is what the test looks at
        return error


async def test_renewal_whose_answer_is_lost_counts_from_its_sending(account: DropboxAccount) -> None:
    """A renewal that was done though its answer was lost is found, and counts from when it was sent."""
    seconds = ManualSeconds()
    async with opened(account, monotonic=seconds) as provider:
        assert provider._office is not None
        owner = provider._office.tenure.ownership
        seconds.now += 100.0
        account.fail(Fault.ANSWER_LOST, "files/upload")
        await owner.renew()
        seconds.now += 179.0
        owner.check()
        seconds.now += 2.0
        with pytest.raises(Unavailable):
            owner.check()
        await owner.renew()


async def test_paused_owner_writes_nothing_any_more(account: DropboxAccount) -> None:
    """An owner stopped beyond its time, and woken: another has taken over, and the first only says so."""
    async with AsyncExitStack() as processes:
        first = await processes.enter_async_context(owner_process(account, "first"))
        await first.read_until("open")
        second = await processes.enter_async_context(owner_process(account, "second"))
        assert await second.read() == "NotOwner"
        assert await first.do("submit r-1") == "QUEUED"
        assert await first.do("claim") == "CLAIMED"
        assert await first.do("submit r-2") == "QUEUED"
        first.send(signal.SIGSTOP)
        await second.read_until("open")
        assert await second.do("claim") == "CLAIMED"
        assert await second.do("submit r-3") == "QUEUED"
        before = _without_owner(account.tree())
        first.send(signal.SIGCONT)

        said = [await first.do(f"submit late-{n}") for n in range(3)]
        said.append(await first.do("accept"))
        await asyncio.sleep(2 * TIMINGS.renew_every_s)
        said.append(await first.do("submit later"))

        assert set(said) <= {"Unavailable", "NotOwner"}
        assert said[-1] == "NotOwner"
        assert _without_owner(account.tree()) == before
        assert owner_of(account)["address"] == "second"


def _without_owner(tree: dict[str, str]) -> dict[str, str]:
    return {path: text for path, text in tree.items() if path != OWNER}


async def test_loser_comes_back_when_the_owner_is_gone(account: DropboxAccount) -> None:
    """A server that lost the account stands by, and becomes the owner again once the other one has left."""
    first = make_provider(account, renew_every_s=0.05, address="first")
    await first.open()
    account.delete([OWNER])
    async with opened(account, address="second") as second:
        scene = await staged_scene(second)
        job = await scene.submit()
        await until(lambda: first._office is None)
        with pytest.raises(NotOwner) as caught:
            await first.backends()
    await until(lambda: first._office is not None)

    assert caught.value.address == "second"
    assert await first.get(job.key) == job
    await first.close()


async def test_takeover_keeps_every_job_once(account: DropboxAccount) -> None:
    """Jobs in all states survive an owner's sudden end: with their tokens, in their order, none twice."""
    first = make_provider(account)
    await first.open()
    scene = await staged_scene(first)
    await scene.submit()
    done = await scene.complete(await scene.claim_and_accept())
    await scene.submit()
    running = await scene.claim_and_accept()
    await scene.submit()
    [held] = await scene.claim()
    waiting = [await scene.submit() for _ in range(3)]
    await kill(first)

    async with opened_after_crash(account) as second:
        await second.repair()
        scene = await staged_scene(second)
        assert await second.get(done.key) == done
        assert await second.get(running.key) == running
        assert await second.get(held.key) == held
        assert [job.key for job in await scene.claim(10)] == [job.key for job in waiting]
        # Whoever ran on through the takeover delivers.
        assert (await scene.complete(running)).state is State.DONE


async def test_former_sessions_are_given_time(account: DropboxAccount) -> None:
    """After a takeover nothing counts as orphaned before its spooler could have come back with it."""
    seconds = ManualSeconds()
    async with opened(account) as first:
        scene = await staged_scene(first)
        await scene.submit()
        running = await scene.claim_and_accept()
    async with opened(account, monotonic=seconds, amnesty_s=60.0) as second:
        early = (await second.find(Query(orphaned=True))).jobs
        seconds.now += 59.0
        in_time = (await second.find(Query(orphaned=True))).jobs
        seconds.now += 2.0
        late = (await second.find(Query(orphaned=True))).jobs

    assert (early, in_time, late) == ([], [], [running])


async def test_claim_that_was_cut_off_is_nobodys(account: DropboxAccount) -> None:
    """A job that a dead owner had moved, but given to nobody yet, is the first to be claimed again."""
    first = make_provider(account, patience_s=0.1, place_after_s=600.0)
    await first.open()
    scene = await staged_scene(first)
    jobs = [await scene.submit() for _ in range(2)]
    account.fail(Fault.RESET, "files/upload", times=-1)
    with pytest.raises((Unavailable, Uncertain)):
        await scene.claim()
    await kill(first)
    account.heal()
    assert len(account.tree("/Backend_files/Running_Jobs")) == 1
    async with opened_after_crash(account) as second:
        scene = await staged_scene(second)
        assert [job.key for job in await scene.claim(5)] == [job.key for job in jobs]


async def test_ids_go_on_where_the_owner_before_stopped(account: DropboxAccount) -> None:
    """A clock that was set back at a takeover neither repeats an id nor lets a later job pass."""
    clock = ManualClock()
    async with opened(account, clock=clock) as first:
        scene = await staged_scene(first)
        early = [await scene.submit() for _ in range(3)]
    clock.advance(timedelta(hours=-2))
    async with opened(account, clock=clock) as second:
        scene = await staged_scene(second)
        late = [await scene.submit() for _ in range(3)]
        claimed = await scene.claim(10)

    assert [job.key for job in claimed] == [job.key for job in (*early, *late)]
    assert sorted(job.key.id for job in claimed) == [job.key.id for job in claimed]


async def test_newer_schema_is_refused(account: DropboxAccount) -> None:
    """An account that a newer version has written to is left alone."""
    account.put({OWNER: '{"schema": 99, "nonce": "x"}'})
    provider = make_provider(account)
    with pytest.raises(Corrupt, match="newer"):
        await provider.open()
    await provider.close()

    assert list(account.tree()) == [OWNER]
