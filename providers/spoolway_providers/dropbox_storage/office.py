"""An owner at work: takes over what lies in the account, and all that goes on while it owns it."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from spoolway_providers.dropbox_storage.backends import Backends
from spoolway_providers.dropbox_storage.care import Care
from spoolway_providers.dropbox_storage.documents import Owner
from spoolway_providers.dropbox_storage.following import Follower
from spoolway_providers.dropbox_storage.reading import Reader
from spoolway_providers.dropbox_storage.snapshot import SnapshotKeeper
from spoolway_providers.dropbox_storage.tenure import Request, Tenure
from spoolway_providers.dropbox_storage.tree import Tree
from spoolway_providers.errors import NotOwner, ProviderError
from spoolway_providers.interface import Query
from spoolway_providers.model import ACTIVE_STATES

__all__ = ["Office"]

CLOCKS_DIFFER_BY = timedelta(minutes=10)
"""A name from further in the future is no reason to name all later jobs so."""


class Office:
    """The parts of an owner, put together; started and stopped once."""

    def __init__(self, tenure: Tenure, on_lost: Callable[[NotOwner], None]) -> None:
        self.tenure = tenure
        self.reader = Reader(tenure)
        self.backends = Backends(tenure)
        self.tree = Tree(tenure, Follower(tenure, self.reader, self.backends))
        self.snapshots = SnapshotKeeper(tenure)
        self.care = Care(tenure, self.reader, self.snapshots, on_lost)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, before: Owner | None) -> None:
        """Know the account, and go to work."""
        tenure = self.tenure
        tenure.ownership.last_seq = lambda: tenure.numbering.last
        # A large account takes longer to read than an ownership lasts.
        self._spawn(self.care.keep_office())
        tenure.numbering.raise_to(before.last_seq if before else 0)
        await asyncio.gather(self.tree.read_all(), self.snapshots.read())
        await self.backends.read_all()
        self._know_requests()
        tenure.staging.know(tenure.mirror.below(tenure.layout.uploads))
        self._raise_numbering()
        self._begin_amnesty(before)
        self.snapshots.apply(self.reader)
        # What lies among the running ones may be waiting, with a place before all others.
        await self.reader.ensure_for(Query(states=tuple(ACTIVE_STATES)))
        tenure.writer.start()
        self._spawn(self.reader.run())
        self._spawn(self.care.run())
        self._spawn(self.tree.follow())

    async def stop(self) -> None:
        """End at once; what is half done is redone by the next owner."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.tenure.writer.stop()
        await self.tenure.settle()
        self.tenure.staging.close()

    async def leave(self) -> None:
        """Finish what is under way, and make room for the next owner."""
        tenure = self.tenure
        is_settled = False
        try:
            async with asyncio.timeout(tenure.timings.patience_s):
                await tenure.settle()
                await self.care.finish()
                is_settled = True
        except (ProviderError, TimeoutError):
            # The next owner finishes it.
            pass
        await self.stop()
        try:
            await tenure.ownership.release(settled=is_settled)
        except ProviderError:
            # The next owner waits.
            return

    def _spawn(self, loop: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(loop))

    def _know_requests(self) -> None:
        tenure = self.tenure
        for info in tenure.mirror.below(tenure.layout.requests):
            digest = info.path.rsplit("/", 1)[1].removesuffix(".json")
            tenure.requests[digest] = Request(info.client_modified, tombstone=info.path)

    def _raise_numbering(self) -> None:
        tenure = self.tenure
        latest = tenure.numbering.highest_at(tenure.clock() + CLOCKS_DIFFER_BY)
        for entry in tenure.index.entries.values():
            if entry.seq <= latest:
                tenure.numbering.raise_to(entry.seq)

    def _begin_amnesty(self, before: Owner | None) -> None:
        """What the owner before gave away stays given for as long as a lease may last."""
        tenure = self.tenure
        amnesty_s = tenure.timings.amnesty_s
        for backend in tenure.backends.values():
            if backend.policy is not None:
                lease = backend.policy.lease_ttl + backend.policy.resume_grace
                amnesty_s = max(amnesty_s, lease.total_seconds())
        tenure.had_clean_start = before is None or before.released
        tenure.is_settled = before is not None and before.settled
        tenure.amnesty_ends_at = tenure.calls.monotonic() + amnesty_s
        tenure.sessions.pardon(tenure.amnesty_ends_at)
