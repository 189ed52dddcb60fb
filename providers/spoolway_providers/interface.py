"""What a storage provider must do: a compare-and-set store with an ordered claim.

An implementer promises what each method's docstring says, across tasks, threads and, where
`capabilities.processes` says so, processes. The rules are not the implementer's: a job changes only into
what `rules.decide` made. Every method may raise `Unavailable` (surely nothing was done), `Uncertain` (the
outcome is unknown) and `Corrupt`; others are named. Run `conformance.ProviderConformance` over it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import msgspec

from spoolway_providers.errors import ProviderError, Unsupported
from spoolway_providers.model import Backend, BlobRef, Draft, Job, JobKey, Policy, Reason, Session, State

__all__ = [
    "RETENTION",
    "Adoptee",
    "Attention",
    "Capabilities",
    "Change",
    "Changes",
    "Claimed",
    "Finding",
    "Hints",
    "Installation",
    "LeaseView",
    "LoginField",
    "Order",
    "Page",
    "Portion",
    "Provider",
    "Query",
    "SessionView",
    "Step",
]

RETENTION = timedelta(hours=24)
"""How long request ids, closed sessions, tombstones and blobs that nobody named are kept at least."""


class Capabilities(msgspec.Struct, frozen=True):
    """What this storage is able to do."""

    max_document_bytes: int
    """Longest inline content or result; longer ones must be staged."""
    wakes: bool
    """`wait` returns at once on changes made by other processes."""
    heartbeat_writes: bool
    """Sessions live in the storage; if not, in the one owner's memory."""
    processes: Literal["one", "host", "many"]
    """Who may share it: one process, the processes of one host, or any number anywhere."""
    priority: bool
    """Orders other than first in, first out are kept."""
    min_ttl: timedelta
    """Shortest sensible lease."""


class LoginField(msgspec.Struct, frozen=True):
    """One field of the login, as an operator writes it."""

    name: str
    description: str
    required: bool = True
    secret: bool = False
    default: str = ""


class Order(msgspec.Struct, frozen=True):
    """One free place: whoever it is for, and the token its lease will have."""

    session: str
    spooler: str
    token: str


class Claimed(msgspec.Struct, frozen=True):
    """A job taken, with its content where that is inline; else None: read the blob."""

    job: Job
    content: bytes | None


class Change(msgspec.Struct, frozen=True):
    """One compare-and-set."""

    job: Job
    """The new document, made by `rules.decide`."""
    expected_revision: int
    """Of the document that it was made from."""
    payload: bytes | None = None
    """The bytes of `job.result`, stored in the same commit; None if there is none, or it is staged."""


class Adoptee(msgspec.Struct, frozen=True):
    """A job as another storage had it."""

    job: Job
    """All of it is kept but its `seq`."""
    content: bytes | None = None
    """None: staged under the id of `job.content`."""
    result: bytes | None = None
    """None: there is none, or it is staged under the id of `job.result`."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs; all given conditions must hold."""

    id: str | None = None
    backend: str | None = None
    owner: str | None = None
    states: tuple[State, ...] = ()
    labels: Mapping[str, str] = {}
    session: str | None = None
    """Held by this session now."""
    due_before: datetime | None = None
    """Whose `due_at` is this moment or an earlier one."""
    orphaned: bool = False
    """Held by a session that is closed or missing."""
    newest_first: bool = False
    """Order by `seq`; oldest first by default. With `due_before`, the earliest due time comes first."""
    limit: int = 100
    cursor: str = ""
    """From the page before; goes with the same query only."""


class Page(msgspec.Struct, frozen=True):
    """Some jobs, and how to go on; an empty cursor is the end."""

    jobs: list[Job]
    cursor: str


class Changes(msgspec.Struct, frozen=True):
    """Commits since a cursor: each changed job once, in its newest revision."""

    jobs: list[Job]
    deleted: list[JobKey]
    cursor: str
    more: bool
    """The limit was reached: ask again at once."""


class Hints(msgspec.Struct, frozen=True):
    """What may have happened. May lie, be late or miss."""

    queued: frozenset[str] | None
    """Backends that may have new claimable jobs; None: any."""
    changed: bool
    """`changes` may have something new, or another process has changed a backend or ended a session."""
    missed: int = 0
    """Changes that a poll of the storage found before any wake-up told of them; for its operators."""


