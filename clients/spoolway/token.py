"""Access tokens as operators see them, without their secrets."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import storage_admin_pb2 as pb

__all__ = ["NewToken", "Role", "Token"]


class Role(StrEnum):
    """What the bearer of a token may do."""

    USER = "user"
    """Submits jobs, and sees and changes his own."""
    SPOOLER = "spooler"
    """Runs jobs of its backends."""
    OPERATOR = "operator"
    """Sees and changes all jobs, backends and sessions; does not run jobs."""
    ADMIN = "admin"
    """May make every call: storages with their logins, and tokens too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An access token, without its secret."""

    id: str
    """Names it in lists; no secret."""
    user: str
    """Who calls with it, and owns the jobs that it submits."""
    role: Role
    """What it may do."""
    backends: tuple[str, ...]
    """The only backends that a spooler may run jobs of; none: any."""
    description: str
    """What it is for, for people."""
    create_time: datetime
    """When it was made."""
    created_by: str
    """By which user."""
    expire_time: datetime | None
    """When it ends by itself; None: never."""
    last_use_time: datetime | None
    """When it was last used, to about a minute; None: never."""
    revoke_time: datetime | None
    """When it was revoked; None: it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token just made; nobody can ask for its secret again."""

    token: Token
    """The token."""
    secret: str = field(repr=False)
    """What its bearer gives as `token`, or as SPOOLWAY_TOKEN."""


def role_to_proto(role: Role | str) -> pb.Role.ValueType:
    """A role's number; ValueError if there is no such role."""
    return pb.Role.Value(f"ROLE_{Role(role).upper()}")


def token_from_proto(message: pb.Token) -> Token:
    """A token of an answer."""
    return Token(
        id=message.name.removeprefix("tokens/"),
        user=message.user,
        role=Role(pb.Role.Name(message.role).removeprefix("ROLE_").lower()),
        backends=tuple(message.backends),
        description=message.description,
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
        created_by=message.created_by,
        expire_time=_time(message, "expire_time"),
        last_use_time=_time(message, "last_use_time"),
        revoke_time=_time(message, "revoke_time"),
    )


def _time(message: pb.Token, name: Literal["expire_time", "last_use_time", "revoke_time"]) -> datetime | None:
    if not message.HasField(name):
        return None
    time: Timestamp = getattr(message, name)
    return time.ToDatetime(tzinfo=UTC)
