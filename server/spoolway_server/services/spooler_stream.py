"""StreamNextJobs: one object a stream, which turns messages into calls and calls into messages."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import timedelta

import grpc
import structlog

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.errors import ProviderError
from spoolway_providers.interface import Claimed
from spoolway_providers.model import Job, JobKey, Reason
from spoolway_providers.rules import Complete
from spoolway_server.auth import Principal
from spoolway_server.errors import ServiceError, from_provider_error
from spoolway_server.leases import Update
from spoolway_server.names import backend_name, job_name, resource_id
from spoolway_server.services.lease_updates import assignment_to_proto, held_from_proto, update_of
from spoolway_server.sessions import Session
from spoolway_server.spoolers import MAX_HELD, Opened, Spoolers
from spoolway_server.storage import Storage
from spoolway_server.translate import duration, reason_to_proto
from spoolway_server.uploads import UploadLimits

__all__ = ["SpoolerStream"]

_log = structlog.get_logger(__name__)

PROTOCOL = 1
DEFAULT_MESSAGE_BYTES = 4 * 1024 * 1024
"""gRPC's default limit of what a client receives."""
LEAVE_GRACE_S = 5.0
"""After goaway the client has so long to close the stream."""
HELLO_TIMEOUT_S = 10.0
FRAMING_BYTES = 64
"""Of the message around the first assignment in it, at most."""
MAX_PENDING_UPDATES = 10_000
"""Reports of one stream that wait to be committed; beyond it the stream is read no further."""


