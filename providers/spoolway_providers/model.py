"""The domain's records: immutable, typed, and the same for every storage.

Times are aware UTC datetimes of the wall clock and are for people and for due times only; no two
machines' clocks are ever compared. Durations are timedeltas. All records encode to JSON with msgspec.
"""

import secrets
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import count
from time import time

import msgspec

__all__ = [
    "ACTIVE_STATES",
    "TERMINAL_STATES",
    "Attempt",
    "Backend",
    "BlobRef",
    "Draft",
    "Failure",
    "Job",
    "JobKey",
    "Outcome",
    "Policy",
    "Reason",
    "Session",
    "SessionState",
    "State",
    "Transition",
    "content_blob_id",
    "new_object_id",
    "new_token",
    "result_blob_id",
    "unreadable_blob_id",
]


class State(StrEnum):
    """Where a job stands; the nine states of the contract."""

    QUEUED = "QUEUED"
    HELD = "HELD"
    CLAIMED = "CLAIMED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    DONE = "DONE"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


TERMINAL_STATES = frozenset({State.DONE, State.ERROR, State.CANCELLED, State.EXPIRED})
"""States that only retry and delete leave."""

ACTIVE_STATES = frozenset({State.CLAIMED, State.RUNNING, State.CANCELLING})
"""States in which a session holds the job."""


class Reason(StrEnum):
    """Why a job is in its state, where the state does not say it all."""

    NONE = ""
    DELAYED = "DELAYED"
    OPERATOR = "OPERATOR"
    IMPORTED = "IMPORTED"
    SPOOLER_LOST = "SPOOLER_LOST"
    FOREIGN = "FOREIGN"
    USER = "USER"
    TIMEOUT = "TIMEOUT"
    POISON = "POISON"
    ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"
    FAILED = "FAILED"


class Outcome(StrEnum):
    """How an attempt ended; OPEN may commit, LOST may commit or resume until the next claim."""

    OPEN = "OPEN"
    LOST = "LOST"
    WITHDRAWN = "WITHDRAWN"
    RELEASED = "RELEASED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    DONE = "DONE"


class JobKey(msgspec.Struct, frozen=True, order=True):
    """Names one job within a storage."""

    backend: str
    id: str

    def __str__(self) -> str:
        return f"backends/{self.backend}/jobs/{self.id}"


class BlobRef(msgspec.Struct, frozen=True):
    """Names bytes in the storage: a job's content, or a result."""

    id: str
    size: int
    """Length in bytes."""
    sha256: str
    """64 lower-case hex digits."""


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One claim of a job."""

    number: int
    token: str
    """The fencing token; empty once RetryJob has voided it."""
    session: str
    spooler: str
    claimed_at: datetime
    accepted_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: Outcome = Outcome.OPEN
    detail: str = ""


class Transition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A moment at which a job entered a state."""

    state: State
    at: datetime
    reason: Reason = Reason.NONE


class Failure(msgspec.Struct, frozen=True):
    """Why a job is ERROR."""

    reason: str
    """UPPER_SNAKE_CASE."""
    message: str
    """For the owner, at most 10,000 characters."""


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job as committed; the content and the result are blobs beside it.

    Only `rules` makes a changed one, and each change adds 1 to `revision`.
    """

    key: JobKey
    owner: str
    content: BlobRef
    seq: int
    """Order of submission, given by the storage in the submit's own commit."""
    rank: int
    """Claims go by (rank, seq): creation in ms, less 60,000 a step of priority; or `rules.next_round`."""
    request_id: str = ""
    labels: dict[str, str] = {}
    trace: str = ""
    """W3C `traceparent` of its submit, for spans; empty: it is not traced."""
    priority: int = 0
    max_attempts: int = 1
    max_run_time: timedelta | None = None
    expire_at: datetime | None = None
    """Latest start."""

    revision: int = 1
    state: State = State.QUEUED
    reason: Reason = Reason.NONE
    attempts: tuple[Attempt, ...] = ()
    """Newest last, at most 50."""
    attempt_count: int = 0
    """Accepted attempts, less those released unharmed."""
    claim_count: int = 0
    crashes: int = 0
    """Sessions that closed with this job CLAIMED."""
    releases: int = 0
    due_at: datetime | None = None
    """When `Due` changes it; of a job that has ended, when it may be purged; None: never."""
    times: tuple[Transition, ...] = ()
    """Oldest first: the first and at most the newest 99."""
    result: BlobRef | None = None
    error: Failure | None = None
    stage: str = ""
    fraction: float = 0.0
    detail: str = ""

    @property
    def created_at(self) -> datetime:
        """When the submit was committed."""
        return self.times[0].at

    @property
    def updated_at(self) -> datetime:
        """When it last entered a state."""
        return self.times[-1].at

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.state in TERMINAL_STATES

    @property
    def holder(self) -> Attempt | None:
        """The attempt that holds the job now."""
        if self.attempts and self.attempts[-1].outcome is Outcome.OPEN:
            return self.attempts[-1]
        return None

    def attempt(self, token: str) -> Attempt | None:
        """The attempt with this token, if it is known."""
        return next((a for a in reversed(self.attempts) if a.token == token), None) if token else None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What operators allow on a backend."""

    paused: bool = False
    max_attempts: int = 3
    max_crashes: int = 5
    lease_ttl: timedelta = timedelta(seconds=30)
    resume_grace: timedelta = timedelta(seconds=30)
    lost_timeout: timedelta | None = None
    """How long a lost job that may not run again waits; None: 24 h where max_attempts is 1, else 0."""
    cancel_grace: timedelta = timedelta(seconds=30)
    max_run_time: timedelta | None = None
    max_queued: int = 0
    """0: no limit."""
    round_robin: bool = False
    retention: timedelta | None = None
    """How long a job is kept after its end; None: for ever."""
    foreign_claim_timeout: timedelta | None = None
    """How long a job that another program holds is left to it before it is queued again; None: for ever."""
    user_submits_per_s: int = 0
    """Jobs that one user may submit a second, at each server; 0: no limit."""
    user_bytes_per_s: int = 0
    """Bytes of contents that one user may submit a second, at each server; 0: no limit."""
    user_max_queued: int = 0
    """Jobs of one user that may wait at once; 0: no limit."""


class Backend(msgspec.Struct, frozen=True):
    """A backend's two documents: the spooler's config and the operators' policy."""

    name: str
    config: bytes
    """JSON, byte for byte as registered; empty once it was taken away."""
    config_etag: str
    """Empty without a config: then its jobs are there still, and none is taken or given."""
    policy: Policy | None
    """None until an operator sets one: the server's defaults apply."""
    policy_etag: str

    @property
    def is_registered(self) -> bool:
        """Whether it has a config."""
        return bool(self.config_etag)


