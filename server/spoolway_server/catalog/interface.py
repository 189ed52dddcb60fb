"""What a catalog must do: a small compare-and-set store that all processes share, and a trail of events.

Every method may raise `CatalogUnavailable`. Run `tests/server/catalog_conformance.py` over a new one.

ServiceError
├── CatalogConflict      somebody else changed the record first
├── CatalogUnavailable   the catalog does not answer
└── CatalogCorrupt       it is no catalog, a newer version's, or a record can't be read
"""

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import TypeVar

import grpc
import msgspec

from spoolway_server.catalog.model import AuditEvent, Record
from spoolway_server.errors import ServiceError

__all__ = [
    "AuditPage",
    "AuditQuery",
    "Catalog",
    "CatalogConflict",
    "CatalogCorrupt",
    "CatalogUnavailable",
    "R",
]

R = TypeVar("R", bound=Record)


class CatalogConflict(ServiceError):
    """Somebody else changed the record first; read it and decide again."""

    def __init__(self, record: Record) -> None:
        """Say which."""
        super().__init__(
            grpc.StatusCode.ABORTED,
            "ETAG_MISMATCH",
            f"{record.kind} {record.key} has changed since it was read; read it again and decide again",
            field="etag",
        )


class CatalogUnavailable(ServiceError):
    """The catalog does not answer; a write may or may not have been done."""

    def __init__(self, problem: str) -> None:
        """Say why."""
        super().__init__(
            grpc.StatusCode.UNAVAILABLE,
            "CATALOG_UNAVAILABLE",
            f"the server's catalog does not answer ({problem}); try again, and look first what was done",
        )


class CatalogCorrupt(ServiceError):
    """The catalog can't be used as it is."""

    def __init__(self, problem: str) -> None:
        """Say why."""
        super().__init__(grpc.StatusCode.DATA_LOSS, "CATALOG_CORRUPT", f"the server's catalog: {problem}")


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, newest first; all given conditions must hold."""

    who: str = ""
    what: str = ""
    subject: str = ""
    since: datetime | None = None
    """At this moment or later."""
    before: int = 0
    """Only events with a smaller number, to go on after a page; 0: from the newest."""
    limit: int = 100


class AuditPage(msgspec.Struct, frozen=True):
    """Some events; `before` goes on, 0 is the end."""

    events: list[AuditEvent]
    before: int


class Catalog(ABC):
    """Opened once, closed by who opened it."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, create what is missing, migrate an older schema, refuse a newer one (CatalogCorrupt).

        May be called again after it failed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what is under way and let go of everything. Safe to repeat; safe if never opened."""

    @abstractmethod
    async def all(self, kind: type[R]) -> list[R]:
        """All records of a kind by key, from one moment."""

    @abstractmethod
    async def get(self, kind: type[R], key: str) -> R | None:
        """One record; None if there is none."""

    @abstractmethod
    async def put(self, record: R) -> R:
        """Store a record if the stored one has its revision; with revision 0: if there is none.

        Durable on return, and seen by every process.

        Returns:
            The record with its new revision.

        Raises:
            CatalogConflict: nothing was stored.
        """

    @abstractmethod
    async def delete(self, record: Record) -> None:
        """Remove a record if the stored one has its revision. Raises CatalogConflict."""

    @abstractmethod
    async def note(self, event: AuditEvent) -> None:
        """Add an event to the trail, durably; its number is given here."""

    @abstractmethod
    async def events(self, query: AuditQuery) -> AuditPage:
        """Events of the trail, newest first."""

    @abstractmethod
    async def version(self) -> int:
        """Grows with every change of a record, by whichever process; the trail does not count."""

    @abstractmethod
    async def wait(self, version: int, timeout: timedelta) -> int:
        """Return the version once it is another one, within a second of the change, or after `timeout`.

        Who read the records after `version` was current, and waits for another one, misses nothing.
        """
