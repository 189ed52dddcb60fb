"""Changes of jobs, read once a process and storage and handed to everybody who watches."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import islice

import structlog

from spoolway_providers.errors import CursorTooOld, ProviderError
from spoolway_providers.interface import Provider
from spoolway_providers.model import Job, JobKey

__all__ = ["Feed", "Subscription"]

_log = structlog.get_logger(__name__)


MAX_EVENT = 100
"""Jobs of one event. A watcher that does not read has one on the way, which nobody shares."""


class Subscription:
    """What one watcher has not been sent yet: of each job the newest document only.

    A watcher that never reads therefore holds at most one document a job that it watches.
    """

    def __init__(self, feed: "Feed", keys: Iterable[JobKey], owner: str | None, backend: str) -> None:
        """Watch `keys`, or all jobs of `owner` (None: of everybody), perhaps of one backend only."""
        self._feed = feed
        self.keys = frozenset(keys)
        self.owner = owner
        self.backend = backend
        self.cursor = feed.cursor
        """Everything up to here has been taken by `next`."""
        self.must_resync = False
        self.ended = False
        """The server is about to stop: nothing more will come."""
        self._jobs: dict[JobKey, Job] = {}
        self._deleted: set[JobKey] = set()
        self._wake = asyncio.Event()

    def wants(self, job: Job) -> bool:
        """Whether a job belongs to it."""
        if self.keys:
            return job.key in self.keys
        if self.backend and job.key.backend != self.backend:
            return False
        return self.owner is None or job.owner == self.owner

    def offer(self, job: Job) -> None:
        """Remember a job's newest document."""
        if self.wants(job):
            self._jobs[job.key] = job
            self._wake.set()

    def wants_deleted(self, key: JobKey) -> bool:
        """Whether a job that is gone belongs to it: one watched by name, or any for who sees all."""
        if self.keys:
            return key in self.keys
        return self.owner is None and self.backend in {"", key.backend}

    def offer_deleted(self, key: JobKey) -> None:
        """Remember that a job is gone."""
        if self.wants_deleted(key):
            self._jobs.pop(key, None)
            self._deleted.add(key)
            self._wake.set()

    def resync(self) -> None:
        """The changes are lost: the watcher needs a new snapshot."""
        self.must_resync = True
        self._wake.set()

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        self._wake.set()

    @property
    def is_drained(self) -> bool:
        """Whether everything that was offered has been taken."""
        return not self._jobs

    async def catch_up(self) -> None:
        """Return once all that was read before this call has been offered."""
        await self._feed.catch_up()

    async def next(self, timeout_s: float) -> tuple[list[Job], list[JobKey]]:
        """What has changed since the last call, at most MAX_EVENT jobs; nothing after `timeout_s` seconds."""
        if not self._wake.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                # Others' changes passed by: a resume need not begin before them.
                self.cursor = self._feed.cursor
                return [], []
        taken = list(islice(self._jobs, MAX_EVENT))
        jobs = [self._jobs.pop(key) for key in taken]
        deleted, self._deleted = list(self._deleted), set()
        if not self._jobs:
            # A dictionary that was large stays so when it is emptied.
            self._jobs = {}
            if not self.ended:
                self._wake.clear()
            self.cursor = self._feed.cursor
        return jobs, deleted


class Feed:
    """Reads `changes` of one storage while somebody watches, and fans them out in memory."""

    def __init__(self, provider: Callable[[], Provider]) -> None:
        """Make a feed of the storage's provider of the moment; `run` drives it."""
        self._provider = provider
        self.cursor = ""
        """Everything up to here has been offered."""
        self.ended = asyncio.Event()
        """The server is about to stop."""
        self._dirty = asyncio.Event()
        self._is_lost = False
        self._lock = asyncio.Lock()
        self._everything: set[Subscription] = set()
        self._by_key: defaultdict[JobKey, set[Subscription]] = defaultdict(set)

    def notify(self) -> None:
        """There may be changes."""
        self._dirty.set()

    def restart(self) -> None:
        """The storage may be another one now: whoever watches needs a new snapshot."""
        self._is_lost = True
        self._dirty.set()

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._everything or self._by_key)

    async def subscribe(
        self, keys: Iterable[JobKey] = (), owner: str | None = None, backend: str = ""
    ) -> Subscription:
        """Start to watch; every commit after this call's end is offered. Who subscribes unsubscribes."""
        async with self._lock:
            if not self.watched:
                self.cursor = (await self._provider().changes("")).cursor
                self._is_lost = False
            subscription = Subscription(self, keys, owner, backend)
            for key in subscription.keys:
                self._by_key[key].add(subscription)
            if not subscription.keys:
                self._everything.add(subscription)
            if self.ended.is_set():
                subscription.end()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop to watch."""
        self._everything.discard(subscription)
        for key in subscription.keys:
            self._by_key[key].discard(subscription)
            if not self._by_key[key]:
                del self._by_key[key]

    async def catch_up(self) -> None:
        """Return once no read that began before this call is under way."""
        async with self._lock:
            return

    def end(self) -> None:
        """Tell all who watch that nothing more will come."""
        self.ended.set()
        for subscription in self._subscriptions():
            subscription.end()

    def dismiss(self) -> None:
        """Tell all who watch now to begin anew."""
        for subscription in self._subscriptions():
            subscription.end()

    def _subscriptions(self) -> set[Subscription]:
        return {*self._everything, *(s for group in self._by_key.values() for s in group)}

    async def run(self) -> None:
        """Read and hand out until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not self.watched:
                continue
            try:
                try:
                    if self._is_lost:
                        raise CursorTooOld("the storage was opened anew")
                    await self._read()
                except CursorTooOld:
                    await self._resync()
            except ProviderError as error:
                _log.warning("changes can't be read; trying again", error=str(error))
                await asyncio.sleep(1)
                self._dirty.set()
            except Exception:  # noqa: BLE001  # all who watch wait for this loop: whatever happened, it goes on
                _log.exception("changes can't be read; trying again")
                await asyncio.sleep(1)
                self._dirty.set()

    async def _read(self) -> None:
        async with self._lock:
            more = True
            while more:
                changes = await self._provider().changes(self.cursor)
                for job in changes.jobs:
                    self._offer(job)
                for key in changes.deleted:
                    for subscription in (*self._everything, *self._by_key.get(key, ())):
                        subscription.offer_deleted(key)
                self.cursor = changes.cursor
                more = changes.more

    def _offer(self, job: Job) -> None:
        for subscription in self._everything:
            subscription.offer(job)
        for subscription in self._by_key.get(job.key, ()):
            subscription.offer(job)

    async def _resync(self) -> None:
        self.cursor = (await self._provider().changes("")).cursor
        self._is_lost = False
        for subscription in self._subscriptions():
            subscription.resync()