class LeaseView(msgspec.Struct, frozen=True):
    """A job that a session holds."""

    key: JobKey
    token: str
    state: State
    reason: Reason


class Attention(msgspec.Struct, frozen=True):
    """What a session holds, by the storage's word; read at each renewal."""

    leases: list[LeaseView]


class SessionView(msgspec.Struct, frozen=True):
    """A session and the number of jobs it holds."""

    session: Session
    leases: int
    closed_at: datetime | None = None


class Finding(msgspec.Struct, frozen=True):
    """Something half done that `repair` found and mended."""

    kind: str
    subject: str
    action: str


class Step(msgspec.Struct, frozen=True):
    """One step of `probe`."""

    name: str
    ok: bool
    elapsed: timedelta
    advice: str = ""


class Portion(msgspec.Struct, frozen=True):
    """Some jobs of another system, and how to go on; an empty `after` is the end."""

    adoptees: list[Adoptee]
    """The backend of a job of which nothing says where it belongs is empty."""
    after: str


class Installation(ABC):
    """What another system has left, read as if it were ours; nothing is ever written. Opened, then closed."""

    @abstractmethod
    async def open(self) -> None:
        """Connect. Raises LoginRefused, Unavailable."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything. Safe to repeat; safe if never opened."""

    @abstractmethod
    async def backends(self) -> Mapping[str, bytes]:
        """The configs by the backends' names. Raises Corrupt."""

    @abstractmethod
    async def public_keys(self) -> Mapping[str, bytes]:
        """All public keys, by id."""

    @abstractmethod
    async def jobs(self, after: str, limit: int) -> Portion:
        """At most `limit` jobs, from `after` on, which is empty at the start.

        Read again, a job is the same; in a later revision if it has moved on in the other system.
        """


