"""How processes on one MongoDB hear of each other, and that no change is left out."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from bson.int64 import Int64
from pymongo import AsyncMongoClient

from spoolway_providers import rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import BACKEND, session, token_of
from spoolway_providers.errors import CursorTooOld
from spoolway_providers.interface import Hints
from spoolway_providers.model import Job, JobKey, Session
from spoolway_providers.mongodb import MongoProvider, journal
from spoolway_providers.mongodb.numbers import number_span
from spoolway_providers.mongodb.wake import Pace
from tests.providers.mongodb_server import (
    DRIVERS_LEFTOVERS,
    MongoServer,
    StandIn,
    leftovers,
    lone_stand_in,
    server,
    stand_in,
)

__all__ = ["leftovers", "lone_stand_in", "server", "stand_in"]

pytestmark = [DRIVERS_LEFTOVERS, pytest.mark.usefixtures("leftovers")]

SOON = timedelta(seconds=10)
HERE = frozenset({BACKEND})
QUIET = timedelta(milliseconds=60)


class Pair:
    """Two processes on one database."""

    def __init__(self, server: MongoServer, name: str, pace: Pace | None) -> None:
        self.server = server
        self.name = name
        self.here = server.provider(name, pace=pace)
        self.there = server.provider(name)
        self.scene = Scene(self.there, "there")

    async def open(self) -> None:
        await self.here.open()
        await self.there.open()
        await self.scene.set_up()
        await self.quiet()

    async def close(self) -> None:
        await self.here.close()
        await self.there.close()

    async def quiet(self) -> None:
        """Take all hints until there is none."""
        while await self.here.wait(QUIET) is not None:
            pass

    async def hints(self) -> Hints:
        hints = await self.here.wait(SOON)
        assert hints is not None
        return hints


@pytest.fixture
async def pair(server: MongoServer) -> AsyncIterator[Pair]:
    async with server.database() as name:
        pair = Pair(server, name, None)
        await pair.open()
        yield pair
        await pair.close()


@pytest.fixture
async def lone_pair(lone_stand_in: StandIn) -> AsyncIterator[Pair]:
    async with lone_stand_in.database() as name:
        pair = Pair(lone_stand_in, name, Pace(first_look_s=0.05, last_look_s=0.4))
        await pair.open()
        yield pair
        await pair.close()


@pytest.fixture(params=["pair", "lone_pair"])
def any_pair(request: pytest.FixtureRequest) -> Pair:
    """With change streams, and without."""
    pair: Pair = request.getfixturevalue(request.param)
    return pair


async def test_hints_name_the_backend(any_pair: Pair) -> None:
    """A submit, a return to the queue and a batch by another process name the backend, a claim none."""
    await any_pair.scene.submit()
    submitted = await any_pair.hints()
    [job] = await any_pair.scene.claim()
    claimed = await any_pair.hints()
    await any_pair.scene.do(job, rules.Withdraw(token_of(job)))
    returned = await any_pair.hints()
    await any_pair.scene.provider.submit([any_pair.scene.draft() for _ in range(3)])
    batch = await any_pair.hints()

    assert [submitted.queued, claimed.queued, returned.queued, batch.queued] == [
        HERE,
        frozenset(),
        HERE,
        HERE,
    ]
    assert claimed.changed


async def test_own_change_is_told_once(any_pair: Pair) -> None:
    """What this process did itself is told at once, and not again by the storage."""
    await any_pair.here.submit([any_pair.scene.draft()])

    assert (await any_pair.hints()).queued == HERE
    assert await any_pair.here.wait(timedelta(milliseconds=500)) is None
    assert any_pair.here.missed_wakes == 0


async def test_resumed_backend_wakes_others(pair: Pair) -> None:
    """A policy or config that another process changes wakes, once; one's own is told once too."""
    await pair.scene.set_policy(paused=True)
    await pair.scene.provider.put_config(BACKEND, b"[1]", None)
    await pair.hints()
    await pair.quiet()
    await pair.scene.set_policy(paused=False)
    others = await pair.hints()
    await Scene(pair.here).set_policy(paused=True)
    own = await pair.hints()

    assert others.queued == own.queued == HERE
    assert await pair.here.wait(QUIET) is None


async def test_session_that_another_process_ends_wakes(pair: Pair) -> None:
    """Who has its stream hears of it; of other sessions, and of signs of life, nobody does."""
    await pair.there.open_session(session("mine", instance="first"))
    await pair.there.renew("mine", 1)
    await pair.there.close_session((await opened(pair.there, "other")).id, None, "STREAM_ENDED")
    without = await pair.here.wait(QUIET)
    await pair.there.open_session(session("theirs", instance="second"))

    assert without is None
    assert (await pair.hints()).changed


