"""Follows the catalog: what this process knows of it is read anew after every change, whoever makes it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import structlog

from spoolway_server.catalog import Catalog
from spoolway_server.clock import Clock
from spoolway_server.errors import ServiceError

__all__ = ["Following"]

_log = structlog.get_logger(__name__)

LOOK_AGAIN = timedelta(minutes=2)
"""The safety net beneath the catalog's wake-ups."""
RETRY_S = 1.0


class Following:
    """One loop a process, for all that is kept of the catalog in memory."""

    def __init__(
        self, catalog: Catalog, clock: Clock, readers: Sequence[Callable[[], Awaitable[None]]]
    ) -> None:
        """Have `readers` read `catalog`, once at the start and again after each change."""
        self._catalog = catalog
        self._clock = clock
        self._readers = readers
        self._loop: asyncio.Task[None] | None = None
        self._silent_since: float | None = clock.monotonic()
        self.is_read = False
        """The catalog was read once."""
        self.on_first_read: Callable[[], None] = lambda: None

    @property
    def silence_s(self) -> float:
        """For how many seconds the catalog has not answered; 0 while it does."""
        return 0.0 if self._silent_since is None else self._clock.monotonic() - self._silent_since

    async def start(self) -> None:
        """Open and read the catalog, and follow it from then on. Its trouble holds nothing up."""
        try:
            await self._catalog.open()
            await self._read()
        except ServiceError as error:
            # The storages of the configuration serve meanwhile.
            _log.error("catalog can't be read", error=error.message)
        self._loop = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Follow no longer."""
        while self._loop is not None and not self._loop.done():
            # Again and again: a wait may swallow a cancellation.
            self._loop.cancel()
            await asyncio.wait({self._loop}, timeout=1)

    async def _read(self) -> None:
        for read in self._readers:
            await read()
        self._silent_since = None
        if not self.is_read:
            self.is_read = True
            self.on_first_read()

    async def _follow(self) -> None:
        while True:
            try:
                if not self.is_read:
                    await self._catalog.open()
                version = await self._catalog.version()
                await self._read()
                await self._catalog.wait(version, LOOK_AGAIN)
            except Exception as error:  # noqa: BLE001  # this loop is how a process hears of others' changes: it goes on
                if self._silent_since is None:
                    self._silent_since = self._clock.monotonic()
                if isinstance(error, ServiceError):
                    _log.warning("catalog can't be read; trying again", error=error.message)
                else:
                    _log.exception("catalog can't be followed; trying again")
                await asyncio.sleep(RETRY_S)
