"""The records of a catalog. Each has a key, and a revision that every change of it makes greater."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import msgspec

__all__ = [
    "AuditEvent",
    "OperationRecord",
    "Record",
    "Routes",
    "Sealed",
    "StorageRecord",
    "TokenRecord",
    "from_microseconds",
    "to_microseconds",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_microseconds(moment: datetime) -> int:
    """A time as catalogs store it: since 1970, UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_microseconds(number: int) -> datetime:
    """The time again."""
    return _EPOCH + timedelta(microseconds=number)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What all records have."""

    kind: ClassVar[str]
    """Names the type of record within a catalog; never changes."""
    revision: int = 0
    """Given by the catalog, never twice; 0: not stored yet."""

    @property
    def key(self) -> str:
        """Unique among its kind."""
        raise NotImplementedError


class Sealed(msgspec.Struct, frozen=True):
    """A login as it is stored."""

    key_id: str = ""
    """Which key opens it; empty: it is not encrypted, since it holds no secret and there is no key."""
    data: bytes = b""
    """The nonce and the encrypted fields, or the fields as JSON."""

    def __repr__(self) -> str:
        """Never what is in it."""
        return f"Sealed(key_id={self.key_id!r})"


class StorageRecord(Record, frozen=True, kw_only=True):
    """A storage that was added by a call."""

    kind: ClassVar[str] = "storage"
    name: str
    """^[a-z0-9]{1,64}$"""
    type: str
    """Name of its provider; never changes."""
    login: Sealed
    owner: str = ""
    """Who answers for it: a user's name, or empty."""
    description: str = ""
    active: bool = True
    """Takes submits and gives jobs."""
    created_at: datetime
    updated_at: datetime

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


class TokenRecord(Record, frozen=True, kw_only=True):
    """An access token; the token itself is known to its owner only."""

    kind: ClassVar[str] = "token"
    id: str
    """Names it in lists and logs; no secret."""
    hash: str
    """SHA-256 of the token, 64 hex digits."""
    name: str = ""
    """For people: what it is used for."""
    user: str
    """Who calls with it."""
    role: str
    """user, spooler, operator or admin."""
    backends: tuple[str, ...] = ()
    """The only backends that a spooler may serve; none: any."""
    created_at: datetime
    created_by: str = ""
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None

    @property
    def key(self) -> str:
        """Its id."""
        return self.id

    def __repr__(self) -> str:
        """Without the hash."""
        return f"TokenRecord(id={self.id!r}, user={self.user!r}, role={self.role!r})"


class Routes(Record, frozen=True, kw_only=True):
    """Which storage holds a backend, where more than one might: one record, so that all of them turn at once.

    A backend that is not named here is found by looking into the storages.
    """

    kind: ClassVar[str] = "routes"
    KEY: ClassVar[str] = "routes"
    backends: Mapping[str, str] = {}
    """Storage by backend."""
    moving: Mapping[str, str] = {}
    """Operation by backend: those that are just about to turn, and so are UNAVAILABLE."""

    @property
    def key(self) -> str:
        """There is one record of this kind."""
        return self.KEY


class OperationRecord(Record, frozen=True, kw_only=True):
    """Work that takes long: any process goes on with it where another has left it."""

    kind: ClassVar[str] = "operation"
    id: str
    type: str
    """Whose work it is, such as COPY."""
    source: str
    """What it reads: a storage's name, or in words what else."""
    target: str
    """The storage that it writes to."""
    options: Mapping[str, str] = {}
    """What it was asked for besides."""
    login: Sealed = Sealed()
    """How it reads what is no storage of ours; gone once it has ended."""
    backends: tuple[str, ...] = ()
    """What it is about, as far as that was known at its start."""
    state: str = "RUNNING"
    """RUNNING, DONE, FAILED or CANCELLED."""
    is_cancelled: bool = False
    """Somebody wants it to end."""
    phase: str = ""
    """What it does just now, in words."""
    done: int = 0
    total: int = 0
    """Jobs, as far as they are counted; 0: not counted yet."""
    place: Mapping[str, str] = {}
    """Where to go on."""
    runner: str = ""
    """The process that does it, which stores it anew each few seconds; empty: whoever takes it."""
    reason: str = ""
    """Why it FAILED, in UPPER_SNAKE_CASE."""
    message: str = ""
    """The same, for people."""
    created_at: datetime
    created_by: str
    updated_at: datetime
    ended_at: datetime | None = None

    @property
    def key(self) -> str:
        """Its id."""
        return self.id


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, when, on what, and how it ended."""

    number: int = 0
    """Given by the catalog, in the order of writing."""
    at: datetime
    who: str
    """A user's name."""
    what: str
    """The call's name, such as CreateStorage."""
    subject: str
    """A resource name, such as storages/lab."""
    outcome: str
    """OK, or the reason for which it was refused."""
    detail: str = ""
    """What it changed, in words; never a secret."""
