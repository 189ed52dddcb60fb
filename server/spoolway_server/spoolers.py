"""Sessions of spoolers: opened, resumed, renewed, left; the same for streams and for unary calls."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import grpc
import msgspec
import structlog

from spoolway_providers.errors import NotFound, ProviderError, SessionClosed, Unavailable, Uncertain
from spoolway_providers.interface import Query
from spoolway_providers.model import ACTIVE_STATES, JobKey, SessionState, State, new_token
from spoolway_providers.model import Session as StoredSession
from spoolway_providers.rules import SPOOLER_REVOKED, Resume, SessionGone, Withdraw
from spoolway_server.auth import Principal
from spoolway_server.clock import Clock
from spoolway_server.errors import ServiceError, draining
from spoolway_server.leases import Update
from spoolway_server.sessions import Mailbox, Session, ending
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages

__all__ = ["HeldJob", "Opened", "Spoolers", "Timing"]

_log = structlog.get_logger(__name__)

IDLE_RENEWAL_S = 600.0
"""A session that holds nothing is renewed so seldom: just enough to tell it from a ghost."""
MAX_BACKENDS = 256
MAX_CONTENT_BYTES = 3 * 1024 * 1024
"""Of a content within an assignment, where a spooler does not say; gRPC's default limit is 4 MiB."""
MAX_HELD = 1000


class Timing(msgspec.Struct, frozen=True):
    """How often things happen, from the configuration."""

    heartbeat: timedelta = timedelta(seconds=10)
    """While a job is in hand; never more than a third of the lease."""
    idle_heartbeat: timedelta = timedelta(seconds=55)
    accept: timedelta = timedelta(seconds=3)
    unary_accept: timedelta = timedelta(seconds=10)
    stream_age: timedelta | None = None
    """When a stream is asked to reconnect, perhaps to another server; None: never."""


class HeldJob(msgspec.Struct, frozen=True):
    """A job that a spooler says it holds."""

    name: str
    key: JobKey
    token: str


class Opened(msgspec.Struct):
    """A session just opened, and what became of the jobs that the spooler held."""

    session: Session
    stored: StoredSession
    lease_ttl: timedelta
    kept: list[HeldJob]
    revoked: list[tuple[HeldJob, str]]


