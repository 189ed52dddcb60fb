"""One stream to the server: hello, welcome, then reading, writing and watching until it ends."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spoolway.channel import Connection
from spoolway.errors import (
    InternalError,
    SessionReplacedError,
    SpoolerRevokedError,
    SpoolwayError,
    UnavailableError,
)
from spoolway.session import Session
from spoolway.timing import Timing
from spoolway.v1 import job_service_pb2 as pb

if TYPE_CHECKING:
    from spoolway.channel import WorkCall

__all__ = ["StreamEnd", "WorkStream"]

_FINAL: dict[str, tuple[type[SpoolwayError], str]] = {
    "SESSION_REPLACED": (
        SessionReplacedError,
        "a newer instance of this spooler has taken over: run one process per spooler_id, "
        "or give each its own",
    ),
    "SPOOLER_REVOKED": (
        SpoolerRevokedError,
        "an operator has ended this instance of the spooler; once that is settled start it anew",
    ),
}
"""What ends a spooler, by the reason that the server gives."""

_log = logging.getLogger("spoolway.spooler")


@dataclass(slots=True)
class StreamEnd:
    """How a stream ended. Every end is normal (R9)."""

    error: SpoolwayError | None = None
    """Its status; None: OK."""
    goaway: pb.Goaway | None = None
    """What the server said before."""
    welcomed_for_s: float | None = None
    """How long it lived after welcome; None: never welcomed."""

    @property
    def final(self) -> SpoolwayError | None:
        """Why this instance may not come back; None: it may."""
        said = (self.goaway.reason if self.goaway else "", self.error.reason or "" if self.error else "")
        reason = next((reason for reason in said if reason in _FINAL), None)
        if reason is None:
            return None
        error_class, message = _FINAL[reason]
        return error_class(message, reason)

    def __str__(self) -> str:
        """For the log."""
        if self.goaway is not None:
            return f"the server said {self.goaway.reason}"
        return str(self.error) if self.error else "the server closed the stream"


class WorkStream:
    """One StreamNextJobs, from hello to its end."""

    def __init__(
        self, connection: Connection, session: Session, *, timing: Timing, now: Callable[[], float]
    ) -> None:
        """Prepare; `run` does it."""
        self._connection = connection
        self._session = session
        self._timing = timing
        self._now = now
        self._end = StreamEnd()
        self._heard_at = 0.0

    async def run(self) -> StreamEnd:
        """Work until the stream ends. Whatever ends it is in the answer, not raised."""
        call = self._connection.stream_next_jobs()
        try:
            await self._greet(call)
            welcomed_at = self._now()
            try:
                await self._converse(call)
            finally:
                self._end.welcomed_for_s = self._now() - welcomed_at
        except SpoolwayError as error:
            self._end.error = error
        finally:
            self._session.disconnected()
            if not call.done():
                # The last resort: a routine end has closed both sides before.
                call.cancel()
        return self._end

    async def _greet(self, call: "WorkCall") -> None:
        sent_at, address = self._now(), self._connection.address
        waited_for = "connection"
        try:
            async with asyncio.timeout(self._timing.connect_s):
                await self._connection.write(call, pb.StreamNextJobsRequest(hello=self._session.hello()))
            waited_for = "welcome"
            async with asyncio.timeout(self._timing.welcome_s):
                first = await self._connection.read(call)
        except SpoolwayError:
            raise
        except TimeoutError:
            raise UnavailableError(f"{address}: no {waited_for} in time") from None
        if first is None:
            raise UnavailableError(f"{address}: the stream was closed before welcome")
        if first.HasField("goaway"):
            self._end.goaway = first.goaway
            raise UnavailableError(f"{address}: {first.goaway.reason} instead of welcome")
        if not first.HasField("welcome"):
            raise InternalError(f"{address}: the first message was no welcome")
        self._heard_at = self._now()
        self._session.welcomed(first.welcome, sent_at)
        _log.info("connected to %s as session %s", address, first.welcome.session)

    async def _converse(self, call: "WorkCall") -> None:
        reader = asyncio.create_task(self._read(call))
        writer = asyncio.create_task(self._write(call))
        watcher = asyncio.create_task(self._watch())
        running = {reader, writer, watcher}
        try:
            # The writer ends first where the end is routine: it has closed our side, and the server answers.
            while reader in running and watcher in running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if writer in done:
                    writer.result()
        finally:
            if not reader.done():
                call.cancel()
            await _end_tasks(reader, writer, watcher)
        for task in (watcher, reader):
            # What a read raises after it was torn down says nothing about why.
            if task.done() and not task.cancelled() and self._end.error is None:
                task.result()

    async def _read(self, call: "WorkCall") -> None:
        while (message := await self._connection.read(call)) is not None:
            self._heard_at = self._now()
            if message.HasField("goaway"):
                self._end.goaway = message.goaway
                self._session.leave()
            else:
                self._session.receive(message)

    async def _write(self, call: "WorkCall") -> None:
        """The one writer. Ends when the outbox is closed and empty, or when the stream breaks."""
        while (message := await self._session.outbox.take()) is not None:
            if not await self._connection.write(call, message):
                return
        await self._connection.finish_writing(call)

    async def _watch(self) -> None:
        """Send beats, and return when the stream is to be torn down.

        It depends on no callback of gRPC: a stream that dies in silence is noticed all the same.
        """
        closed_at: float | None = None
        while True:
            due = self._session.tick()
            now = self._now()
            if closed_at is None and self._session.outbox.is_closed:
                closed_at = now
            silent_at = self._heard_at + self._session.interval_s + self._timing.silence_margin_s
            end_at = silent_at if closed_at is None else min(silent_at, closed_at + self._timing.close_s)
            if now >= end_at:
                if closed_at is None:
                    self._end.error = UnavailableError(
                        f"{self._connection.address}: silent for {now - self._heard_at:.0f} s"
                    )
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(due, end_at) - now)):
                    await self._session.poke.wait()
            self._session.poke.clear()


async def _end_tasks(*tasks: asyncio.Task[None]) -> None:
    """Cancel and await them, but not for ever: a read may hang in a broken connection."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=1)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # seen
