"""The threads of one open file, and what wakes those who wait for its changes."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import TypeVar

from spoolway_providers.errors import Unavailable
from spoolway_providers.interface import Changes, Hints
from spoolway_providers.sqlite import queries
from spoolway_providers.sqlite.reader import Reader
from spoolway_providers.sqlite.recent import RecentChanges
from spoolway_providers.sqlite.unreadable import end_unreadable
from spoolway_providers.sqlite.wake import KnownChange, WakeFile, Watcher
from spoolway_providers.sqlite.worker import Worker
from spoolway_providers.sqlite.writer import News, Operation, Transaction, Writer
from spoolway_providers.unreadable import UnreadableJob

__all__ = ["Engine"]

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_NOT_OPEN = "the storage is not open"
_LOOK_EVERY_S = 1.0
"""How often one who waits looks for others' changes, beneath the file events."""


class Engine:
    """A file with one writing and two reading threads, one of these for what may take long."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], datetime],
        watches: bool,
        time_limit: timedelta,
        busy_timeout: timedelta,
    ) -> None:
        self._path = path
        self._clock = clock
        self._watches = watches
        self._time_limit = time_limit
        self._busy_timeout = busy_timeout
        self._known_change = KnownChange()
        self._recent = RecentChanges()
        self._writer: Worker | None = None
        self._readers: list[Worker] = []
        self._watcher: Watcher | None = None
        self._looked_at = 0.0
        self._woken = asyncio.Event()
        self._must_look = False
        self._has_news = False
        self._queued: set[str] | None = set()

    async def open(self) -> None:
        """Start the threads; the first batch opens the file."""
        if self._writer is not None:
            return
        wake = WakeFile(self._path)
        writer = Writer(
            self._path,
            clock=self._clock,
            busy_timeout=self._busy_timeout,
            known_change=self._known_change,
            on_commit=wake.touch,
        )
        self._writer = self._worker("write", writer, only_reads=False)
        try:
            await self.write(_nothing, None)
        except BaseException:
            await self.close()
            raise
        for name in ("read", "read-long"):
            reader = Reader(self._path, busy_timeout=self._busy_timeout)
            self._readers.append(self._worker(name, reader, only_reads=True))
        wake.touch()
        if self._watches:
            self._watcher = self._watch(wake)
        self._recent = RecentChanges()
        self._take_hints()

    async def close(self) -> None:
        """Commit what is under way and end the threads."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await asyncio.to_thread(watcher.close)
        readers, self._readers = self._readers, []
        writer, self._writer = self._writer, None
        for worker in (*readers, *([writer] if writer else [])):
            await worker.close()
        self._woken.set()

    def now(self) -> datetime:
        """By the clock that dates all commits."""
        return self._clock()

    async def write(self, operation: Operation[Argument, Result], argument: Argument) -> Result:
        """Have `operation` committed; what is returned is on the disk."""
        return await self._mending(lambda: self._write(operation, argument))

    async def read(
        self, query: Callable[[sqlite3.Connection, Argument], Result], argument: Argument
    ) -> Result:
        """Have a quick query answered."""
        return await self._mending(lambda: self._read(0, query, argument))

    async def read_long(
        self, query: Callable[[sqlite3.Connection, Argument], Result], argument: Argument
    ) -> Result:
        """Have a query answered that may read much, without holding up the quick ones."""
        return await self._mending(lambda: self._read(1, query, argument))

    async def wait(self, timeout: timedelta) -> Hints | None:
        """Wait for our own commits, for file events, and look once a second; see the interface."""
        deadline = monotonic() + timeout.total_seconds()
        while not self._has_news:
            if self._writer is None:
                raise Unavailable(_NOT_OPEN)
            if self._watcher is not None and self._watcher.keep_on():
                self._must_look = True
            look_in_s = self._looked_at + _LOOK_EVERY_S - monotonic()
            if self._must_look or look_in_s <= 0:
                await self._look()
                continue
            remaining_s = deadline - monotonic()
            if remaining_s <= 0:
                return None
            self._woken.clear()
            with suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it may swallow a cancellation.
                async with asyncio.timeout(min(remaining_s, look_in_s)):
                    await self._woken.wait()
        return self._take_hints()

    async def changes(self, cursor: str, limit: int) -> Changes:
        """What was committed after the cursor: from memory, unless others have written too."""
        numbering = await self.read(queries.numbering, None)
        if not cursor:
            return Changes([], [], numbering.cursor(numbering.newest), more=False)
        after = numbering.number(cursor)
        recent = self._recent.since(after, numbering.newest, limit)
        if recent is None:
            return await self.read(queries.changes, queries.ChangesAsked(after, limit))
        page, more = recent
        last = page[-1][0] if page else numbering.newest
        return Changes(
            [job for _, _, job in page if job is not None],
            [key for _, key, job in page if job is None],
            numbering.cursor(last if more else max(last, numbering.newest)),
            more,
        )

    def _worker(self, name: str, server: Reader | Writer, *, only_reads: bool) -> Worker:
        return Worker(
            f"spoolway-sqlite-{name}",
            server.serve,
            finish=server.disconnect,
            on_news=self._on_news,
            time_limit=self._time_limit,
            only_reads=only_reads,
        )

    def _watch(self, wake: WakeFile) -> Watcher:
        loop = asyncio.get_running_loop()

        def on_touch() -> None:
            with suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(self._on_touch)

        return Watcher(wake.path, on_touch)

    async def _mending(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Have a call served; jobs that can't be read are ended first, so that they are in nobody's way."""
        met: object = None
        while True:
            try:
                return await call()
            except UnreadableJob as error:
                # Somebody else may have ended it meanwhile; but nobody tries for ever.
                if not await self._write(end_unreadable, error.document) and error.document == met:
                    raise
                met = error.document

    async def _write(self, operation: Operation[Argument, Result], argument: Argument) -> Result:
        if self._writer is None:
            raise Unavailable(_NOT_OPEN)
        return await self._writer.call(operation, argument)  # type: ignore[no-any-return]

    async def _read(
        self, lane: int, query: Callable[[sqlite3.Connection, Argument], Result], argument: Argument
    ) -> Result:
        if not self._readers:
            raise Unavailable(_NOT_OPEN)
        return await self._readers[lane].call(query, argument)  # type: ignore[no-any-return]

    def _on_news(self, news: News) -> None:
        """One of our own batches was committed."""
        if news.last > news.before:
            self._recent.add(news.before, news.last, news.changed)
        self._hint(news.queued)

    def _hint(self, queued: set[str] | None) -> None:
        if queued is None:
            self._queued = None
        elif self._queued is not None:
            self._queued |= queued
        self._has_news = True
        self._woken.set()

    def _on_touch(self) -> None:
        """Somebody has committed, maybe we ourselves."""
        self._must_look = True
        self._woken.set()

    async def _look(self) -> None:
        """Whether others have committed; our own commits are known already and wake nobody twice.

        The number of the newest change tells the two apart, as `PRAGMA data_version` of a reading
        connection would not: there our own commits count as another's.
        """
        self._must_look = False
        self._looked_at = monotonic()
        numbering = await self.read(queries.numbering, None)
        if self._known_change.glimpse(numbering.newest):
            self._hint(None)

    def _take_hints(self) -> Hints:
        queued, self._queued = self._queued, set()
        self._has_news = False
        return Hints(None if queued is None else frozenset(queued), changed=True)


def _nothing(transaction: Transaction, arguments: list[None]) -> list[None]:
    """The first operation: a file that takes it can be used."""
    return arguments