async def opened(provider: MongoProvider, session_id: str) -> Session:
    """A session of a spooler of its own."""
    new = session(session_id, spooler=session_id)
    await provider.open_session(new)
    return new


async def test_swept_request_id_is_no_change(pair: Pair) -> None:
    """What `repair` does to documents is not told as a change of a job."""
    job = await pair.scene.submit(request_id="r")
    await pair.quiet()
    async with AsyncMongoClient[dict[str, Any]](pair.server.uri) as client:
        await client[pair.name].jobs.update_one({"_id": job.key.id}, {"$unset": {"request": ""}})

    assert await pair.here.wait(QUIET) is None


async def test_missed_change_is_found_and_counted(
    server: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that the stream does not tell of is found by a look beneath it, and counted."""
    async with server.database() as name:
        pair = Pair(server, name, Pace(beneath_stream_s=0.1))
        await pair.open()
        monkeypatch.setattr(pair.here._wake, "_hear", lambda event: None)
        await pair.scene.submit()

        hints = await pair.hints()

        assert hints.queued == HERE
        assert hints.missed == pair.here.missed_wakes == 1
        await pair.close()


async def test_lost_history_asks_for_a_full_look(stand_in: StandIn) -> None:
    """If the stream's place is not known any more, everything may have happened; then it goes on."""
    async with stand_in.database() as name:
        pair = Pair(stand_in, name, Pace(stream_s=0.2))
        await pair.open()
        async with AsyncMongoClient[dict[str, Any]](stand_in.uri) as client:
            point = {"configureFailPoint": "failCommand"}
            data = {"failCommands": ["getMore"], "errorCode": 286, "errorLabels": []}
            await client.admin.command({**point, "mode": {"times": 1}, "data": data})

            lost = await pair.hints()

        assert lost.queued is None
        await pair.quiet()
        await pair.scene.submit()
        assert (await pair.hints()).queued == HERE
        await pair.close()


async def test_broken_stream_is_replaced_by_looks_and_comes_back(stand_in: StandIn) -> None:
    """While the stream can't be had, looks find what happens; then it is open again."""
    async with stand_in.database() as name:
        pair = Pair(stand_in, name, Pace(stream_s=0.2, first_look_s=0.05, last_look_s=0.2))
        await pair.open()
        async with AsyncMongoClient[dict[str, Any]](stand_in.uri) as client:
            point = {"configureFailPoint": "failCommand"}
            data = {"failCommands": ["getMore"], "errorCode": 8}
            await client.admin.command({**point, "mode": "alwaysOn", "data": data})
            await pair.hints()
            await pair.quiet()
            job = await pair.scene.submit()
            hints = await pair.hints()
            await client.admin.command({**point, "mode": "off"})

        assert hints.queued is None or BACKEND in hints.queued
        give_up_at = asyncio.get_running_loop().time() + 10
        while not pair.here._wake.is_streaming:
            assert asyncio.get_running_loop().time() < give_up_at
            await asyncio.sleep(0.05)
        await pair.quiet()
        await pair.scene.do(job, rules.Hold("operator"))
        assert (await pair.hints()).changed
        await pair.close()


async def _commit_late(pair: Pair, job: Job, behind: timedelta) -> None:
    """As a slow write does: its number is older than what others have read since."""
    number = pair.here._journal.number - number_span(behind)
    async with AsyncMongoClient[dict[str, Any]](pair.server.uri) as client:
        fields = {"rev": 7, "change": Int64(number), "commit": f"{BACKEND}/late"}
        await client[pair.name].jobs.update_one({"_id": job.key.id}, {"$set": fields})


async def _newer_changes(pair: Pair) -> tuple[Job, str]:
    """A job, and a cursor that is newer than its last change."""
    job = await pair.scene.submit()
    await pair.scene.submit()
    await pair.quiet()
    return job, (await pair.here.changes("")).cursor


async def test_slow_commit_is_found_by_the_next_look(any_pair: Pair) -> None:
    """A change that becomes visible after newer ones were read is read with the next, and once."""
    job, cursor = await _newer_changes(any_pair)
    await _commit_late(any_pair, job, timedelta(milliseconds=500))

    changes = await any_pair.here.changes(cursor)

    assert [late.key for late in changes.jobs] == [job.key]
    assert (await any_pair.here.changes(changes.cursor)).jobs == []


async def test_very_slow_commit_is_named_by_the_stream(pair: Pair) -> None:
    """A change beyond the usual overlap comes with the stream's word for it."""
    job, cursor = await _newer_changes(pair)
    pair.here._journal._looked_deep_at = float("inf")
    await _commit_late(pair, job, timedelta(hours=1))
    await pair.hints()

    assert [late.key for late in (await pair.here.changes(cursor)).jobs] == [job.key]


async def test_very_slow_commit_is_found_by_a_deep_look(lone_pair: Pair) -> None:
    """Without streams, a look that goes far back now and then finds it."""
    job, cursor = await _newer_changes(lone_pair)
    await _commit_late(lone_pair, job, timedelta(seconds=20))
    lone_pair.here._journal._looked_deep_at = 0.0

    assert [late.key for late in (await lone_pair.here.changes(cursor)).jobs] == [job.key]


async def _read_on(provider: MongoProvider, cursor: str, limit: int) -> tuple[set[JobKey], set[JobKey], str]:
    """All changes from a cursor on, in portions."""
    jobs: set[JobKey] = set()
    deleted: set[JobKey] = set()
    more = True
    while more:
        changes = await provider.changes(cursor, limit)
        assert len(changes.jobs) + len(changes.deleted) <= limit
        jobs |= {job.key for job in changes.jobs}
        deleted |= set(changes.deleted)
        cursor, more = changes.cursor, changes.more
    return jobs, deleted, cursor


@pytest.mark.parametrize("limit", [2, 100])
async def test_cursor_is_good_at_another_process(any_pair: Pair, limit: int) -> None:
    """A watcher who goes on at another process misses nothing, whatever that one has read itself."""
    ended = await any_pair.scene.submit_and_cancel()
    cursor = (await any_pair.here.changes("")).cursor
    submitted = {(await any_pair.scene.submit()).key for _ in range(5)}
    await any_pair.there.delete(ended.key, ended.revision)
    after_restart = any_pair.server.provider(any_pair.name)
    await after_restart.open()

    for provider in (any_pair.there, after_restart):
        jobs, deleted, newest = await _read_on(provider, cursor, limit)

        assert submitted <= jobs
        assert ended.key in deleted
        assert await _read_on(provider, newest, limit) == (set(), set(), newest)
    one_more = await any_pair.scene.submit()
    assert one_more.key in (await _read_on(after_restart, newest, limit))[0]
    await after_restart.close()


async def test_reading_goes_on_at_a_third_process(pair: Pair) -> None:
    """A reading in portions that moves to yet another process in between misses nothing."""
    cursor = (await pair.here.changes("")).cursor
    submitted = {(await pair.scene.submit()).key for _ in range(6)}
    first = await pair.there.changes(cursor, 2)
    third = pair.server.provider(pair.name)
    await third.open()

    jobs, _, _ = await _read_on(third, first.cursor, 2)

    assert first.more
    assert submitted <= jobs | {job.key for job in first.jobs}
    await third.close()


async def test_cursor_from_before_the_log_is_good(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process has forgotten of its own log it reads from the storage."""
    monkeypatch.setattr(journal, "_LONGEST_LOG", 3)
    cursor = (await pair.here.changes("")).cursor
    submitted = {(await pair.scene.submit()).key for _ in range(8)}
    await pair.here.changes("")

    jobs, _, _ = await _read_on(pair.here, cursor, 3)

    assert submitted <= jobs


async def test_cursor_of_another_database_is_refused(pair: Pair, server: MongoServer) -> None:
    """A cursor of a storage that was made anew under the same name means nothing."""
    async with server.database() as name:
        other = server.provider(name)
        await other.open()
        cursor = (await other.changes("")).cursor
        await other.close()

    with pytest.raises(CursorTooOld):
        await pair.here.changes(cursor)


async def test_changes_are_complete_while_others_write(any_pair: Pair) -> None:
    """Who reads changes while two processes write has in the end seen each job in its newest revision."""
    own = Scene(any_pair.here, "here")
    await any_pair.here.open_session(session("here", spooler="here"))
    cursor = (await any_pair.here.changes("")).cursor
    seen: dict[JobKey, Job] = {}

    async def write(scene: Scene) -> list[Job]:
        return [await scene.do(await scene.submit(), rules.Hold("operator")) for _ in range(15)]

    writing = asyncio.gather(write(own), write(any_pair.scene))
    while not writing.done():
        changes = await any_pair.here.changes(cursor, 5)
        seen |= {job.key: job for job in changes.jobs}
        cursor = changes.cursor
    written = [job for jobs in await writing for job in jobs]
    more = True
    while more:
        changes = await any_pair.here.changes(cursor, 5)
        seen |= {job.key: job for job in changes.jobs}
        cursor, more = changes.cursor, changes.more

    assert seen == {job.key: job for job in written}