class SpoolerStream:
    """One call of StreamNextJobs. It is the mailbox of its session.

    The call's own coroutine writes; one task reads; reports are committed in batches: what came in during
    the last commit is the next batch.
    """

    def __init__(self, spoolers: Spoolers, principal: Principal, limits: UploadLimits) -> None:
        """Nothing is known of the spooler yet."""
        self._spoolers = spoolers
        self._principal = principal
        self._limits = limits
        self._max_message_bytes = DEFAULT_MESSAGE_BYTES
        self._session: Session | None = None
        self._lease_ttl = timedelta(seconds=30)
        self._outbox = _Outbox()
        self._pending: deque[pb.LeaseUpdate] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._beat_sequence = 0
        self._acked_sequence = 0
        self._interval = timedelta(0)
        self._ended = False
        self._moving_on: asyncio.TimerHandle | None = None

    async def run(
        self, requests: AsyncIterator[pb.StreamNextJobsRequest]
    ) -> AsyncGenerator[pb.StreamNextJobsResponse, None]:
        """Serve the stream until the client closes it, or some seconds after goaway."""
        opened = await self._hello(requests)
        session = self._session = opened.session
        reading = asyncio.create_task(self._read(requests))
        reading.add_done_callback(lambda _: self._outbox.wake())
        try:
            yield pb.StreamNextJobsResponse(welcome=self._welcome(opened))
            self._tell_cancels(session)
            self._spoolers.start(session)
            self._moving_on = self._move_on_later(session)
            async for response in self._write(reading):
                yield response
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            if self._moving_on is not None:
                self._moving_on.cancel()
            # Reports that came in are committed all the same; nobody waits for the answers.
            self._spoolers.leave(session)

    def _move_on_later(self, session: Session) -> asyncio.TimerHandle | None:
        """Ask for a new stream in time, so that streams spread over servers that came later."""
        age = self._spoolers.timing.stream_age
        if age is None:
            return None
        # Up to a fifth earlier, else all that came together would move together.
        early = 0.2 * int(session.id[:4], 16) / 0xFFFF
        delay_s = age.total_seconds() * (1 - early)
        return asyncio.get_running_loop().call_later(delay_s, session.end, "CONNECTION_AGE")

    # The mailbox of the session

    def assign(self, claimed: Sequence[Claimed]) -> None:
        """New jobs."""
        for one in claimed:
            assignment = assignment_to_proto(one)
            if assignment.ByteSize() + FRAMING_BYTES > self._max_message_bytes:
                assignment.ClearField("content")
            self._outbox.assignments.append(assignment)
        self._tell_interval()
        self._outbox.wake()

    def cancel(self, job: JobKey, token: str, reason: Reason, grace: timedelta) -> None:
        """A running job is to stop."""
        message = pb.Cancel(
            job=job_name(job), lease_token=token, reason=reason_to_proto(reason), grace=duration(grace)
        )
        self._outbox.control(pb.StreamNextJobsResponse(cancel=message))

    def revoke(self, job: JobKey, token: str, reason: str) -> None:
        """A lease is gone."""
        message = pb.Revoke(job=job_name(job), lease_token=token, reason=reason)
        self._outbox.control(pb.StreamNextJobsResponse(revoke=message))

    def end(self, reason: str) -> None:
        """Ask the client to close; it has LEAVE_GRACE_S seconds."""
        if not self._ended:
            self._ended = True
            self._outbox.control(
                pb.StreamNextJobsResponse(
                    goaway=pb.Goaway(reason=reason, reconnect_after=duration(timedelta(seconds=0)))
                )
            )

    # Hello

    async def _hello(self, requests: AsyncIterator[pb.StreamNextJobsRequest]) -> Opened:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                first = await anext(requests, None)
        except TimeoutError:
            raise _bad_hello("HELLO_MISSING", f"no hello within {HELLO_TIMEOUT_S:.0f} s") from None
        if first is None or first.WhichOneof("message") != "hello":
            raise _bad_hello("HELLO_MISSING", "the first message of a stream is hello")
        hello = first.hello
        if hello.protocol != PROTOCOL:
            raise _bad_hello("PROTOCOL_UNKNOWN", f"this server speaks protocol {PROTOCOL}")
        if len(hello.held) > MAX_HELD:
            raise _bad_hello("TOO_MANY_HELD", f"a session holds at most {MAX_HELD} jobs")
        spooler_id = resource_id(hello.spooler_id, field="hello.spooler_id")
        instance_id = resource_id(hello.instance_id, field="hello.instance_id")
        names = [backend_name(name, field="hello.backends") for name in hello.backends]
        held = [held_from_proto(one) for one in hello.held]
        if hello.max_message_bytes > 0:
            self._max_message_bytes = hello.max_message_bytes
        backends = await self._spoolers.find_backends(names, field="hello.backends")
        self._principal.require_backends(backends, field="hello.backends")
        opened = await self._spoolers.open(
            self._principal,
            spooler_id=spooler_id,
            instance_id=instance_id,
            backends=backends,
            mailbox=self,
            accept_timeout=self._spoolers.timing.accept,
            held=held,
            predecessor_dead=hello.predecessor_dead,
            max_content_bytes=self._max_message_bytes,
        )
        self._lease_ttl = opened.lease_ttl
        return opened

    def _welcome(self, opened: Opened) -> pb.Welcome:
        session = opened.session
        self._interval = self._spoolers.heartbeat_interval(session, self._lease_ttl)
        return pb.Welcome(
            session=session.id,
            lease_ttl=duration(self._lease_ttl),
            heartbeat_interval=duration(self._interval),
            accept_timeout=duration(session.accept_timeout),
            kept=[one.name for one in opened.kept],
            revoked=[
                pb.Revoke(job=one.name, lease_token=one.token, reason=reason)
                for one, reason in opened.revoked
            ],
            max_inline_bytes=self._limits.inline,
        )

    @staticmethod
    def _tell_cancels(session: Session) -> None:
        """Jobs taken over while they are being cancelled."""
        for held in list(session.held.values()):
            if held.job.state.name == "CANCELLING":
                storage = session.backends[held.job.key.backend]
                session.cancel(held.job, storage.policy(held.job.key.backend).cancel_grace)

    # Writing

    async def _write(self, reading: asyncio.Task[None]) -> AsyncIterator[pb.StreamNextJobsResponse]:
        """What is in the outbox, until the reader is done and all its reports are answered."""
        leave_at: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            for message in self._outbox.take(self._max_message_bytes):
                yield message
            if reading.done() and not self._unanswered() and self._outbox.is_empty():
                return
            if self._ended and leave_at is None:
                leave_at = loop.time() + LEAVE_GRACE_S
            try:
                async with asyncio.timeout_at(leave_at):
                    await self._outbox.wait()
            except TimeoutError:
                return

    def _unanswered(self) -> bool:
        return bool(self._pending) or any(
            task is not None and not task.done() for task in (self._committing, self._beating)
        )

    # Reading

    async def _read(self, requests: AsyncIterator[pb.StreamNextJobsRequest]) -> None:
        session = self._session
        if session is None:
            raise RuntimeError("no hello")
        async for request in requests:
            session.hear()
            match request.WhichOneof("message"):
                case "updates":
                    await self._take_updates(session, request.updates)
                case "credit":
                    _set_credit(session, request.credit)
                case "beat":
                    self._take_beat(session, request.beat.sequence)
                case "drain":
                    await self._drain(session, request.drain.sequence)
                case "hello":
                    raise _bad_hello("HELLO_REPEATED", "hello comes once a stream")
                case _:
                    raise _bad_hello("MESSAGE_EMPTY", "a message has exactly one of its fields set")

    async def _drain(self, session: Session, sequence: int) -> None:
        confirm = pb.Confirm(sequence=sequence)
        try:
            await self._spoolers.drain(session)
        except ServiceError as error:
            confirm.error.CopyFrom(error.to_proto())
        self._outbox.confirm(confirm)

    async def _take_updates(self, session: Session, updates: pb.LeaseUpdates) -> None:
        self._pending.extend(updates.updates)
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_pending(session))
            self._committing.add_done_callback(lambda _: self._outbox.wake())
        while len(self._pending) > MAX_PENDING_UPDATES:
            self._room.clear()
            await self._room.wait()

    async def _commit_pending(self, session: Session) -> None:
        while self._pending:
            batch = list(self._pending)
            self._pending.clear()
            self._room.set()
            try:
                await self._commit(session, batch)
            except Exception:  # noqa: BLE001  # a fault of ours: the reports are answered all the same
                _log.exception("reports not committed", session=session.id, reports=len(batch))
                fault = ServiceError(
                    grpc.StatusCode.UNAVAILABLE, "INTERNAL", "a fault of the server; send it again later"
                )
                for update in batch:
                    self._outbox.confirm(pb.Confirm(sequence=update.sequence, error=fault.to_proto()))

    async def _commit(self, session: Session, batch: Sequence[pb.LeaseUpdate]) -> None:
        """Commit reports, those of one storage together, and confirm each."""
        groups: dict[Storage, list[tuple[pb.LeaseUpdate, Update]]] = {}
        for report in batch:
            try:
                storage, update = await update_of(report, session, self._limits)
            except ServiceError as error:
                self._outbox.confirm(pb.Confirm(sequence=report.sequence, error=error.to_proto()))
            else:
                groups.setdefault(storage, []).append((report, update))
        for storage, reports in groups.items():
            outcomes = await storage.leases.apply([update for _, update in reports])
            for (report, update), outcome in zip(reports, outcomes, strict=True):
                self._outbox.confirm(_confirm(report, update, outcome))

    def _take_beat(self, session: Session, sequence: int) -> None:
        self._beat_sequence = max(self._beat_sequence, sequence)
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._renew(session))
            self._beating.add_done_callback(lambda _: self._outbox.wake())

    async def _renew(self, session: Session) -> None:
        """Acknowledge the newest beat once the renewal is durable; later beats meanwhile ride along."""
        while self._acked_sequence < self._beat_sequence and not session.closed:
            sequence = self._beat_sequence
            try:
                await self._spoolers.renew(session)
            except ProviderError as error:
                _log.warning("beat not durable", session=session.id, error=str(from_provider_error(error)))
                return
            self._acked_sequence = sequence
            self._tell_interval(always=True)

    def _tell_interval(self, *, always: bool = False) -> None:
        session = self._session
        if session is None:
            return
        interval = self._spoolers.heartbeat_interval(session, self._lease_ttl)
        if always or interval < self._interval:
            self._interval = interval
            beat = pb.ServerBeat(acked_sequence=self._acked_sequence, heartbeat_interval=duration(interval))
            self._outbox.control(pb.StreamNextJobsResponse(beat=beat))


