"""The audit trail as operators see it."""

from dataclasses import dataclass
from datetime import UTC, datetime

from spoolway.v1 import storage_admin_pb2 as pb

__all__ = ["AuditEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Who did what, when, on what, and how it ended."""

    number: int
    """Grows with every event."""
    time: datetime
    """When it ended."""
    user: str
    """Who."""
    call: str
    """What: the call's name, such as RevokeToken."""
    subject: str
    """On what: a resource name, such as tokens/5f0c9a3be1d24c77."""
    outcome: str
    """OK, or the reason for which it was refused."""
    detail: str
    """What it changed, in words; never a secret."""


def event_from_proto(message: pb.AuditEvent) -> AuditEvent:
    """An event of an answer."""
    return AuditEvent(
        number=message.number,
        time=message.time.ToDatetime(tzinfo=UTC),
        user=message.user,
        call=message.call,
        subject=message.subject,
        outcome=message.outcome,
        detail=message.detail,
    )