class Spoolers:
    """All sessions of this process."""

    def __init__(self, storages: Storages, timing: Timing, clock: Clock) -> None:
        """No sessions yet."""
        self._storages = storages
        self.clock = clock
        self.timing = timing
        self.draining = False
        """The server is about to stop: no new session."""
        self.sessions: dict[str, Session] = {}
        self._beats: dict[str, int] = {}
        self._renewed_at: dict[str, dict[str, float]] = {}
        """By session and storage."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()

    async def find_backends(self, names: Sequence[str], *, field: str) -> dict[str, Storage]:
        """The storages of registered backends; ServiceError if one is unknown or there are too many."""
        if not 1 <= len(names) <= MAX_BACKENDS:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "BACKENDS_INVALID",
                f"name 1 to {MAX_BACKENDS} backends",
                field=field,
            )
        found = [await self._storages.find_registered(name, field=field) for name in dict.fromkeys(names)]
        return {backend.name: storage for storage, backend in found}

    async def open(
        self,
        principal: Principal,
        *,
        spooler_id: str,
        instance_id: str,
        backends: Mapping[str, Storage],
        mailbox: Mailbox,
        accept_timeout: timedelta,
        held: Sequence[HeldJob] = (),
        predecessor_dead: bool = False,
        has_stream: bool = True,
        max_content_bytes: int = MAX_CONTENT_BYTES,
    ) -> Opened:
        """Open a session, let it take over what the spooler holds, and end its predecessors.

        It joins no dispatcher yet: `start` does that, once the spooler has been told. A session without a
        stream lives in the storage alone; its calls may come to any replica.
        """
        if self.draining:
            raise draining()
        policies = [storage.policy(name) for name, storage in backends.items()]
        stored = StoredSession(
            id=new_token(),
            spooler_id=spooler_id,
            instance_id=instance_id,
            principal=principal.name,
            backends=tuple(backends),
            opened_at=self.clock.now(),
            silence_limit=max(policy.lease_ttl + policy.resume_grace for policy in policies),
            has_stream=has_stream,
        )
        session = self._session(
            stored,
            backends,
            mailbox,
            accept_timeout,
            has_stream=has_stream,
            max_content_bytes=max_content_bytes,
        )
        opened = Opened(session, stored, min(policy.lease_ttl for policy in policies), [], [])
        try:
            for storage in session.storages:
                storage.require_usable()
                superseded = await storage.provider.open_session(stored, predecessor_dead=predecessor_dead)
                if has_stream:
                    storage.leases.sessions[session.id] = session
                await self._take_over(storage, opened, held)
                await self._end_predecessors(storage, superseded, instance_id)
        except SessionClosed as error:
            self.leave(session)
            raise _revoked(spooler_id) from error
        except BaseException:
            self.leave(session)
            raise
        opened.revoked += [(one, "BACKEND_NOT_IN_HELLO") for one in held if one.key.backend not in backends]
        if has_stream:
            self.sessions[session.id] = session
            self._beats[session.id] = 0
            opened_at = self.clock.monotonic()
            self._renewed_at[session.id] = {storage.name: opened_at for storage in session.storages}
        _log.info(
            "session opened",
            session=session.id,
            spooler=spooler_id,
            backends=list(backends),
            kept=len(opened.kept),
            revoked=len(opened.revoked),
        )
        return opened

    def attach(
        self,
        stored: StoredSession,
        backends: Mapping[str, Storage],
        mailbox: Mailbox,
        accept_timeout: timedelta,
    ) -> Session:
        """A call's view of a session without a stream; `detach` it at the end of the call."""
        return self._session(
            stored, backends, mailbox, accept_timeout, has_stream=False, max_content_bytes=MAX_CONTENT_BYTES
        )

    def _session(
        self,
        stored: StoredSession,
        backends: Mapping[str, Storage],
        mailbox: Mailbox,
        accept_timeout: timedelta,
        *,
        has_stream: bool,
        max_content_bytes: int,
    ) -> Session:
        return Session(
            stored.id,
            spooler_id=stored.spooler_id,
            instance_id=stored.instance_id,
            principal=stored.principal,
            backends=dict(backends),
            accept_timeout=accept_timeout,
            has_stream=has_stream,
            max_content_bytes=max_content_bytes,
            mailbox=mailbox,
            clock=self.clock,
        )

    def detach(self, session: Session) -> None:
        """A call is over: no more jobs for it. The session itself goes on."""
        session.closed = True
        for name, storage in session.backends.items():
            storage.dispatcher(name).leave(session)

    def all_storages(self) -> list[Storage]:
        """Every storage that is open."""
        return self._storages.usable()

    def start(self, session: Session) -> None:
        """Let it have jobs, as far as its credit goes."""
        for name, storage in session.backends.items():
            storage.dispatcher(name).join(session)

    async def _take_over(self, storage: Storage, opened: Opened, held: Sequence[HeldJob]) -> None:
        session = opened.session
        mine = [one for one in held if session.backends.get(one.key.backend) is storage]
        outcomes = await storage.leases.apply(
            [Update(one.key, Resume(one.token, session.id)) for one in mine]
        )
        for one, outcome in zip(mine, outcomes, strict=True):
            if isinstance(outcome, ServiceError):
                if outcome.code is grpc.StatusCode.UNAVAILABLE:
                    raise outcome
                opened.revoked.append((one, outcome.reason))
            else:
                session.take_over(outcome)
                opened.kept.append(one)
        if mine:
            storage.reaper.note_work()

    async def _end_predecessors(
        self, storage: Storage, superseded: Iterable[StoredSession], instance_id: str
    ) -> None:
        for old in superseded:
            local = self.sessions.get(old.id)
            if local is not None:
                same = old.instance_id == instance_id
                local.end("SESSION_CLOSED" if same else "SESSION_REPLACED")
            if old.state is SessionState.CLOSED:
                # The same process lives and does not have what it did not accept: that never reached it.
                await self.take_back(storage, old, never_reached=old.instance_id == instance_id)

    @staticmethod
    async def take_back(storage: Storage, old: StoredSession, *, never_reached: bool) -> int:
        """What a closed session held and nobody has taken over goes back now; returns how many jobs.

        With `never_reached` what it had not accepted is surely not what ended it.
        """
        page = await storage.provider.find(Query(session=old.id, limit=MAX_HELD))
        updates: list[Update] = []
        for job in page.jobs:
            holder = job.holder
            if holder is None:
                continue
            if never_reached and job.state is State.CLAIMED:
                event: Withdraw | SessionGone = Withdraw(
                    holder.token, "not accepted before its session ended"
                )
            else:
                event = SessionGone(old.id, old.reason)
            updates.append(Update(job.key, event, known=job))
        if updates:
            await storage.leases.apply(updates)
        return len(updates)

    # Renewal

    def heartbeat_interval(self, session: Session, lease_ttl: timedelta) -> timedelta:
        """How often the spooler should beat now."""
        if session.held or session.worked_since_renewal:
            return min(self.timing.heartbeat, lease_ttl / 3)
        return self.timing.idle_heartbeat

    async def renew(self, session: Session) -> None:
        """Record a sign of life where the session holds something, and act on what the storage answers.

        Raises:
            SessionClosed: it is over; the session has been ended.
            ProviderError: a storage did not take it: the beat must not be acknowledged.
        """
        now = self.clock.monotonic()
        renewed_at = self._renewed_at.get(session.id, {})
        due = [
            storage
            for storage in session.storages
            if now - renewed_at.get(storage.name, now) >= IDLE_RENEWAL_S
            or any(session.backends[key.backend] is storage for key in session.held)
        ]
        session.worked_since_renewal = False
        if not due:
            return
        beat = self._beats[session.id] = self._beats.get(session.id, 0) + 1
        try:
            for storage in due:
                await self._renew_in(storage, session, beat)
                renewed_at[storage.name] = now
        except SessionClosed as error:
            session.end(ending(error.reason))
            raise
        except ProviderError:
            session.worked_since_renewal = True
            raise

    @staticmethod
    async def _renew_in(storage: Storage, session: Session, beat: int) -> None:
        before = {key: held.token for key, held in session.held.items()}
        try:
            attention = await storage.provider.renew(session.id, beat)
        except (Unavailable, Uncertain) as error:
            storage.report(error)
            # Who can't renew is not silent.
            storage.reaper.pardon()
            raise
        except NotFound as error:
            raise SessionClosed("SESSION_CLOSED") from error
        leases = {lease.key: lease for lease in attention.leases}
        for key, token in before.items():
            if session.backends[key.backend] is not storage or session.known(key, token) is None:
                continue
            lease = leases.get(key)
            if lease is None or lease.token != token:
                session.drop(key, token)
                session.revoke(key, token, "LEASE_SUPERSEDED")
                session.credit_freed()
            elif lease.state is State.CANCELLING:
                job = await storage.provider.get(key)
                session.update_held(job)
                if job.state is State.CANCELLING:
                    session.cancel(job, storage.policy(key.backend).cancel_grace)

    # Ends

    async def drain(self, session: Session) -> None:
        """No more jobs for it; what it has not accepted goes back.

        Raises ServiceError (UNAVAILABLE) if that is not durable: drain again.
        """
        session.draining = True
        for storage in session.storages:
            updates = [
                Update(key, Withdraw(held.token, "the spooler drains"), known=held.job)
                for key, held in list(session.held.items())
                if held.job.state is State.CLAIMED and session.backends[key.backend] is storage
            ]
            for outcome in await storage.leases.apply(updates):
                if isinstance(outcome, ServiceError) and outcome.code is grpc.StatusCode.UNAVAILABLE:
                    raise outcome

    def leave(self, session: Session) -> None:
        """Its stream has ended: remember it nowhere here, and tell the storages in the background."""
        self.detach(session)
        self._gone.set()
        self.sessions.pop(session.id, None)
        self._renewed_at.pop(session.id, None)
        beat = self._beats.pop(session.id, 0) + 1
        for storage in session.storages:
            storage.leases.sessions.pop(session.id, None)
        task = asyncio.create_task(self._record_leaving(session, beat))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _record_leaving(self, session: Session, beat: int) -> None:
        """Close what holds nothing; mark the rest as detached. What fails here the reapers find."""
        for storage in session.storages:
            try:
                query = Query(session=session.id, states=tuple(ACTIVE_STATES), limit=1)
                if (await storage.provider.find(query)).jobs:
                    await storage.provider.renew(session.id, beat, detached=True)
                    storage.reaper.note_work()
                else:
                    await storage.provider.close_session(session.id, None, "STREAM_ENDED")
            except ProviderError as error:
                _log.info("leaving not recorded", session=session.id, storage=storage.name, error=str(error))

    async def settle(self) -> None:
        """Wait until everything about sessions that left has been recorded."""
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def wait_gone(self, timeout_s: float) -> None:
        """Wait until no stream is left, at most `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.sessions:
                    self._gone.clear()
                    await self._gone.wait()
        except TimeoutError:
            _log.warning("streams still open", sessions=len(self.sessions))


def _revoked(spooler_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        SPOOLER_REVOKED,
        f"an operator has ended this instance of {spooler_id}; once that is settled start the spooler anew: "
        "that is another instance",
        field="instance_id",
    )
