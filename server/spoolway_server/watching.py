"""Waiting for jobs and watching them."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta

import grpc
import msgspec
from msgspec.structs import replace

from spoolway_providers.errors import CursorTooOld, NotFound
from spoolway_providers.interface import Query
from spoolway_providers.model import Job, JobKey
from spoolway_server.auth import Principal
from spoolway_server.errors import ServiceError, draining, moving_on
from spoolway_server.feed import MAX_EVENT, Subscription
from spoolway_server.ownership import job_not_found, own_job
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.tokens import decode_token, encode_token

__all__ = ["JobEvent", "Watching"]

BOOKMARK_S = 15.0
MAX_WATCHED = 1000


class JobEvent(msgspec.Struct):
    """Something for a watcher."""

    jobs: list[Job]
    deleted: list[JobKey]
    resume_token: str
    snapshot: bool = False
    snapshot_complete: bool = False


class Watching:
    """WaitJob and WatchJobs."""

    def __init__(self, storages: Storages, *, stream_age: timedelta | None = None) -> None:
        """Watch jobs in `storages`; a watch older than `stream_age` is asked to reconnect."""
        self._storages = storages
        self._stream_age_s = stream_age.total_seconds() if stream_age else math.inf

    async def wait(self, caller: Principal, name: str, etag: str, timeout_s: float) -> Job:
        """The job once its etag differs from `etag`, or, without one, once it is terminal; or as it is."""
        storage, key = await self._storages.find_job(name)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        subscription = await storage.feed.subscribe(keys=[key])
        try:
            if subscription.ended:
                # A wait that is under way is answered; a new one would be asked again at once.
                raise draining()
            job = await own_job(storage, caller, key, name)
            while not _is_awaited(job, etag):
                left = deadline - loop.time()
                if left <= 0 or subscription.ended:
                    break
                jobs, deleted = await subscription.next(left)
                if deleted:
                    raise job_not_found(name)
                if jobs:
                    # What was read late may be older than what the caller has been shown.
                    job = max(job, jobs[0], key=lambda one: one.revision)
                elif subscription.must_resync:
                    subscription.must_resync = False
                    job = await own_job(storage, caller, key, name)
            return job
        finally:
            storage.feed.unsubscribe(subscription)

    async def watch(
        self, caller: Principal, names: Sequence[str], backend: str, resume_token: str
    ) -> AsyncGenerator[JobEvent, None]:
        """A snapshot, then changes, until the caller closes it."""
        if len(names) > MAX_WATCHED:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "TOO_MANY_NAMES",
                f"watch at most {MAX_WATCHED} jobs by name, or all of a backend",
                field="names",
            )
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._stream_age_s
        watchers = await self._watchers(caller, names, backend, decode_token(resume_token, "resume_token"))
        open_now = [watcher for watcher in watchers if watcher.storage.opened.is_set()]
        try:
            for watcher in open_now:
                await watcher.subscribe()
            for watcher in open_now:
                async for news in watcher.first():
                    yield _event(watcher, news, watchers)
            yield JobEvent([], [], _token_of(watchers), snapshot=True, snapshot_complete=True)
            async with aclosing(_changes(watchers)) as events:
                async for event in events:
                    yield event
                    if loop.time() >= ends_at:
                        raise moving_on()
        finally:
            for watcher in watchers:
                watcher.unsubscribe()

    async def _watchers(
        self, caller: Principal, names: Sequence[str], backend: str, cursors: Mapping[str, str]
    ) -> "list[_Watcher]":
        groups: dict[Storage, list[JobKey]] = {}
        if names:
            for name in dict.fromkeys(names):
                storage, key = await self._storages.find_job(name, field="names")
                await own_job(storage, caller, key, name, field="names")
                groups.setdefault(storage, []).append(key)
        elif backend:
            storage, found = await self._storages.find_backend(backend)
            groups[storage], backend = [], found.name
        else:
            groups = {storage: [] for storage in self._storages.by_name.values()}
            if not self._storages.usable():
                self._storages.default.require_usable()
        return [
            _Watcher(storage, caller, keys, backend, cursors.get(storage.name, ""), self._storages.is_home)
            for storage, keys in groups.items()
        ]


class _News(msgspec.Struct, frozen=True):
    """What one storage has to tell, and the cursor to go on from once it has been told."""

    jobs: list[Job]
    deleted: list[JobKey]
    cursor: str
    """Empty within a snapshot: who loses the stream there needs all of it again."""
    snapshot: bool = False


class _Watcher:
    """One watcher's view of one storage."""

    def __init__(
        self,
        storage: Storage,
        caller: Principal,
        keys: Sequence[JobKey],
        backend: str,
        cursor: str,
        is_home: Callable[[Storage, str], bool],
    ) -> None:
        self.storage = storage
        self.is_home = is_home
        self.cursor = cursor
        """Everything up to here has been told to the watcher."""
        self._keys = keys
        self._owner = None if caller.sees_all else caller.name
        self._backend = backend
        self._subscription: Subscription | None = None
        self._shown: dict[JobKey, int] = {}
        """Revisions that were shown before the feed had caught up with the snapshot."""
        self._backlog: deque[_News] = deque()
        """Pages of a snapshot that became necessary on the way."""

    async def subscribe(self) -> None:
        self._subscription = await self.storage.feed.subscribe(self._keys, self._owner, self._backend)

    def unsubscribe(self) -> None:
        if self._subscription is not None:
            self.storage.feed.unsubscribe(self._subscription)

    async def first(self) -> AsyncGenerator[_News, None]:
        """The changes since the cursor, or a snapshot where there is none or it is too old."""
        subscription = self._active()
        resumed_at, now = self.cursor, subscription.cursor
        try:
            async for news in self._since(resumed_at, now):
                yield news
        except (CursorTooOld, ValueError):
            async for jobs in self._snapshot():
                yield _News(jobs, [], "", snapshot=True)
        await subscription.catch_up()
        # The cursor of now, also where nothing has changed since the old one.
        self.cursor = now

    async def next(self) -> _News:
        """Changes since the last call; waits for them."""
        if self._backlog:
            return self._backlog.popleft()
        if self._subscription is None:
            await self._join_late()
            return self._backlog.popleft()
        subscription = self._subscription
        jobs, deleted = await subscription.next(BOOKMARK_S)
        if subscription.ended:
            raise draining()
        fresh = [job for job in jobs if self._shown.get(job.key, 0) < job.revision]
        if subscription.is_drained:
            # From here on the feed offers only what it read after the snapshot.
            self._shown.clear()
        news = _News(fresh, deleted, subscription.cursor)
        if not subscription.must_resync:
            return news
        subscription.must_resync = False
        self._backlog.extend([_News(jobs, [], "") async for jobs in self._snapshot()])
        await subscription.catch_up()
        self._backlog.append(_News([], [], news.cursor))
        return _News(fresh, deleted, "")

    async def _join_late(self) -> None:
        """Fetch the jobs of a storage that could not be reached when the watch began."""
        opened = asyncio.create_task(self.storage.opened.wait())
        ended = asyncio.create_task(self.storage.feed.ended.wait())
        try:
            await asyncio.wait({opened, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
            ended.cancel()
        if self.storage.feed.ended.is_set():
            raise draining()
        await self.subscribe()
        self._backlog.extend([_News(news.jobs, news.deleted, news.cursor) async for news in self.first()])
        self._backlog.append(_News([], [], self.cursor))

    def _active(self) -> Subscription:
        if self._subscription is None:
            raise RuntimeError("not subscribed")
        return self._subscription

    async def _since(self, cursor: str, now: str) -> AsyncGenerator[_News, None]:
        subscription = self._active()
        if not cursor:
            raise CursorTooOld("there is none")
        more = True
        while more:
            changes = await self.storage.provider.changes(cursor)
            more = changes.more
            jobs = [job for job in changes.jobs if subscription.wants(job)]
            deleted = [key for key in changes.deleted if subscription.wants_deleted(key)]
            self._note(jobs)
            if jobs or deleted:
                yield _News(jobs, deleted, changes.cursor if more else now)
            cursor = changes.cursor

    async def _snapshot(self) -> AsyncGenerator[list[Job], None]:
        if self._keys:
            jobs: list[Job] = []
            for key in self._keys:
                try:
                    jobs.append(await self.storage.provider.get(key))
                except NotFound:
                    continue
            self._note(jobs)
            yield jobs
            return
        query = Query(owner=self._owner, backend=self._backend or None, limit=MAX_EVENT)
        find = self.storage.provider.find
        newest = (await find(replace(query, newest_first=True, limit=1))).jobs
        if not newest:
            return
        cursor = ""
        while True:
            page = await find(replace(query, cursor=cursor))
            # What was submitted since is the feed's to tell: else a busy queue has no end.
            jobs = [job for job in page.jobs if job.seq <= newest[0].seq]
            self._note(jobs)
            if jobs:
                yield jobs
            cursor = page.cursor
            if not cursor or len(jobs) < len(page.jobs):
                return

    def _note(self, jobs: Sequence[Job]) -> None:
        self._shown.update((job.key, job.revision) for job in jobs)


async def _changes(watchers: "list[_Watcher]") -> AsyncGenerator[JobEvent, None]:
    """Events of all watchers as they come."""
    tasks = {asyncio.create_task(watcher.next()): watcher for watcher in watchers}
    try:
        while True:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                watcher = tasks.pop(task)
                news = task.result()
                yield _event(watcher, news, watchers)
                tasks[asyncio.create_task(watcher.next())] = watcher
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _event(watcher: _Watcher, news: _News, watchers: "list[_Watcher]") -> JobEvent:
    # Only now: a resume token never covers what was read but not told yet.
    watcher.cursor = news.cursor
    # Of a backend that was copied away the copy counts.
    jobs = [job for job in news.jobs if watcher.is_home(watcher.storage, job.key.backend)]
    deleted = [key for key in news.deleted if watcher.is_home(watcher.storage, key.backend)]
    return JobEvent(jobs, deleted, _token_of(watchers), snapshot=news.snapshot)


def _is_awaited(job: Job, etag: str) -> bool:
    return str(job.revision) != etag if etag else job.is_terminal


def _token_of(watchers: "list[_Watcher]") -> str:
    return encode_token({watcher.storage.name: watcher.cursor for watcher in watchers if watcher.cursor})