class Provider(ABC):
    """One storage of one type. Made by `from_login`, opened once, closed by who opened it."""

    description: ClassVar[str]
    """One sentence about this type of storage."""
    login_fields: ClassVar[tuple[LoginField, ...]]
    """What `from_login` takes."""
    sign_in_field: ClassVar[str] = ""
    """The field that an account's owner need not give who signs in on a page, which shows a code; empty:
    there is no signing in."""

    @classmethod
    def sign_in_page(cls, login: Mapping[str, Any]) -> str:
        """The address of that page. No I/O; ValueError names a field that is missing or wrong."""
        raise Unsupported("there is no signing in here: give the login's fields")

    @classmethod
    async def finish_sign_in(cls, login: Mapping[str, Any], code: str) -> Mapping[str, Any]:
        """The whole login that a code stands for; a code is good once.

        Raises LoginRefused (the code, or what the owner allowed, is not enough) and Unavailable.
        """
        raise Unsupported("there is no signing in here: give the login's fields")

    @classmethod
    @abstractmethod
    def from_login(cls, login: Mapping[str, Any]) -> Self:
        """Make one from the fields an operator gave. No I/O; ValueError names a wrong field."""

    @classmethod
    def installation(cls, login: Mapping[str, Any], *, owner: str, now: datetime) -> Installation | None:
        """What another system keeps at this login, if its layout is not ours; None: open it as a storage.

        No I/O. `owner` has the jobs that do not say whose they are; `now` is the time of those that do not
        say when.
        """
        return None

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this storage can do; constant once open."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What has happened since it was opened, by name, for metrics; the names are few and fixed."""
        return {}

    @abstractmethod
    async def open(self) -> None:
        """Connect, create what is missing, migrate an older schema, refuse a newer one (Corrupt).

        May be called again after it failed. Raises LoginRefused, Unavailable, NotOwner.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what is under way and let go of everything. Safe to repeat; safe if never opened."""

    async def is_settled(self) -> bool:
        """Whether all that lies in it is to be found; who adopts others' documents may be at it still."""
        return True

    # Jobs

    @abstractmethod
    async def submit(self, drafts: Sequence[Draft]) -> list[Job | ProviderError]:
        """Store jobs; each is durable and claimable on return, with `seq` in list order.

        Each is atomic with its request id: key (owner, backend, request_id), kept for 24 h, also beyond
        the job's deletion. A repeat returns the existing job, also while its twin is in flight; with
        other content or options it is RequestIdReused. The rank of a draft with `round_robin` is
        `rules.next_round`, kept in the same commit.

        Returns:
            One for each draft, in order: the job, or RequestIdReused, QueueFull (QUEUED and HELD jobs
            count), Expired (a late draft is no repeat), NotFound (no such backend, a staged blob is
            missing or has another size, or the job of a repeated request id is deleted by now),
            TooLarge, Unsupported (priority, turns or delay).
        """

    @abstractmethod
    async def claim(self, backend: str, orders: Sequence[Order]) -> list[Claimed]:
        """Take up to len(orders) QUEUED jobs of `backend`, first by (rank, seq), one for each order in turn.

        Each becomes what `rules.decide(job, Claim(...))` makes of it; one winner each, across all
        processes. An order whose session is not LIVE takes none, and a job whose `due_at` has passed is
        left to whoever expires it. None at all while the policy says
        paused or the backend does not exist. After Uncertain: look with `find(session=...)`.
        """

    @abstractmethod
    async def commit(self, changes: Sequence[Change]) -> list[Job | ProviderError]:
        """Store each changed job if its stored revision is the expected one.

        Staged results that it names become visible with it.

        Returns:
            One for each change, in order: the job, or Conflict(current), NotFound (job or staged blob),
            TooLarge (payload).
        """

    @abstractmethod
    async def get(self, key: JobKey) -> Job:
        """The committed job, never torn. Raises NotFound."""

    @abstractmethod
    async def find(self, query: Query) -> Page:
        """Jobs by query, in pages of at most `query.limit`."""

    @abstractmethod
    def cursor_after(self, job: Job) -> str:
        """The cursor with which `find`, without `due_before`, goes on after any job."""

    @abstractmethod
    async def count(self, query: Query) -> int:
        """How many jobs match, up to `query.limit`; that number means "as many or more"."""

    @abstractmethod
    async def position(self, job: Job, limit: int) -> int:
        """How many QUEUED jobs of its backend come before `job`, up to `limit`."""

    @abstractmethod
    async def next_due(self) -> datetime | None:
        """The earliest `due_at` of any job."""

    @abstractmethod
    async def delete(self, key: JobKey, revision: int) -> None:
        """Remove a terminal job with its blobs; its request id stays known. Raises Conflict, NotFound."""

    @abstractmethod
    async def changes(self, cursor: str, limit: int = 1000) -> Changes:
        """Every commit after `cursor`, at least once, newest revision. Raises CursorTooOld.

        An empty cursor returns no jobs but the cursor of now: take it before a snapshot.
        """

    @abstractmethod
    async def wait(self, timeout: timedelta) -> Hints | None:
        """Wait for hints about what happened since the last call; None after `timeout`.

        One waiter a process at a time; hints that come between two calls are kept for the next.
        """

    async def adopt(self, adoptees: Sequence[Adoptee]) -> list[Job | ProviderError]:
        """Store jobs of another storage as they are: id, owner, rank, revision, state and all that happened.

        Only `seq` is given here, in list order and after all that is there. Each is atomic. What is there
        already in this revision or a newer one stays, so that a repeat changes nothing; an older revision is
        replaced, and keeps its `seq`. Request ids are known from then on, for RETENTION from the submit.

        Returns:
            One for each, in order: the job as it is stored, or NotFound (no such backend, a staged blob is
            missing), TooLarge, Conflict (its id belongs to another job here).
        """
        raise Unsupported("this type of storage can't take over jobs; choose another type as the target")

    # Blobs

    @abstractmethod
    async def stage(self, blob_id: str, offset: int, data: bytes) -> int:
        """Write `data` at `offset` of a staged blob and return its size so far.

        Idempotent at its offset; Conflict(current=size) if `offset` lies beyond the size. Empty `data`
        only asks. Invisible until one submit or commit names it, and unchangeable from then on; else
        swept by `repair` 24 h after the last write.
        """

    @abstractmethod
    async def read_staged(self, blob_id: str, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """At most `limit` bytes of a staged blob that is not named yet; empty at its end. Raises NotFound.

        For its checksum, before a submit or commit names it.
        """

    @abstractmethod
    async def read_blob(self, ref: BlobRef, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """At most `limit` bytes of a committed blob from `offset`; empty at its end. Raises NotFound."""

    # Sessions

    @abstractmethod
    async def open_session(self, session: Session, *, predecessor_dead: bool = False) -> list[Session]:
        """Store a new LIVE session; what it superseded (`rules.supersede`) is returned in its new state.

        At most one session is LIVE for a (principal, spooler_id). Raises Conflict(current) if there is a
        session of this id already, and SessionClosed(SPOOLER_REVOKED), with nothing superseded, if a session
        that is still known bars it (`rules.bars`).
        """

    @abstractmethod
    async def renew(self, session_id: str, beat: int, *, detached: bool = False) -> Attention:
        """Record a sign of life, durably, and return what the session holds.

        The stored beat never falls, as a late renewal must not look like silence. Raises
        SessionClosed(reason) unless it is LIVE, with SESSION_UNKNOWN if there is none; then nothing
        was written.
        """

    @abstractmethod
    async def close_session(self, session_id: str, beat: int | None, reason: str) -> bool:
        """Close a session for ever if its beat is still `beat`; None: whatever it is.

        Returns False if the beat has moved on or it is closed or missing. Its jobs are then orphaned.
        """

    @abstractmethod
    async def sessions(self, *, closed: bool = False) -> list[SessionView]:
        """All sessions that are LIVE or REPLACED; with `closed` also those CLOSED within RETENTION.

        A storage that keeps no sessions on a disk may have forgotten closed ones earlier.
        """

    # Backends

    @abstractmethod
    async def put_config(self, backend: str, config: bytes, etag: str | None) -> Backend:
        """Create or replace a backend's config; only if its etag is `etag`, unless that is None.

        A backend that does not exist has the etag "". The same bytes again change nothing, whatever the
        etag. Raises Conflict(current).
        """

    @abstractmethod
    async def remove_config(self, backend: str, etag: str | None) -> Backend:
        """Take a backend's config away; only if its etag is `etag`, unless that is None.

        From then on submit and claim treat it as if it did not exist (another process may take a submit for
        some seconds more), until `put_config` gives it one again. Its jobs and its policy stay, so that a
        pause is not lifted so. Repeated it changes nothing. Raises Conflict(current), NotFound.
        """

    @abstractmethod
    async def put_policy(self, backend: str, policy: Policy, etag: str | None) -> Backend:
        """Replace a backend's policy; only if its etag is `etag`, unless None. Raises Conflict, NotFound.

        Its waiting jobs may be claimable by now: `wait` hints at the backend.
        """

    @abstractmethod
    async def backends(self) -> list[Backend]:
        """All backends, by name."""

    @abstractmethod
    async def put_public_key(self, kid: str, key: bytes) -> bytes:
        """Keep a public key, a JSON document, under its id, by which signed documents name it.

        The first one counts for ever, whoever puts another at whatever time. Returns the one that is kept.
        """

    @abstractmethod
    async def public_key(self, kid: str) -> bytes | None:
        """The public key of this id; None if there is none."""

    async def public_keys(self) -> Mapping[str, bytes]:
        """All public keys, by id."""
        raise Unsupported("this type of storage can't list its public keys")

    # Care

    @abstractmethod
    async def repair(self, limit: int = 1000) -> list[Finding]:
        """Redo what a crash left half done and sweep what is too old. Safe beside traffic; idempotent."""

    async def inspect(self, *, repair: bool, limit: int = 1000) -> list[Finding]:
        """What lies here that belongs to no job, or lies twice; with `repair` it is put out of the way.

        Safe beside traffic: what may be under way is left alone.
        """
        return []

    async def back_up(self, target: Path, on_progress: Callable[[int, int], None]) -> int:
        """Copy all of the storage as it is at one moment into a new file; also if it is not open.

        Who works on it meanwhile is not held up. The file has its name once it is whole, checked and on the
        disk. `on_progress` is told how much is done, and of how much, in any thread.

        Returns:
            The size of the file in bytes.

        Raises:
            NotFound: there is nothing yet.
            OSError: the file can't be written, or is there already.
        """
        raise Unsupported("this type of storage has no backup of its own; use the means of its system")

    @abstractmethod
    async def probe(self) -> list[Step]:
        """Try all that is needed of the storage, on documents of its own that it removes again.

        A failed step is reported, not raised; what needs it is left out.
        """
