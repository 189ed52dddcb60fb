"""Waiting for jobs and watching them."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

import grpc
import msgspec

from spoolway_providers.errors import CursorTooOld, NotFound
from spoolway_providers.interface import Query
from spoolway_providers.model import Job, JobKey
from spoolway_server.auth import Principal
from spoolway_server.errors import ServiceError
from spoolway_server.feed import Subscription
from spoolway_server.ownership import job_not_found, own_job
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.tokens import decode_token, encode_token

__all__ = ["JobEvent", "Watching"]

BOOKMARK_S = 15.0
SNAPSHOT_PAGE = 500
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

    def __init__(self, storages: Storages) -> None:
        """Watch jobs in `storages`."""
        self._storages = storages

    async def wait(self, caller: Principal, name: str, etag: str, timeout_s: float) -> Job:
        """The job once its etag differs from `etag`, or, without one, once it is terminal; or as it is."""
        storage, key = await self._storages.find_job(name)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        subscription = await storage.feed.subscribe(keys=[key])
        try:
            job = await own_job(storage, caller, key, name)
            while not _is_awaited(job, etag):
                left = deadline - loop.time()
                if left <= 0:
                    break
                jobs, deleted = await subscription.next(left)
                if deleted:
                    raise job_not_found(name)
                if jobs:
                    job = jobs[0]
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
        watchers = await self._watchers(caller, names, backend, decode_token(resume_token, "resume_token"))
        try:
            for watcher in watchers:
                await watcher.subscribe()
            complete = False
            for watcher in watchers:
                async for jobs, snapshot in watcher.first():
                    complete = complete or not snapshot
                    yield JobEvent(jobs, [], _token_of(watchers), snapshot=snapshot)
            yield JobEvent([], [], _token_of(watchers), snapshot=True, snapshot_complete=True)
            async for event in _changes(watchers):
                yield event
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
                await own_job(storage, caller, key, name)
                groups.setdefault(storage, []).append(key)
        elif backend:
            groups[(await self._storages.find_backend(backend))[0]] = []
        else:
            groups = {storage: [] for storage in self._storages.usable()}
        return [
            _Watcher(storage, caller, keys, backend, cursors.get(storage.name, ""))
            for storage, keys in groups.items()
        ]


class _Watcher:
    """One watcher's view of one storage."""

    def __init__(
        self, storage: Storage, caller: Principal, keys: Sequence[JobKey], backend: str, cursor: str
    ) -> None:
        self.storage = storage
        self.cursor = cursor
        self._keys = keys
        self._owner = None if caller.sees_all else caller.name
        self._backend = backend
        self._subscription: Subscription | None = None
        self._shown: dict[JobKey, int] = {}
        """Revisions that were shown before the feed had caught up with the snapshot."""

    async def subscribe(self) -> None:
        self._subscription = await self.storage.feed.subscribe(self._keys, self._owner, self._backend)

    def unsubscribe(self) -> None:
        if self._subscription is not None:
            self.storage.feed.unsubscribe(self._subscription)

    async def first(self) -> AsyncGenerator[tuple[list[Job], bool], None]:
        """The changes since the cursor, or a snapshot where there is none or it is too old."""
        subscription = self._active()
        resumed_at = self.cursor
        self.cursor = subscription.cursor
        if resumed_at:
            try:
                async for jobs in self._since(resumed_at, subscription):
                    yield jobs, False
            except (CursorTooOld, ValueError):
                pass
            else:
                return
        async for jobs in self._snapshot():
            yield jobs, True

    async def next(self) -> tuple[list[Job], list[JobKey]]:
        """Changes since the last call; waits for them."""
        subscription = self._active()
        jobs, deleted = await subscription.next(BOOKMARK_S)
        if subscription.must_resync:
            subscription.must_resync = False
            jobs += [job async for page in self._snapshot() for job in page]
        fresh = [job for job in jobs if self._shown.get(job.key, 0) < job.revision]
        self._shown.clear()
        self.cursor = subscription.cursor
        return fresh, deleted

    def _active(self) -> Subscription:
        if self._subscription is None:
            raise RuntimeError("not subscribed")
        return self._subscription

    async def _since(self, cursor: str, subscription: Subscription) -> AsyncGenerator[list[Job], None]:
        more = True
        while more:
            changes = await self.storage.provider.changes(cursor)
            cursor, more = changes.cursor, changes.more
            jobs = [job for job in changes.jobs if subscription.wants(job)]
            self._note(jobs)
            if jobs:
                yield jobs

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
        cursor = ""
        while True:
            query = Query(
                owner=self._owner, backend=self._backend or None, limit=SNAPSHOT_PAGE, cursor=cursor
            )
            page = await self.storage.provider.find(query)
            self._note(page.jobs)
            if page.jobs:
                yield page.jobs
            cursor = page.cursor
            if not cursor:
                return

    def _note(self, jobs: Sequence[Job]) -> None:
        self._shown.update((job.key, job.revision) for job in jobs)


async def _changes(watchers: "list[_Watcher]") -> AsyncGenerator[JobEvent, None]:
    """Events of all watchers as they come."""
    tasks = {asyncio.create_task(watcher.next()): watcher for watcher in watchers}
    try:
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                watcher = tasks.pop(task)
                jobs, deleted = task.result()
                tasks[asyncio.create_task(watcher.next())] = watcher
                yield JobEvent(jobs, deleted, _token_of(watchers))
    finally:
        for task in tasks:
            task.cancel()


def _is_awaited(job: Job, etag: str) -> bool:
    return str(job.revision) != etag if etag else job.is_terminal


def _token_of(watchers: "list[_Watcher]") -> str:
    return encode_token({watcher.storage.name: watcher.cursor for watcher in watchers})