class SessionState(StrEnum):
    """LIVE may claim and renew; REPLACED keeps its leases until they run out; CLOSED is final."""

    LIVE = "LIVE"
    REPLACED = "REPLACED"
    CLOSED = "CLOSED"


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One spooler process known to a storage."""

    id: str
    spooler_id: str
    instance_id: str
    principal: str
    backends: tuple[str, ...]
    opened_at: datetime
    silence_limit: timedelta
    """How long an observer must see `beat` unchanged before it may close the session: ttl + grace."""
    beat: int = 0
    state: SessionState = SessionState.LIVE
    detached: bool = False
    """Its stream has ended: a newer instance need not wait for its leases."""
    has_stream: bool = True
    """Whether it says so when it ends; one of unary calls alone just falls silent."""
    reason: str = ""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be submitted; checked already, all defaults filled in."""

    backend: str
    owner: str
    content: bytes | BlobRef
    """The content itself, or a staged blob."""
    max_attempts: int
    request_id: str = ""
    labels: dict[str, str] = {}
    trace: str = ""
    """As in Job; a repeat of a request id may have another."""
    priority: int = 0
    not_before: datetime | None = None
    expire_at: datetime | None = None
    max_run_time: timedelta | None = None
    round_robin: bool = False
    """Rank it by `rules.next_round`: owners take turns on its backend."""
    is_late: bool = False
    """Refuse with Expired unless it is a repeat: its `expire_at` has passed."""
    max_queued: int = 0
    """Refuse with QueueFull if the backend has so many waiting jobs; 0: no limit."""

    def fingerprint_parts(self) -> bytes:
        """What a repeated request id must agree in, beside the content."""
        return msgspec.json.encode(
            [
                self.labels,
                self.priority,
                self.not_before,
                self.expire_at,
                self.max_run_time,
                self.max_attempts,
            ],
            order="sorted",
        )


def new_token() -> str:
    """A lease token, or any other id that must never be guessed or repeat: 128 random bits, in hex."""
    return secrets.token_hex(16)


_PROCESS = secrets.token_hex(5)
_COUNTER = count(int.from_bytes(secrets.token_bytes(2), "big"))


def new_object_id() -> str:
    """A job id: 24 lower-case hex digits, a valid ObjectId. Not an order."""
    return f"{int(time()):08x}{_PROCESS}{next(_COUNTER) & 0xFFFFFF:06x}"


def content_blob_id(key: JobKey) -> str:
    """Id of the blob that holds an inline content."""
    return f"{key.backend}/{key.id}/content"


def unreadable_blob_id(key: JobKey) -> str:
    """Id of the blob that keeps a job's document as it was when it could not be read any more."""
    return f"{key.backend}/{key.id}/unreadable"


def result_blob_id(key: JobKey, token: str) -> str:
    """Id of the blob that holds the result of one attempt."""
    return f"{key.backend}/{key.id}/result/{token}"
