"""A storage in this process's memory: for tests, demonstrations and as the plainest reading of the interface.

No method suspends between reading and writing, so each is atomic on its event loop.
"""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any, ClassVar, Self

import msgspec

from spoolway_providers import digests, rules
from spoolway_providers.errors import (
    Conflict,
    Corrupt,
    CursorTooOld,
    NotFound,
    ProviderError,
    QueueFull,
    RequestIdReused,
    SessionClosed,
    TooLarge,
)
from spoolway_providers.interface import (
    RETENTION,
    Adoptee,
    Attention,
    Capabilities,
    Change,
    Changes,
    Claimed,
    Finding,
    Hints,
    LeaseView,
    LoginField,
    Order,
    Page,
    Provider,
    Query,
    SessionView,
    Step,
)
from spoolway_providers.model import (
    Backend,
    BlobRef,
    Draft,
    Job,
    JobKey,
    Policy,
    Session,
    SessionState,
    State,
    content_blob_id,
    new_object_id,
)

__all__ = ["MemoryProvider"]

_WAITING = frozenset({State.QUEUED, State.HELD})

_CAPABILITIES = Capabilities(
    max_document_bytes=4 << 20,
    wakes=True,
    heartbeat_writes=False,
    processes="one",
    priority=True,
    min_ttl=timedelta(milliseconds=10),
)


class _Request(msgspec.Struct, frozen=True):
    """What a request id stands for."""

    fingerprint: str
    key: JobKey
    at: datetime


class _Staged(msgspec.Struct):
    """A blob that nobody has named yet."""

    data: bytearray
    written_at: datetime


class _Snapshot(msgspec.Struct):
    """All of a storage's contents; the queues follow from the jobs."""

    ranked_at: datetime
    counter: int
    swept: int
    jobs: list[Job]
    changed: list[tuple[JobKey, int]]
    tombstones: list[tuple[JobKey, tuple[int, datetime]]]
    requests: list[tuple[tuple[str, str, str], _Request]]
    blobs: dict[str, bytes]
    inline: set[str]
    staged: dict[str, _Staged]
    sessions: dict[str, Session]
    closed_at: dict[str, datetime]
    backends: dict[str, Backend]
    public_keys: dict[str, bytes] = {}
    rounds: list[tuple[tuple[str, str], int]] = []