class _Outbox:
    """What waits to be written: control messages overtake confirmations, these overtake assignments."""

    def __init__(self) -> None:
        self.assignments: deque[pb.Assignment] = deque()
        self._control: deque[pb.StreamNextJobsResponse] = deque()
        self._confirms: list[pb.Confirm] = []
        self._wake = asyncio.Event()

    def control(self, message: pb.StreamNextJobsResponse) -> None:
        self._control.append(message)
        self._wake.set()

    def confirm(self, confirm: pb.Confirm) -> None:
        self._confirms.append(confirm)
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    def is_empty(self) -> bool:
        return not (self.assignments or self._control or self._confirms)

    async def wait(self) -> None:
        await self._wake.wait()

    def take(self, max_bytes: int) -> list[pb.StreamNextJobsResponse]:
        """All of it, in as few messages as the client can receive."""
        self._wake.clear()
        messages = list(self._control)
        self._control.clear()
        if self._confirms:
            messages.append(pb.StreamNextJobsResponse(confirms=pb.Confirms(confirms=self._confirms)))
            self._confirms = []
        while self.assignments:
            messages.append(pb.StreamNextJobsResponse(assign=pb.Assign(jobs=self._some_jobs(max_bytes))))
        return messages

    def _some_jobs(self, max_bytes: int) -> list[pb.Assignment]:
        jobs = [self.assignments.popleft()]
        size = jobs[0].ByteSize() + FRAMING_BYTES
        while self.assignments and size + self.assignments[0].ByteSize() + 16 <= max_bytes:
            size += self.assignments[0].ByteSize() + 16
            jobs.append(self.assignments.popleft())
        return jobs


def _set_credit(session: Session, credit: pb.Credit) -> None:
    if credit.outstanding < 0 or credit.outstanding > MAX_HELD:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "CREDIT_INVALID",
            f"credit is a number from 0 to {MAX_HELD}",
            field="credit.outstanding",
        )
    if credit.backend and credit.backend not in session.backends:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "CREDIT_INVALID",
            "credit is for a backend of hello, or for none",
            field="credit.backend",
        )
    session.set_credit(credit.backend, credit.outstanding)


def _confirm(report: pb.LeaseUpdate, update: Update, outcome: Job | ServiceError) -> pb.Confirm:
    if isinstance(outcome, ServiceError):
        return pb.Confirm(sequence=report.sequence, error=outcome.to_proto())
    if isinstance(update.event, Complete) and outcome.result is not None:
        return pb.Confirm(sequence=report.sequence, result_sha256=outcome.result.sha256)
    return pb.Confirm(sequence=report.sequence)


def _bad_hello(reason: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message)
