"""Work that takes long, such as a copy: recorded in the catalog, and taken up by any process.

Who does it stores the record anew each few seconds. A process that sees a record unchanged for long takes it
over by compare-and-set and goes on from its `place`; so whatever such work does must be safe to repeat, also
beside a runner that was only slow.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

import grpc
import msgspec
import structlog

from spoolway_providers.errors import ProviderError, Unavailable, Uncertain
from spoolway_providers.model import new_token
from spoolway_server.catalog import Catalog, CatalogConflict, OperationRecord, Sealed
from spoolway_server.clock import Clock
from spoolway_server.errors import ServiceError, draining, from_provider_error

__all__ = ["CANCELLED", "DONE", "FAILED", "RUNNING", "Operation", "Operations", "Work"]

_log = structlog.get_logger(__name__)

RUNNING, DONE, FAILED, CANCELLED = "RUNNING", "DONE", "FAILED", "CANCELLED"
BEAT_S = 2.0
"""How often who does the work stores its record, at least."""
LOST_AFTER_S = 15.0
"""A record that has not changed for so long has lost its runner."""
LOOK_S = 1.0
IDLE_LOOK_S = 60.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""Between two tries while a storage does not answer."""
KEPT = timedelta(days=30)
"""How long a record is kept after its end."""


class _Stopped(Exception):  # not an error of ours
    """The work is to end here: it was cancelled, or another process has it."""


class Operation:
    """One operation in the hands of this process."""

    def __init__(self, catalog: Catalog, clock: Clock, record: OperationRecord) -> None:
        """Go on with `record`, which this process has taken."""
        self._catalog = catalog
        self._clock = clock
        self._saving = asyncio.Lock()
        self.record = record
        self.is_lost = False
        """Another process has it."""
        self.remark = ""
        """What is to be said of it once it has ended well."""

    async def save(self, **changes: Any) -> None:
        """Store how far it is: `phase`, `done`, `total`, `place`. Ends the work if it is no longer wanted."""
        async with self._saving:
            while True:
                if self.is_lost or self.record.is_cancelled:
                    raise _Stopped
                stored = msgspec.structs.replace(self.record, updated_at=self._clock.now(), **changes)
                try:
                    self.record = await self._catalog.put(stored)
                except CatalogConflict:
                    await self._look()
                else:
                    return

    async def _look(self) -> None:
        """Whatever was asked of it meanwhile; or it is another's by now."""
        current = await self._catalog.get(OperationRecord, self.record.id)
        if current is None or current.state != RUNNING or current.runner != self.record.runner:
            self.is_lost = True
        else:
            self.record = current

    async def end(self, state: str, *, reason: str = "", message: str = "") -> None:
        """Store how it ended."""
        now = self._clock.now()
        while not self.is_lost:
            ended = msgspec.structs.replace(
                self.record,
                state=state,
                reason=reason,
                message=message,
                phase="",
                login=Sealed(),
                ended_at=now,
                updated_at=now,
            )
            try:
                self.record = await self._catalog.put(ended)
            except CatalogConflict:
                await self._look()
            else:
                return

    async def release(self) -> None:
        """Let another process go on with it at once."""
        with suppress(ServiceError):
            self.record = await self._catalog.put(msgspec.structs.replace(self.record, runner=""))


class Work(Protocol):
    """What an operation of one type does."""

    async def run(self, operation: Operation) -> None:
        """Do it from `operation.record.place` on, saving often; a repeat of anything must be safe."""

    async def abandon(self, record: OperationRecord) -> None:
        """Undo what must not stay after a failure or a cancellation."""