class MemoryProvider(Provider):
    """All in dictionaries; gone with the process."""

    description = "Memory of the server's process: nothing outlives it. For tests and demonstrations."
    login_fields: ClassVar[tuple[LoginField, ...]] = ()

    def __init__(self, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._ranked_at = datetime.min.replace(tzinfo=UTC)
        self._counter = 0
        self._swept = 0
        self._jobs: dict[JobKey, Job] = {}
        self._queues: dict[str, list[tuple[int, int, JobKey]]] = {}
        self._changed: dict[JobKey, int] = {}
        self._tombstones: dict[JobKey, tuple[int, datetime]] = {}
        self._requests: dict[tuple[str, str, str], _Request] = {}
        self._blobs: dict[str, bytes] = {}
        self._inline: set[str] = set()
        self._staged: dict[str, _Staged] = {}
        self._sessions: dict[str, Session] = {}
        self._closed_at: dict[str, datetime] = {}
        self._backends: dict[str, Backend] = {}
        self._public_keys: dict[str, bytes] = {}
        self._rounds: dict[tuple[str, str], int] = {}
        """The last round of each owner on each backend."""
        self._woken = asyncio.Event()
        self._hinted: set[str] = set()

    @classmethod
    def from_login(cls, login: Mapping[str, Any]) -> Self:
        """Make an empty one; there is nothing to log in to."""
        if login:
            raise ValueError(f"a memory storage takes no login field, so not {', '.join(sorted(login))!r}")
        return cls()

    @property
    def capabilities(self) -> Capabilities:
        """One process, any order."""
        return _CAPABILITIES

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Keep all: opened again, it goes on where it was."""

    # Snapshots, for storages that keep this one's contents somewhere

    def snapshot(self) -> bytes:
        """All contents as JSON, for `restore`."""
        return msgspec.json.encode(
            _Snapshot(
                ranked_at=self._ranked_at,
                counter=self._counter,
                swept=self._swept,
                jobs=list(self._jobs.values()),
                changed=list(self._changed.items()),
                tombstones=list(self._tombstones.items()),
                requests=list(self._requests.items()),
                blobs=self._blobs,
                inline=self._inline,
                staged=self._staged,
                sessions=self._sessions,
                closed_at=self._closed_at,
                backends=self._backends,
                public_keys=self._public_keys,
                rounds=list(self._rounds.items()),
            )
        )

    def restore(self, snapshot: bytes) -> None:
        """Put a snapshot in the place of all contents. Raises Corrupt."""
        try:
            found = msgspec.json.decode(snapshot, type=_Snapshot)
        except msgspec.MsgspecError as error:
            raise Corrupt(f"this is no snapshot of a storage: {error}") from error
        self._ranked_at, self._counter, self._swept = found.ranked_at, found.counter, found.swept
        self._jobs = {job.key: job for job in found.jobs}
        self._changed, self._tombstones = dict(found.changed), dict(found.tombstones)
        self._requests = dict(found.requests)
        self._blobs, self._inline, self._staged = found.blobs, found.inline, found.staged
        self._sessions, self._closed_at = found.sessions, found.closed_at
        self._backends = found.backends
        self._public_keys = found.public_keys
        self._rounds = dict(found.rounds)
        self._queues = {}
        for job in found.jobs:
            if job.state is State.QUEUED:
                insort(self._queues.setdefault(job.key.backend, []), (job.rank, job.seq, job.key))

    # Jobs

    async def submit(self, drafts: Sequence[Draft]) -> list[Job | ProviderError]:
        """See the interface."""
        return [self._submit(draft) for draft in drafts]

    def _submit(self, draft: Draft) -> Job | ProviderError:
        if not self._is_registered(draft.backend):
            return NotFound(f"there is no backend {draft.backend!r}")
        key = JobKey(draft.backend, new_object_id())
        content = draft.content
        ref = digests.blob_ref(content_blob_id(key), content) if isinstance(content, bytes) else content
        fingerprint = digests.draft_fingerprint(draft, ref.sha256)
        request = self._requests.get((draft.owner, draft.backend, draft.request_id))
        if request is not None:
            return self._repeat(draft, fingerprint, request)
        refusal = self._refuse(draft)
        if refusal is not None:
            return refusal
        now = self._clock()
        self._ranked_at = max(self._ranked_at, now)
        job = rules.admit(
            draft,
            key=key,
            content=ref,
            seq=self._counter + 1,
            now=now,
            ranked_at=self._ranked_at,
            turn=self._next_round(draft) if draft.round_robin else None,
        )
        if isinstance(content, bytes):
            self._blobs[ref.id] = content
            self._inline.add(ref.id)
        else:
            self._blobs[ref.id] = bytes(self._staged.pop(ref.id).data)
        if draft.request_id:
            self._requests[draft.owner, draft.backend, draft.request_id] = _Request(fingerprint, key, now)
        self._store(job)
        return job

    def _next_round(self, draft: Draft) -> int:
        queue = self._queues.get(draft.backend)
        if queue:
            serving = queue[0][0]
        else:
            given = (n for (backend, _), n in self._rounds.items() if backend == draft.backend)
            serving = max(given, default=int(self._ranked_at.timestamp() * 1000))
        name = (draft.backend, draft.owner)
        self._rounds[name] = rules.next_round(serving, self._rounds.get(name))
        return self._rounds[name]

    def _repeat(self, draft: Draft, fingerprint: str, request: _Request) -> Job | ProviderError:
        if request.fingerprint not in {"", fingerprint}:
            return RequestIdReused(f"request id {draft.request_id!r} came before, with another content")
        if request.key not in self._jobs:
            return NotFound(f"request id {draft.request_id!r} made {request.key}, which is deleted by now")
        return self._jobs[request.key]

    def _refuse(self, draft: Draft) -> ProviderError | None:
        if late := rules.late(draft):
            return late
        if draft.max_queued:
            waiting = (
                job
                for job in self._jobs.values()
                if job.key.backend == draft.backend and job.state in _WAITING
            )
            if sum(1 for _ in islice(waiting, draft.max_queued)) == draft.max_queued:
                return QueueFull(
                    f"backend {draft.backend!r} has {draft.max_queued} waiting jobs", draft.max_queued
                )
        if isinstance(draft.content, bytes):
            return self._too_large(draft.content)
        return self._not_staged(draft.content)

    def _too_large(self, data: bytes) -> ProviderError | None:
        limit = self.capabilities.max_document_bytes
        if len(data) <= limit:
            return None
        return TooLarge(f"{len(data)} bytes are more than {limit} in one document; stage them", limit)

    def _not_staged(self, ref: BlobRef) -> ProviderError | None:
        staged = self._staged.get(ref.id)
        if staged is None:
            return NotFound(f"no blob {ref.id!r} is staged")
        if len(staged.data) != ref.size:
            return NotFound(f"blob {ref.id!r} is staged with {len(staged.data)} bytes, not {ref.size}")
        return None

    async def claim(self, backend: str, orders: Sequence[Order]) -> list[Claimed]:
        """See the interface."""
        if not self._is_registered(backend):
            return []
        policy = self._backends[backend].policy or Policy()
        if policy.paused:
            return []
        live = [order for order in orders if self._is_live(order.session)]
        now = self._clock()
        # A job whose latest start has passed is the reaper's.
        ready = (key for _, _, key in self._queues.get(backend, ()) if not _is_past(self._jobs[key], now))
        heads = list(islice(ready, len(live)))
        claimed = []
        for order, key in zip(live, heads, strict=False):
            event = rules.Claim(order.token, order.session, order.spooler)
            job = rules.decide(self._jobs[key], event, self._clock(), policy)
            if isinstance(job, rules.Refusal):  # pragma: no cover - a queued job can always be claimed
                continue
            self._store(job)
            content = self._blobs[job.content.id] if job.content.id in self._inline else None
            claimed.append(Claimed(job, content))
        return claimed

    def _is_registered(self, backend: str) -> bool:
        return backend in self._backends and self._backends[backend].is_registered

    def _is_live(self, session_id: str) -> bool:
        session = self._sessions.get(session_id)
        return session is not None and session.state is SessionState.LIVE

    async def commit(self, changes: Sequence[Change]) -> list[Job | ProviderError]:
        """See the interface."""
        return [self._commit(change) for change in changes]

    def _commit(self, change: Change) -> Job | ProviderError:
        job = change.job
        current = self._jobs.get(job.key)
        if current is None:
            return NotFound(f"there is no {job.key}")
        if current.revision != change.expected_revision:
            return Conflict(f"{job.key} is at revision {current.revision} by now", current)
        if job.result is not None and job.result != current.result:
            refusal = self._keep_result(job.result, change.payload)
            if refusal is not None:
                return refusal
        self._store(job)
        return job

    def _keep_result(self, ref: BlobRef, payload: bytes | None) -> ProviderError | None:
        if payload is None:
            refusal = self._not_staged(ref)
            if refusal is None:
                self._blobs[ref.id] = bytes(self._staged.pop(ref.id).data)
            return refusal
        refusal = self._too_large(payload)
        if refusal is None:
            self._blobs[ref.id] = payload
        return refusal

    def _store(self, job: Job) -> None:
        """The one place where a job's document changes."""
        before = self._jobs.get(job.key)
        queue = self._queues.setdefault(job.key.backend, [])
        if before is not None and before.state is State.QUEUED:
            del queue[bisect_left(queue, (before.rank, before.seq, before.key))]
        if job.state is State.QUEUED:
            insort(queue, (job.rank, job.seq, job.key))
            self._hinted.add(job.key.backend)
        self._jobs[job.key] = job
        self._note_change(job.key)

    def _note_change(self, key: JobKey) -> None:
        self._counter += 1
        self._changed.pop(key, None)
        self._changed[key] = self._counter
        self._woken.set()

    async def get(self, key: JobKey) -> Job:
        """See the interface."""
        try:
            return self._jobs[key]
        except KeyError:
            raise NotFound(f"there is no {key}") from None

    async def find(self, query: Query) -> Page:
        """See the interface."""
        place = _by_due if query.due_before is not None else _by_seq
        jobs = sorted(self._matches(query), key=place, reverse=query.newest_first)
        if query.cursor:
            at = tuple(int(part) for part in query.cursor.split(":"))
            jobs = [job for job in jobs if (place(job) < at if query.newest_first else place(job) > at)]
        page = jobs[: query.limit]
        more = len(jobs) > len(page)
        return Page(page, _cursor_of(place(page[-1])) if more and page else "")

    def cursor_after(self, job: Job) -> str:
        """See the interface."""
        return _cursor_of(_by_seq(job))

    async def count(self, query: Query) -> int:
        """See the interface."""
        return sum(1 for _ in islice(self._matches(query), query.limit))

    def _matches(self, query: Query) -> Iterator[Job]:
        return (job for job in self._jobs.values() if self._is_match(job, query))

    def _is_match(self, job: Job, query: Query) -> bool:
        holder = job.holder
        return (
            (query.id is None or job.key.id == query.id)
            and (query.backend is None or job.key.backend == query.backend)
            and (query.owner is None or job.owner == query.owner)
            and (not query.states or job.state in query.states)
            and all(job.labels.get(name) == value for name, value in query.labels.items())
            and (query.session is None or (holder is not None and holder.session == query.session))
            and (query.due_before is None or (job.due_at is not None and job.due_at <= query.due_before))
            and (not query.orphaned or (holder is not None and not self._is_open(holder.session)))
        )

    def _is_open(self, session_id: str) -> bool:
        session = self._sessions.get(session_id)
        return session is not None and session.state is not SessionState.CLOSED

    async def position(self, job: Job, limit: int) -> int:
        """See the interface."""
        queue = self._queues.get(job.key.backend, [])
        return min(limit, bisect_left(queue, (job.rank, job.seq, job.key)))

    async def next_due(self) -> datetime | None:
        """See the interface."""
        return min((job.due_at for job in self._jobs.values() if job.due_at is not None), default=None)

    async def delete(self, key: JobKey, revision: int) -> None:
        """See the interface."""
        job = await self.get(key)
        if job.revision != revision or not job.is_terminal:
            raise Conflict(f"{key} is {job.state} at revision {job.revision}", job)
        del self._jobs[key]
        for ref in (job.content, job.result):
            if ref is not None:
                self._blobs.pop(ref.id, None)
                self._inline.discard(ref.id)
        self._note_change(key)
        self._tombstones[key] = (self._changed.pop(key), self._clock())

    async def adopt(self, adoptees: Sequence[Adoptee]) -> list[Job | ProviderError]:
        """See the interface."""
        return [self._adopt(adoptee) for adoptee in adoptees]

    def _adopt(self, adoptee: Adoptee) -> Job | ProviderError:
        job = adoptee.job
        backend = self._backends.get(job.key.backend)
        if backend is None:
            return NotFound(f"there is no backend {job.key.backend!r}")
        current = self._jobs.get(job.key)
        if current is not None and current.revision >= job.revision:
            return current
        new = [
            (ref, data)
            for ref, data, known in (
                (job.content, adoptee.content, current and current.content),
                (job.result, adoptee.result, current and current.result),
            )
            if ref is not None and ref != known
        ]
        for ref, data in new:
            refusal = self._not_staged(ref) if data is None else self._too_large(data)
            if refusal is not None:
                return refusal
        for ref, data in new:
            self._blobs[ref.id] = bytes(self._staged.pop(ref.id).data) if data is None else data
        if adoptee.content is not None:
            self._inline.add(job.content.id)
        if job.request_id and self._clock() - job.created_at < RETENTION:
            request = _Request(digests.job_fingerprint(job), job.key, job.created_at)
            self._requests.setdefault((job.owner, job.key.backend, job.request_id), request)
        if backend.policy is not None and backend.policy.round_robin and job.state in _WAITING:
            name = (job.key.backend, job.owner)
            self._rounds[name] = max(job.rank, self._rounds.get(name, job.rank))
        self._tombstones.pop(job.key, None)
        stored = msgspec.structs.replace(job, seq=current.seq if current else self._counter + 1)
        self._store(stored)
        return stored

    async def changes(self, cursor: str, limit: int = 1000) -> Changes:
        """See the interface."""
        if not cursor:
            return Changes([], [], str(self._counter), more=False)
        after = int(cursor) if cursor.isdecimal() else -1
        if not self._swept <= after <= self._counter:
            raise CursorTooOld(f"the changes since {cursor!r} are not known any more")
        newest_first = reversed(self._changed.items())
        news = [(change, key) for key, change in takewhile(lambda item: item[1] > after, newest_first)]
        news += [(change, key) for key, (change, _) in self._tombstones.items() if change > after]
        page = sorted(news)[:limit]
        more = len(news) > len(page)
        return Changes(
            [self._jobs[key] for _, key in page if key in self._jobs],
            [key for _, key in page if key not in self._jobs],
            str(page[-1][0] if more else self._counter),
            more,
        )

    async def wait(self, timeout: timedelta) -> Hints | None:
        """See the interface."""
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self._woken.wait()
        except TimeoutError:
            return None
        self._woken.clear()
        queued, self._hinted = frozenset(self._hinted), set()
        return Hints(queued, changed=True)

    # Blobs

    async def stage(self, blob_id: str, offset: int, data: bytes) -> int:
        """See the interface."""
        if blob_id in self._blobs:
            return _size_if_within(len(self._blobs[blob_id]), offset, data)
        staged = self._staged.get(blob_id)
        size = len(staged.data) if staged else 0
        if offset > size:
            raise Conflict(f"blob {blob_id!r} has {size} bytes so far, not {offset}", size)
        if not data:
            return size
        staged = self._staged.setdefault(blob_id, _Staged(bytearray(), self._clock()))
        staged.data[offset : offset + len(data)] = data
        staged.written_at = self._clock()
        return len(staged.data)

    async def read_staged(self, blob_id: str, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """See the interface."""
        try:
            return bytes(self._staged[blob_id].data[offset : offset + limit])
        except KeyError:
            raise NotFound(f"no blob {blob_id!r} is staged") from None

    async def read_blob(self, ref: BlobRef, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """See the interface."""
        try:
            return self._blobs[ref.id][offset : offset + limit]
        except KeyError:
            raise NotFound(f"there is no blob {ref.id!r}") from None

    # Sessions

    async def open_session(self, session: Session, *, predecessor_dead: bool = False) -> list[Session]:
        """See the interface."""
        if session.id in self._sessions:
            raise Conflict(f"there is a session {session.id!r} already", self._sessions[session.id])
        if any(rules.bars(old, session) for old in self._sessions.values()):
            raise SessionClosed(rules.SPOOLER_REVOKED)
        superseded = [
            rules.supersede(old, session, predecessor_dead=predecessor_dead)
            for old in self._sessions.values()
            if old.state is SessionState.LIVE
            and (old.principal, old.spooler_id) == (session.principal, session.spooler_id)
        ]
        for changed in (*superseded, session):
            self._put_session(changed)
        return superseded

    def _put_session(self, session: Session) -> None:
        self._sessions[session.id] = session
        if session.state is SessionState.CLOSED:
            self._closed_at[session.id] = self._clock()

    async def renew(self, session_id: str, beat: int, *, detached: bool = False) -> Attention:
        """See the interface."""
        session = self._sessions.get(session_id)
        if session is None:
            raise SessionClosed("SESSION_UNKNOWN")
        if session.state is not SessionState.LIVE:
            raise SessionClosed(session.reason)
        self._put_session(msgspec.structs.replace(session, beat=max(beat, session.beat), detached=detached))
        return Attention([_lease_view(job) for job in self._matches(Query(session=session_id))])

    async def close_session(self, session_id: str, beat: int | None, reason: str) -> bool:
        """See the interface."""
        session = self._sessions.get(session_id)
        if session is None or session.state is SessionState.CLOSED:
            return False
        if beat is not None and beat != session.beat:
            return False
        self._put_session(msgspec.structs.replace(session, state=SessionState.CLOSED, reason=reason))
        return True

    async def sessions(self, *, closed: bool = False) -> list[SessionView]:
        """See the interface."""
        return [
            SessionView(
                session,
                sum(1 for _ in self._matches(Query(session=session.id))),
                self._closed_at.get(session.id),
            )
            for session in self._sessions.values()
            if closed or session.state is not SessionState.CLOSED
        ]

    # Backends

    async def put_config(self, backend: str, config: bytes, etag: str | None) -> Backend:
        """See the interface."""
        current = self._backends.get(backend)
        new_etag = digests.config_etag(config)
        if current is not None and current.config_etag == new_etag:
            return current
        if etag is not None and etag != (current.config_etag if current else ""):
            raise Conflict(f"the config of backend {backend!r} has changed", current)
        if current is None:
            stored = Backend(backend, config, new_etag, None, "")
        else:
            stored = msgspec.structs.replace(current, config=config, config_etag=new_etag)
        return self._put_backend(stored)

    async def remove_config(self, backend: str, etag: str | None) -> Backend:
        """See the interface."""
        current = self._backends.get(backend)
        if current is None:
            raise NotFound(f"there is no backend {backend!r}")
        if not current.is_registered:
            return current
        if etag is not None and etag != current.config_etag:
            raise Conflict(f"the config of backend {backend!r} has changed", current)
        return self._put_backend(msgspec.structs.replace(current, config=b"", config_etag=""))

    async def put_policy(self, backend: str, policy: Policy, etag: str | None) -> Backend:
        """See the interface."""
        current = self._backends.get(backend)
        if current is None:
            raise NotFound(f"there is no backend {backend!r}")
        if etag is not None and etag != current.policy_etag:
            raise Conflict(f"the policy of backend {backend!r} has changed", current)
        if current.policy == policy:
            return current
        new_etag = digests.policy_etag(policy)
        return self._put_backend(msgspec.structs.replace(current, policy=policy, policy_etag=new_etag))

    def _put_backend(self, backend: Backend) -> Backend:
        self._backends[backend.name] = backend
        self._hinted.add(backend.name)
        self._woken.set()
        return backend

    async def backends(self) -> list[Backend]:
        """See the interface."""
        return [self._backends[name] for name in sorted(self._backends)]

    async def put_public_key(self, kid: str, key: bytes) -> bytes:
        """See the interface."""
        return self._public_keys.setdefault(kid, key)

    async def public_key(self, kid: str) -> bytes | None:
        """See the interface."""
        return self._public_keys.get(kid)

    async def public_keys(self) -> Mapping[str, bytes]:
        """See the interface."""
        return dict(self._public_keys)

    # Care

    async def repair(self, limit: int = 1000) -> list[Finding]:
        """See the interface; nothing is ever half done here, so only what is too old goes."""
        before = self._clock() - RETENTION
        old_blobs = [blob for blob, staged in self._staged.items() if staged.written_at < before][:limit]
        for blob in old_blobs:
            del self._staged[blob]
        for session_id in [s for s, at in self._closed_at.items() if at < before][:limit]:
            del self._sessions[session_id], self._closed_at[session_id]
        for request in [r for r, known in self._requests.items() if known.at < before][:limit]:
            del self._requests[request]
        for key in [k for k, (_, at) in self._tombstones.items() if at < before][:limit]:
            self._swept = self._tombstones.pop(key)[0]
        return [
            Finding("staged_blob", blob, "removed, since nobody named it for a day") for blob in old_blobs
        ]

    async def probe(self) -> list[Step]:
        """See the interface; memory is always there."""
        return [Step("write", ok=True, elapsed=timedelta(0))]


def _is_past(job: Job, now: datetime) -> bool:
    return job.due_at is not None and job.due_at <= now


def _cursor_of(place: Iterable[int]) -> str:
    return ":".join(map(str, place))


def _by_seq(job: Job) -> tuple[int, ...]:
    return (job.seq,)


def _by_due(job: Job) -> tuple[int, ...]:
    due = job.due_at or datetime.max.replace(tzinfo=UTC)
    return ((due - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1), job.seq)


def _size_if_within(size: int, offset: int, data: bytes) -> int:
    """The size of a committed blob, which a late repeat may write to but can't change."""
    if offset + len(data) > size:
        raise Conflict(f"the blob is committed with {size} bytes", size)
    return size


def _lease_view(job: Job) -> LeaseView:
    return LeaseView(job.key, job.attempts[-1].token, job.state, job.reason)
