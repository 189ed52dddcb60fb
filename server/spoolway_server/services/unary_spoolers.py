"""NextJob and ExtendLeases: a spooler without a stream."""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta

import grpc
import msgspec

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.errors import NotFound, SessionClosed, Unavailable, Uncertain
from spoolway_providers.interface import Attention, Claimed
from spoolway_providers.model import JobKey, Reason, SessionState, State
from spoolway_providers.model import Session as StoredSession
from spoolway_providers.rules import Accept, Event, Withdraw
from spoolway_server.auth import Principal
from spoolway_server.errors import ServiceError, draining
from spoolway_server.leases import Update
from spoolway_server.names import lease_token
from spoolway_server.services.lease_updates import assignment_to_proto, leased_key, progress_event
from spoolway_server.sessions import Session
from spoolway_server.spoolers import MAX_HELD, Spoolers
from spoolway_server.storage import Storage
from spoolway_server.translate import duration, reason_to_proto

__all__ = ["UnarySpoolers"]


class UnarySpoolers:
    """Sessions live in the storage alone: each call may come to another replica."""

    def __init__(self, spoolers: Spoolers) -> None:
        """Share sessions with the streams."""
        self._spoolers = spoolers
        self._waiting: set[_Box] = set()
        self._ending = False

    def end_waits(self) -> None:
        """The server is about to stop: no call waits any longer."""
        self._ending = True
        for box in self._waiting:
            box.end("DRAINING")

    async def next_job(
        self,
        caller: Principal,
        *,
        spooler_id: str,
        instance_id: str,
        backends: Sequence[str],
        session_id: str,
        wait_s: float,
    ) -> pb.NextJobResponse:
        """Take one job, waiting for it up to `wait_s` seconds."""
        if self._ending:
            raise draining()
        homes = await self._spoolers.find_backends(backends, field="backends")
        caller.require_backends(homes, field="backends")
        box = _Box()
        if session_id:
            stored = await self._find(caller, session_id, list(dict.fromkeys(homes.values())))
            stored = await self._keep_alive(stored)
            session = self._spoolers.attach(stored, homes, box, self._spoolers.timing.unary_accept)
        else:
            opened = await self._spoolers.open(
                caller,
                spooler_id=spooler_id,
                instance_id=instance_id,
                backends=homes,
                mailbox=box,
                accept_timeout=self._spoolers.timing.unary_accept,
                has_stream=False,
            )
            session, stored = opened.session, opened.stored
        claimed = None if self._ending else await self._wait(session, stored, box, wait_s)
        policies = [storage.policy(name) for name, storage in homes.items()]
        return pb.NextJobResponse(
            session=session.id,
            assignment=assignment_to_proto(claimed) if claimed else None,
            lease_ttl=duration(min(policy.lease_ttl for policy in policies)),
            accept_timeout=duration(session.accept_timeout),
        )

    async def _keep_alive(self, stored: StoredSession) -> StoredSession:
        """Renew a session that only ever waits, as often as one that holds something must."""
        beat = self._next_beat(stored)
        if beat - stored.beat < _renewal_s(stored) * 1_000_000:
            return stored
        homes = await self._spoolers.find_backends(stored.backends, field="session")
        for storage in dict.fromkeys(homes.values()):
            await _renew(storage, stored, beat)
        return msgspec.structs.replace(stored, beat=beat)

    def _next_beat(self, stored: StoredSession) -> int:
        """Microseconds: a number that differs from the last one, whichever replica gave that."""
        now = int(self._spoolers.clock.now().timestamp() * 1_000_000)
        # A clock that was set back must not look like silence.
        return max(now, stored.beat + 1)

    async def _wait(
        self, session: Session, stored: StoredSession, box: "_Box", wait_s: float
    ) -> Claimed | None:
        self._waiting.add(box)
        session.set_credit("", 1)
        self._spoolers.start(session)
        try:
            await self._wait_alive(stored, box, wait_s)
        except BaseException:
            # First: else a claim under way could still land in the box that nobody empties.
            self._spoolers.detach(session)
            await asyncio.shield(_give_back(session, box))
            raise
        finally:
            self._waiting.discard(box)
            self._spoolers.detach(session)
        return box.claimed

    async def _wait_alive(self, stored: StoredSession, box: "_Box", wait_s: float) -> None:
        """Wait for a job; a caller that waits longer than a lease lasts is alive all the same."""
        loop = asyncio.get_running_loop()
        ends_at, step_s = loop.time() + wait_s, _renewal_s(stored)
        while not await box.wait(min(step_s, ends_at - loop.time())) and loop.time() < ends_at:
            stored = await self._keep_alive(stored)

    async def extend(
        self, caller: Principal, session_id: str, leases: Sequence[pb.ExtendedLease]
    ) -> pb.ExtendLeasesResponse:
        """Renew a session, accept and report its jobs, and tell how each lease stands."""
        if len(leases) > MAX_HELD:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "TOO_MANY_LEASES",
                f"a session holds at most {MAX_HELD} jobs",
                field="leases",
            )
        parsed = [_parse(one) for one in leases]
        names = list(dict.fromkeys(key.backend for key, _, _ in parsed))
        caller.require_backends(names, field="leases.job")
        homes = await self._spoolers.find_backends(names, field="leases.job") if names else {}
        named = list(dict.fromkeys(homes.values()))
        stored = await self._find(caller, session_id, named or self._spoolers.all_storages())
        own = await self._spoolers.find_backends(stored.backends, field="session")
        beat = self._next_beat(stored)
        standing: dict[tuple[JobKey, str], pb.LeaseStanding] = {}
        for storage in dict.fromkeys([*named, *own.values()]):
            mine = [one for one in parsed if homes[one[0].backend] is storage]
            await self._apply(storage, mine, standing)
            is_own = storage in own.values()
            attention = await _renew(storage, stored, beat) if is_own else Attention([])
            _judge(storage, mine, attention, standing)
        ttl = min(storage.policy(name).lease_ttl for name, storage in own.items())
        return pb.ExtendLeasesResponse(
            leases=[standing[key, token] for key, token, _ in parsed], lease_ttl=duration(ttl)
        )

    async def _find(self, caller: Principal, session_id: str, storages: Sequence[Storage]) -> StoredSession:
        for storage in storages:
            storage.require_usable()
            for view in await storage.provider.sessions():
                session = view.session
                if session.id == session_id and session.principal == caller.name:
                    if session.state is not SessionState.LIVE:
                        raise _session_over(session.reason)
                    return session
        raise _session_over("SESSION_CLOSED")

    @staticmethod
    async def _apply(
        storage: Storage,
        leases: Sequence[tuple[JobKey, str, pb.ExtendedLease]],
        standing: dict[tuple[JobKey, str], pb.LeaseStanding],
    ) -> None:
        updates = [Update(key, _event(token, one)) for key, token, one in leases]
        outcomes = await storage.leases.apply(updates) if updates else []
        for (key, token, one), outcome in zip(leases, outcomes, strict=True):
            made = standing[key, token] = pb.LeaseStanding(job=one.job)
            if isinstance(outcome, ServiceError):
                if outcome.code is grpc.StatusCode.UNAVAILABLE:
                    raise outcome
                made.revoked.CopyFrom(pb.Revoke(job=one.job, lease_token=token, reason=outcome.reason))