class Operations:
    """All operations of the servers that share a catalog."""

    def __init__(
        self, catalog: Catalog, clock: Clock, works: Mapping[str, Work], *, lost_after_s: float = LOST_AFTER_S
    ) -> None:
        """Do `works`, by type. Nothing is done before `start`."""
        self._catalog = catalog
        self._clock = clock
        self._works = works
        self._lost_after_s = lost_after_s
        self._me = new_token()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        """The revision of a record of another process, and since when it has been that."""
        self._following: asyncio.Task[None] | None = None
        self._draining = False

    # Life

    def start(self) -> None:
        """Take up what nobody does."""
        self._following = asyncio.create_task(self._follow())

    def end_watches(self) -> None:
        """Who watches is told to go elsewhere."""
        self._draining = True

    async def stop(self) -> None:
        """Let go of all, so that other processes go on."""
        tasks = {*self._running.values(), *([self._following] if self._following else [])}
        while tasks:
            for task in tasks:
                task.cancel()
            # Again and again: a wait may swallow a cancellation.
            _, tasks = await asyncio.wait(tasks, timeout=1)

    async def _follow(self) -> None:
        while True:
            try:
                version = await self._catalog.version()
                others = await self._take_up()
                await self._catalog.wait(version, timedelta(seconds=LOOK_S if others else IDLE_LOOK_S))
            except ServiceError as error:
                _log.warning("operations can't be read; trying again", error=error.message)
                await asyncio.sleep(FIRST_PAUSE_S)
            except Exception:  # noqa: BLE001  # the loop is how a killed server's work goes on: so does the loop
                _log.exception("operations can't be followed; trying again")
                await asyncio.sleep(FIRST_PAUSE_S)

    async def _take_up(self) -> bool:
        """Take what nobody does; whether others have some that they might lose."""
        records = await self._catalog.all(OperationRecord)
        open_ones = [record for record in records if record.state == RUNNING and record.type in self._works]
        others = {record.id: record for record in open_ones if record.id not in self._running}
        self._seen = {key: seen for key, seen in self._seen.items() if key in others}
        for record in others.values():
            revision, since = self._seen.get(record.id, (0, 0.0))
            now = self._clock.monotonic()
            if revision != record.revision:
                self._seen[record.id] = (record.revision, now)
                since = now
            if not record.runner or now - since >= self._lost_after_s:
                await self._take(record)
        return bool(others)

    async def _take(self, record: OperationRecord) -> None:
        with suppress(CatalogConflict):
            mine = await self._catalog.put(msgspec.structs.replace(record, runner=self._me))
            _log.info("operation taken up", operation=record.id, type=record.type, done=record.done)
            self._carry_out(mine)

    def _carry_out(self, record: OperationRecord) -> None:
        task = asyncio.create_task(self._do(Operation(self._catalog, self._clock, record)))
        self._running[record.id] = task
        task.add_done_callback(lambda _: self._running.pop(record.id, None))

    async def _do(self, operation: Operation) -> None:
        """Do it to its end, through all trouble that passes."""
        work = self._works[operation.record.type]
        pause_s = FIRST_PAUSE_S
        try:
            while True:
                before = operation.record.place
                try:
                    await self._try(work, operation)
                except (ServiceError, ProviderError) as error:
                    failure = error if isinstance(error, ServiceError) else from_provider_error(error)
                    if not _passes(error):
                        await self._fail(work, operation, failure)
                        return
                    pause_s = FIRST_PAUSE_S if operation.record.place != before else pause_s
                    await self._wait_out(operation, failure, pause_s)
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                else:
                    await operation.end(DONE, message=operation.remark)
                    return
        except _Stopped:
            if not operation.is_lost:
                await work.abandon(operation.record)
                await operation.end(CANCELLED)
        except asyncio.CancelledError:
            await operation.release()
            raise
        except ServiceError as error:
            # The catalog does not answer: the record is taken up again once it does.
            _log.warning("operation interrupted", operation=operation.record.id, error=error.message)
        except Exception:  # noqa: BLE001  # a fault of ours, told to who asked for the work
            _log.exception("operation failed", operation=operation.record.id)
            fault = ServiceError(
                grpc.StatusCode.INTERNAL, "INTERNAL", "a fault of the server; its log has it"
            )
            await self._fail(work, operation, fault)

    async def _try(self, work: Work, operation: Operation) -> None:
        """Do it, and store its record all the while."""
        doing = asyncio.create_task(work.run(operation))
        beating = asyncio.create_task(_beat(operation))
        try:
            await asyncio.wait({doing, beating}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (doing, beating):
                task.cancel()
            results = await asyncio.gather(doing, beating, return_exceptions=True)
        if not doing.cancelled() and not isinstance(results[0], _Stopped):
            doing.result()
            return
        raise next((one for one in results if isinstance(one, Exception)), _Stopped())

    async def _wait_out(self, operation: Operation, error: ServiceError, pause_s: float) -> None:
        _log.warning("operation waits", operation=operation.record.id, error=error.message)
        ends_at = self._clock.monotonic() + pause_s
        while True:
            await operation.save(phase=f"waiting: {error.message}"[:500])
            left_s = ends_at - self._clock.monotonic()
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, BEAT_S))

    async def _fail(self, work: Work, operation: Operation, error: ServiceError) -> None:
        _log.error("operation failed", operation=operation.record.id, error=error.message)
        await work.abandon(operation.record)
        await operation.end(FAILED, reason=error.reason, message=error.message)

    # Calls

    async def require_idle(self, *storages: str) -> None:
        """Raise ServiceError if an operation is at work on one of these storages."""
        for record in await self.all():
            if record.state == RUNNING and {record.source, record.target} & {*storages}:
                raise ServiceError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "OPERATION_RUNNING",
                    f"operation {record.id} is at work on one of these storages; wait for it, or cancel it",
                    metadata={"operation": record.id},
                )

    async def begin(self, record: OperationRecord) -> OperationRecord:
        """Record a new operation and do it here."""
        await self._sweep()
        stored = await self._catalog.put(msgspec.structs.replace(record, runner=self._me))
        self._carry_out(stored)
        return stored

    async def _sweep(self) -> None:
        oldest = self._clock.now() - KEPT
        for record in await self._catalog.all(OperationRecord):
            if record.ended_at is not None and record.ended_at < oldest:
                with suppress(CatalogConflict):
                    await self._catalog.delete(record)

    async def get(self, operation_id: str) -> OperationRecord:
        """One operation."""
        record = await self._catalog.get(OperationRecord, operation_id)
        if record is None:
            raise ServiceError(
                grpc.StatusCode.NOT_FOUND,
                "OPERATION_NOT_FOUND",
                f"there is no operation {operation_id[:64]}; ListOperations tells which there are",
                field="name",
            )
        return record

    async def all(self) -> Sequence[OperationRecord]:
        """All operations, the newest first."""
        records = await self._catalog.all(OperationRecord)
        return sorted(records, key=lambda record: (record.created_at, record.id), reverse=True)

    async def cancel(self, operation_id: str) -> OperationRecord:
        """Have one end as soon as it can; one that has ended stays as it is."""
        while True:
            record = await self.get(operation_id)
            if record.state != RUNNING or record.is_cancelled:
                return record
            with suppress(CatalogConflict):
                return await self._catalog.put(msgspec.structs.replace(record, is_cancelled=True))

    async def watch(self, operation_id: str) -> AsyncGenerator[OperationRecord, None]:
        """One operation as it is, and each time that it has changed, until it has ended."""
        shown = 0
        while True:
            version = await self._catalog.version()
            record = await self.get(operation_id)
            if record.revision != shown:
                shown = record.revision
                yield record
            if record.state != RUNNING:
                return
            if self._draining:
                raise draining()
            await self._catalog.wait(version, timedelta(seconds=LOOK_S))


async def _beat(operation: Operation) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        await operation.save()


def _passes(error: Exception) -> bool:
    """Whether another try may do better."""
    if isinstance(error, ServiceError):
        return error.code is grpc.StatusCode.UNAVAILABLE
    return isinstance(error, Unavailable | Uncertain) or (
        isinstance(error, ProviderError) and from_provider_error(error).code is grpc.StatusCode.UNAVAILABLE
    )
