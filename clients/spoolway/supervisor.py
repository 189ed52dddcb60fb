"""Keeping a spooler at work: register backends, keep a stream open through every trouble, end in order."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import NoReturn

from spoolway.channel import Connection
from spoolway.delivery import Delivery
from spoolway.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    SpoolwayError,
    UnauthenticatedError,
    UnknownError,
)
from spoolway.held import SpooledBackend
from spoolway.session import Identity, Session
from spoolway.settings import Settings
from spoolway.stream import StreamEnd, WorkStream
from spoolway.timing import Backoff, Timing
from spoolway.transfer import Transfer
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["Supervisor"]

_MISTAKES = (InvalidArgumentError, PermissionDeniedError, UnauthenticatedError)
"""Refusals that no waiting mends, if they come at the start, again and again."""
_MISTAKE_TRIES = 3

_log = logging.getLogger("spoolway.spooler")


class Supervisor:
    """One run of a spooler, from registering to the last confirm."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        backends: Sequence[SpooledBackend],
        *,
        timing: Timing,
        now: Callable[[], float],
        max_jobs: int | None = None,
    ) -> None:
        """Prepare; `run` does it. Must be made in the event loop that runs it."""
        self._settings = settings
        self._backends = backends
        self._timing = timing
        self._now = now
        self._unary = Connection(settings, own_connections=True)
        # Results are never given up while somebody may want them.
        transfer = Transfer(self._unary, timing=timing, tries=None)
        self.session = Session(
            identity, backends, transfer=transfer, timing=timing, now=now, max_jobs=max_jobs
        )
        self._delivery = Delivery(self._unary, self.session, timing=timing, now=now)
        self._backoff = Backoff(timing.reconnect_first_s, timing.reconnect_longest_s)
        self._was_welcomed = False
        self._mistakes = 0
        self._stopped = asyncio.Event()

    def drain(self) -> None:
        """Take no more jobs, finish those in hand, then end."""
        _log.info("draining: %d jobs in hand", self.session.held_count)
        self.session.drain()

    def stop(self) -> None:
        """End at once; what has not started is given back."""
        _log.warning("stopping at once: %d jobs in hand", self.session.held_count)
        self.session.stop()
        self._stopped.set()

    async def run(self) -> None:
        """Work until drained or stopped.

        Raises:
            SessionReplacedError: a newer instance of this spooler has taken over.
            SpoolerRevokedError: an operator has ended this instance.
            InvalidArgumentError, PermissionDeniedError, UnauthenticatedError: refused at the start.
        """
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(self._stopped.wait())
        delivery = asyncio.create_task(self._delivery.run())
        late = asyncio.create_task(self._delivery.run_late())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await asyncio.wait({work}, timeout=self._timing.stop_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.unary_timeout_s):
                    await self.session.late.join()
        finally:
            await _cancel(work, stopped, delivery, late)
            self.session.runner.stop()
            self.session.runner.close()
            await self._unary.close()
        if work.done() and not work.cancelled():
            work.result()

    async def _work(self) -> None:
        await self._register()
        self._backoff.reset()
        while not self.session.finished.is_set():
            end = await self._stream()
            if self.session.finished.is_set():
                return
            if end.final is not None:
                await self._finish_for_good(end.final)
            self._note_mistake(end)
            if isinstance(end.error, NotFoundError):
                await self._register()
            wait_s = self._wait_s(end)
            level = logging.INFO if end.goaway is not None else logging.WARNING
            _log.log(level, "disconnected: %s; next try in %.1f s", end, wait_s)
            await self._pause(wait_s)

    async def _register(self) -> None:
        """Register every backend, however long it takes."""
        for backend in self._backends:
            while not self.session.finished.is_set():
                try:
                    await self._register_one(backend)
                except SpoolwayError as error:
                    self._note_mistake(StreamEnd(error))
                    wait_s = self._wait_s(StreamEnd(error))
                    _log.warning("can't register %s: %s; next try in %.1f s", backend.name, error, wait_s)
                    await self._pause(wait_s)
                else:
                    break
        self._mistakes = 0

    async def _register_one(self, backend: SpooledBackend) -> None:
        request = pb.RegisterBackendRequest(
            backend=backend.name, config=backend.config, storage=backend.storage
        )
        await self._unary.call(
            self._unary.jobs.RegisterBackend, request, timeout_s=self._timing.unary_timeout_s
        )

    async def _stream(self) -> StreamEnd:
        """One stream, over a connection of its own: nothing half dead of the last one is met again."""
        try:
            connection = Connection(self._settings, own_connections=True)
        except OSError as error:
            return StreamEnd(UnknownError(f"can't open a connection: {error}"))
        try:
            end = await WorkStream(connection, self.session, timing=self._timing, now=self._now).run()
        except Exception as error:  # noqa: BLE001 - whatever breaks a stream, the spooler lives on
            _log.exception("the stream broke; this is a fault in spoolway, please report it")
            return StreamEnd(UnknownError(f"the stream broke: {error!r}"))
        finally:
            await connection.close()
        if end.welcomed_for_s is not None:
            self._was_welcomed = True
            if end.welcomed_for_s >= self._timing.settled_s:
                self._backoff.reset()
        return end

    def _note_mistake(self, end: StreamEnd) -> None:
        """Raise what is refused again and again before the first welcome: it is wrong here, not there."""
        is_mistake = isinstance(end.error, _MISTAKES) and not self._was_welcomed
        self._mistakes = self._mistakes + 1 if is_mistake else 0
        if end.error is not None and self._mistakes >= _MISTAKE_TRIES:
            raise end.error

    def _wait_s(self, end: StreamEnd) -> float:
        """How long to wait before the next try: the back-off, or as the server says if that is longer."""
        wait_s = self._backoff.next_s()
        if end.goaway is not None:
            wait_s = max(wait_s, end.goaway.reconnect_after.ToTimedelta().total_seconds())
        elif end.error is not None and end.error.retry_after is not None:
            wait_s = max(wait_s, end.error.retry_after.total_seconds())
        return wait_s

    async def _pause(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self.session.finished.wait()

    async def _finish_for_good(self, why: SpoolwayError) -> NoReturn:
        """Finish the jobs in hand and deliver them by unary calls: their leases may still be good."""
        _log.error("%s; finishing what runs, then ending", why.message)
        self.session.replaced()
        while not self.session.finished.is_set():
            await self._delivery.deliver_all()
            await self._pause(self._timing.unary_poll_s)
        raise why


async def _cancel(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=2)