class _Box:
    """The mailbox of one NextJob call."""

    def __init__(self) -> None:
        self.claimed: Claimed | None = None
        self._wake = asyncio.Event()

    def assign(self, claimed: Sequence[Claimed]) -> None:
        self.claimed = claimed[0]
        self._wake.set()

    def cancel(self, job: JobKey, token: str, reason: Reason, grace: timedelta) -> None:
        """ExtendLeases tells it."""

    def revoke(self, job: JobKey, token: str, reason: str) -> None:
        """ExtendLeases tells it."""

    def end(self, reason: str) -> None:
        self._wake.set()

    async def wait(self, timeout_s: float) -> bool:
        """Whether there is a job, or the wait is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        return self._wake.is_set()


def _renewal_s(session: StoredSession) -> float:
    """How often a session that waits is renewed, in seconds; one renewal may fail."""
    return session.silence_limit.total_seconds() / 3


def _parse(lease: pb.ExtendedLease) -> tuple[JobKey, str, pb.ExtendedLease]:
    token = lease_token(lease.lease_token, field="leases.lease_token")
    return leased_key(lease.job, field="leases.job"), token, lease


def _event(token: str, lease: pb.ExtendedLease) -> Event:
    return progress_event(token, lease.progress) if lease.HasField("progress") else Accept(token)


async def _renew(storage: Storage, session: StoredSession, beat: int) -> Attention:
    try:
        return await storage.provider.renew(session.id, beat)
    except (Unavailable, Uncertain) as error:
        storage.report(error)
        # Who can't renew is not silent.
        storage.reaper.pardon()
        raise
    except SessionClosed as error:
        raise _session_over(error.reason) from error
    except NotFound as error:
        raise _session_over("SESSION_CLOSED") from error


def _judge(
    storage: Storage,
    leases: Sequence[tuple[JobKey, str, pb.ExtendedLease]],
    attention: Attention,
    standing: dict[tuple[JobKey, str], pb.LeaseStanding],
) -> None:
    held = {(lease.key, lease.token): lease for lease in attention.leases}
    for key, token, one in leases:
        lease = held.get((key, token))
        if lease is None:
            if not standing[key, token].HasField("revoked"):
                standing[key, token].revoked.CopyFrom(
                    pb.Revoke(job=one.job, lease_token=token, reason="LEASE_SUPERSEDED")
                )
        elif lease.state is State.CANCELLING:
            standing[key, token].cancel.CopyFrom(
                pb.Cancel(
                    job=one.job,
                    lease_token=token,
                    reason=reason_to_proto(lease.reason),
                    grace=duration(storage.policy(key.backend).cancel_grace),
                )
            )


async def _give_back(session: Session, box: _Box) -> None:
    """The caller went away: a job claimed for it returns at once."""
    if box.claimed is not None and box.claimed.job.holder is not None:
        job = box.claimed.job
        update = Update(job.key, Withdraw(box.claimed.job.holder.token, "the caller went away"), known=job)
        await session.backends[job.key.backend].leases.apply([update])


def _session_over(reason: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED,
        "SESSION_REPLACED" if reason == "SESSION_REPLACED" else "SESSION_CLOSED",
        f"the session is over ({reason}); call NextJob without a session to open a new one",
    )
