"""What operators know about a storage, and its translation from the contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import storage_admin_pb2 as pb

__all__ = [
    "LoginField",
    "ProviderType",
    "Storage",
    "StorageStats",
    "StorageTest",
    "StorageTestStep",
    "login_to_proto",
    "provider_type_from_proto",
    "stats_from_proto",
    "storage_from_proto",
    "storage_test_from_proto",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A configured place for backends, jobs and results."""

    name: str
    """Short name."""
    type: str
    """Name of the provider type."""
    description: str
    """For people."""
    owner: str
    """Who answers for it: a user's name, or empty."""
    active: bool
    """Whether it takes submits and gives jobs."""
    is_default: bool
    """Whether it holds the backends that name no storage."""
    read_only: bool
    """Whether it is declared in the server's configuration file, so that no call changes it."""
    serving: bool
    """Whether it answers."""
    message: str
    """The trouble, and what to do; empty if there is none."""
    etag: str
    """Changes with every change; empty if it is read-only."""
    create_time: datetime | None
    """When it was added; None if it is read-only."""
    update_time: datetime | None
    """When it was last changed; None if it is read-only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStats:
    """What lies in a storage."""

    backends: int
    jobs: dict[str, int]
    """Jobs in each state that has any; 1,000,000 means as many or more."""
    unfinished_jobs: int
    """Jobs that have not ended."""
    sessions: int
    """Sessions of spoolers that live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageTestStep:
    """One step of a storage's test."""

    name: str
    passed: bool
    duration: timedelta
    advice: str
    """What to do if it did not pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageTest:
    """The test of a storage."""

    passed: bool
    """Whether all went well."""
    steps: tuple[StorageTestStep, ...]
    """In the order in which they ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginField:
    """One field of a login."""

    name: str
    description: str
    required: bool
    """Whether it must be given."""
    secret: bool
    """Whether nobody may see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderType:
    """A type of storage that the server can hold."""

    name: str
    description: str
    login_fields: tuple[LoginField, ...]
    """What its login consists of."""
    sign_in_field: str
    """The field that is not needed with an `authorization_code`, which the page of `sign_in_page` shows;
    empty: there is no signing in."""
    unavailable: str
    """Why it can't be used; empty if it can."""


def login_to_proto(type_name: str, login: Mapping[str, Any]) -> pb.StorageLogin:
    """A login by its fields: the message of its type, or a Struct for types that have none.

    Raises:
        ValueError: its type has no such field, or takes another kind of value; never shows the value.
    """
    message = pb.StorageLogin()
    known = {field.name for field in message.DESCRIPTOR.oneofs_by_name["login"].fields} - {"plugin"}
    if type_name not in known:
        message.plugin.update(dict(login))
        return message
    typed: Message = getattr(message, type_name)
    typed.SetInParent()
    for name, value in login.items():
        try:
            setattr(typed, name, value)
        except (AttributeError, TypeError):
            fields = ", ".join(field.name for field in typed.DESCRIPTOR.fields)
            raise ValueError(
                f"login: a {type_name} storage has no field {name}, or not of this kind; it has: {fields}"
            ) from None
    return message


def storage_from_proto(message: pb.Storage) -> Storage:
    """Translate the contract's Storage."""
    return Storage(
        name=message.name.rpartition("/")[2],
        type=message.type,
        description=message.description,
        owner=message.owner,
        active=message.active,
        is_default=message.is_default,
        read_only=message.read_only,
        serving=message.health.serving,
        message=message.health.message,
        etag=message.etag,
        create_time=_time(message.create_time) if message.HasField("create_time") else None,
        update_time=_time(message.update_time) if message.HasField("update_time") else None,
    )


def stats_from_proto(message: pb.GetStorageStatsResponse) -> StorageStats:
    """Translate the contract's figures."""
    return StorageStats(
        backends=message.backends,
        jobs=dict(message.jobs),
        unfinished_jobs=message.unfinished_jobs,
        sessions=message.sessions,
    )


def storage_test_from_proto(message: pb.TestStorageResponse) -> StorageTest:
    """Translate the contract's test."""
    steps = (
        StorageTestStep(
            name=step.name, passed=step.passed, duration=step.duration.ToTimedelta(), advice=step.advice
        )
        for step in message.steps
    )
    return StorageTest(passed=message.passed, steps=tuple(steps))


def provider_type_from_proto(message: pb.ProviderType) -> ProviderType:
    """Translate the contract's ProviderType."""
    fields = (
        LoginField(name=one.name, description=one.description, required=one.required, secret=one.secret)
        for one in message.login_fields
    )
    return ProviderType(
        name=message.name,
        description=message.description,
        login_fields=tuple(fields),
        sign_in_field=message.sign_in_field,
        unavailable=message.unavailable,
    )


def _time(moment: Timestamp) -> datetime:
    return moment.ToDatetime(tzinfo=UTC)
