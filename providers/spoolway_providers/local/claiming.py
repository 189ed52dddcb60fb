"""Claims: the index decides, and then the file is looked at, as others may have been at it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import random
from time import monotonic

from spoolway_providers import rules
from spoolway_providers.errors import Unavailable
from spoolway_providers.interface import Claimed, Order
from spoolway_providers.local.adopting import Following, follow
from spoolway_providers.local.layout import Layout, Place
from spoolway_providers.local.reading import BlobReader, Loss
from spoolway_providers.local.taking import Taker, lock_of
from spoolway_providers.model import Job
from spoolway_providers.sqlite.engine import Engine

__all__ = ["Claims"]

ClaimInIndex = Callable[[str, Sequence[Order]], Awaitable[list[Claimed]]]

_LOCK_PAUSE_S = 0.004
_LOCK_LIMIT_S = 5.0

_Verdict = tuple[rules.Event, Place | None]
"""What happened to a job that can't be handed out, and where its file is."""


class Claims:
    """Hands out jobs whose documents are as they were submitted."""

    def __init__(
        self, engine: Engine, layout: Layout, reader: BlobReader, stock_spoolers: frozenset[str]
    ) -> None:
        self._engine = engine
        self._layout = layout
        self._reader = reader
        self._stock_spoolers = stock_spoolers
        self._taker = Taker(layout)

    async def claim(self, backend: str, orders: Sequence[Order], in_index: ClaimInIndex) -> list[Claimed]:
        """Claim as many as there are orders, passing over what others took, removed or changed."""
        if backend not in self._stock_spoolers:
            return await self._claim(backend, orders, in_index)
        async with self._holding(backend):
            return await self._claim(backend, orders, in_index)

    async def _claim(self, backend: str, orders: Sequence[Order], in_index: ClaimInIndex) -> list[Claimed]:
        taken: list[Claimed] = []
        while True:
            claimed = await in_index(backend, orders)
            verdicts = await self._taken_by_others(claimed) if backend in self._stock_spoolers else {}
            contents, lost = await self._contents([one.job for one in claimed if one.content is None])
            verdicts = {**lost, **verdicts}
            for job in (one.job for one in claimed):
                if job.seq in verdicts:
                    await self._let_go(job, *verdicts[job.seq])
            sound = [one for one in claimed if one.job.seq not in verdicts]
            taken += [Claimed(one.job, contents.get(one.job.seq, one.content)) for one in sound]
            if not verdicts:
                return taken
            served = {one.job.attempts[-1].token for one in sound}
            orders = [order for order in orders if order.token not in served]

    async def _contents(self, jobs: Sequence[Job]) -> tuple[dict[int, bytes], dict[int, _Verdict]]:
        """The contents that are files by now, and the jobs whose are lost."""
        if not jobs:
            return {}, {}
        read = await self._engine.read(self._reader.contents, jobs)
        contents = {job.seq: data for job, data in zip(jobs, read, strict=True) if isinstance(data, bytes)}
        lost: dict[int, _Verdict] = {}
        for job, found in zip(jobs, read, strict=True):
            if isinstance(found, Loss):
                lost[job.seq] = rules.Spoiled(found.reason, found.message, job.attempts[-1].token), None
        return contents, lost

    async def _taken_by_others(self, claimed: Sequence[Claimed]) -> dict[int, _Verdict]:
        """The jobs whose files other programs were first to take out of the queue."""
        jobs = [one.job for one in claimed]
        users = await self._engine.read(_offered, jobs)
        offered = [(job, users[job.seq]) for job in jobs if job.seq in users]
        if not offered:
            return {}
        verdicts = await asyncio.to_thread(self._taker.take, offered)
        return {
            job.seq: verdict
            for (job, _), verdict in zip(offered, verdicts, strict=True)
            if verdict is not None
        }

    async def _let_go(self, job: Job, event: rules.Event, place: Place | None) -> None:
        following = Following(key=job.key, revision=job.revision, events=(event,), place=place)
        await self._engine.write(follow, following)

    @asynccontextmanager
    async def _holding(self, backend: str) -> AsyncIterator[None]:
        """While nobody offers a job."""
        lock = lock_of(self._layout, backend)
        deadline = monotonic() + _LOCK_LIMIT_S
        while not lock.try_acquire():
            if monotonic() > deadline:
                raise Unavailable(f"the queue of backend {backend!r} is locked by another process")
            await asyncio.sleep(random() * _LOCK_PAUSE_S)  # noqa: S311 - only spreads the tries
        try:
            yield
        finally:
            lock.release()


def _offered(connection: sqlite3.Connection, jobs: Sequence[Job]) -> dict[int, str]:
    """Of these jobs those whose files lie in the queue, and their users."""
    found: dict[int, str] = {}
    for job in jobs:
        row = connection.execute(
            "SELECT user FROM local_files WHERE seq = ? AND place = 'queued'", (job.seq,)
        ).fetchone()
        if row is not None:
            found[job.seq] = row[0]
    return found
