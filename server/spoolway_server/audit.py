"""The audit trail: who did what, when, on what, and how it ended. Written by the calls of operators."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from spoolway_providers.errors import ProviderError
from spoolway_server.auth import Principal
from spoolway_server.catalog import AuditEvent, AuditPage, AuditQuery, Catalog
from spoolway_server.clock import Clock
from spoolway_server.errors import ServiceError, from_provider_error

__all__ = ["Audit", "Deed"]

_log = structlog.get_logger(__name__)

MAX_DETAIL = 1000
"""Characters; what is longer is cut."""


@dataclass
class Deed:
    """What is under way; whoever does it may say more."""

    detail: str = ""
    """What it changes, in words: field names and numbers, never a login's value."""


class Audit:
    """Writes and reads the trail of a catalog."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        """Write to `catalog`."""
        self._catalog = catalog
        self._clock = clock

    @asynccontextmanager
    async def of(self, who: Principal, what: str, subject: str) -> AsyncIterator[Deed]:
        """Note what is done within, and how it ends: OK, or the reason of the error that goes through.

            async with audit.of(principal, "PauseBackend", f"backends/{name}") as deed:
                deed.detail = "until the laser is back"
                ...

        Args:
            who: who calls.
            what: the call's name.
            subject: a resource name, checked.
        """
        deed = Deed()
        outcome = "OK"
        try:
            yield deed
        except BaseException as error:
            outcome = _reason(error)
            raise
        finally:
            await self._note(
                AuditEvent(
                    at=self._clock.now(),
                    who=who.name,
                    what=what,
                    subject=subject,
                    outcome=outcome,
                    detail=deed.detail[:MAX_DETAIL],
                )
            )

    async def events(self, query: AuditQuery) -> AuditPage:
        """Read the trail, newest first."""
        return await self._catalog.events(query)

    async def _note(self, event: AuditEvent) -> None:
        try:
            await self._catalog.note(event)
        except ServiceError as error:
            # What was done is done; the log keeps what the trail could not.
            _log.error(
                "audit event not stored",
                who=event.who,
                what=event.what,
                subject=event.subject,
                outcome=event.outcome,
                detail=event.detail,
                error=error.message,
            )


def _reason(error: BaseException) -> str:
    if isinstance(error, ServiceError):
        return error.reason
    if isinstance(error, ProviderError):
        return from_provider_error(error).reason
    return "INTERNAL" if isinstance(error, Exception) else "INTERRUPTED"
