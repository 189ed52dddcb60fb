"""The threads of one open file, and what wakes those who wait for its changes."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from spoolway_providers.errors import ProviderError, Unavailable
from spoolway_providers.interface import Hints
from spoolway_providers.sqlite.reader import Reader
from spoolway_providers.sqlite.wake import KnownChange, WakeFile, Watcher
from spoolway_providers.sqlite.worker import Worker
from spoolway_providers.sqlite.writer import News, Operation, Transaction, Writer

__all__ = ["Engine"]

Argument = TypeVar("Argument")
Result = TypeVar("Result")

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
        self._writer: Worker | None = None
        self._readers: list[Worker] = []
        self._watcher: Watcher | None = None
        self._looked_at = 0.0
        self._woken = asyncio.Event()
        self._queued: set[str] | None = set()

    async def open(self) -> None:
        """Start the threads; the first batch opens the file."""
        if self._writer is not None:
            return
        writer = Writer(
            self._path,
            clock=self._clock,
            busy_timeout=self._busy_timeout,
            known_change=self._known_change,
            on_commit=WakeFile(self._path).touch,
        )
        self._writer = self._worker("write", writer.serve, writer.disconnect, only_reads=False)
        try:
            await self.write(_nothing, None)
        except BaseException:
            await self.close()
            raise
        for name in ("read", "read-long"):
            reader = Reader(self._path, busy_timeout=self._busy_timeout)
            self._readers.append(self._worker(name, reader.serve, reader.disconnect, only_reads=True))
        wake = WakeFile(self._path)
        wake.touch()
        if self._watches:
            loop = asyncio.get_running_loop()
            self._watcher = Watcher(wake.path, lambda: loop.call_soon_threadsafe(self._on_touch))
        self._forget_hints()
