"""Names and ids: checked by pattern before they become a path, a key or a query."""

import re
from typing import NamedTuple

import grpc

from spoolway_providers.model import JobKey
from spoolway_server.errors import ServiceError

__all__ = [
    "JOB_ID",
    "SHORT_NAME",
    "USER_NAME",
    "BackendName",
    "backend_name",
    "job_name",
    "lease_token",
    "parse_backend_name",
    "parse_job_name",
    "resource_id",
    "session_id",
    "short_backend_name",
    "storage_name",
    "token_name",
    "user_name",
]

USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
SHORT_NAME = re.compile(r"[a-z0-9]{1,64}")
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,199}")
"""Every form of today's installations: 24 hex digits, or YYYYMMDD_HHMMSS-D-U-xxxxx."""
_LONG_NAME = re.compile(r"([a-z0-9]{1,64})_([a-z0-9]{1,64})_(simulator|hardware)")
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")
_LEASE_TOKEN = re.compile(r"[0-9a-f]{32}")


def job_name(key: JobKey) -> str:
    """The resource name of a job."""
    return f"backends/{key.backend}/jobs/{key.id}"


def parse_job_name(name: str, *, field: str = "name") -> tuple[str, str]:
    """Backend and id of a job's name; the backend of a bare id is empty."""
    backend, job_id = "", name
    if "/" in name:
        parts = name.split("/")
        if len(parts) != 4 or parts[0] != "backends" or parts[2] != "jobs":
            raise _invalid(
                "JOB_NAME_INVALID", field, "a job's name is backends/{backend}/jobs/{id}, or its id"
            )
        backend, job_id = parts[1], parts[3]
        short_backend_name(backend, field=field)
    if not JOB_ID.fullmatch(job_id):
        raise _invalid("JOB_NAME_INVALID", field, f"a job's id must match {JOB_ID.pattern}")
    return backend, job_id


class BackendName(NamedTuple):
    """A backend's name, taken apart; of a short one only `backend` is filled."""

    backend: str
    storage: str = ""
    kind: str = ""
    """simulator or hardware."""


def backend_name(name: str, *, field: str = "backend") -> str:
    """A backend's name, long or short, from it or backends/{backend}; what it means `Storages` knows."""
    name = name.removeprefix("backends/")
    parse_backend_name(name, field=field)
    return name


def short_backend_name(name: str, *, field: str = "backend") -> str:
    """A backend's short name, where no long one may stand."""
    short = name.removeprefix("backends/")
    if not SHORT_NAME.fullmatch(short):
        message = f"a backend's short name must match {SHORT_NAME.pattern}"
        raise _invalid("BACKEND_NAME_INVALID", field, message)
    return short


def parse_backend_name(name: str, *, field: str = "backend") -> BackendName:
    """Take a short or long name apart."""
    if SHORT_NAME.fullmatch(name):
        return BackendName(name)
    if found := _LONG_NAME.fullmatch(name):
        storage, backend, kind = found.groups()
        return BackendName(backend, storage, kind)
    raise _invalid(
        "BACKEND_NAME_INVALID",
        field,
        f"a backend's name must match {SHORT_NAME.pattern}, or be its long name "
        "{storage}_{backend}_simulator or {storage}_{backend}_hardware",
    )


def user_name(name: str, *, field: str) -> str:
    """A user's name."""
    if not USER_NAME.fullmatch(name):
        raise _invalid("USER_NAME_INVALID", field, f"a user's name must match {USER_NAME.pattern}")
    return name


def storage_name(name: str, *, field: str = "name") -> str:
    """A storage's short name, from the short name or storages/{storage}."""
    short = name.removeprefix("storages/")
    if not SHORT_NAME.fullmatch(short):
        raise _invalid("STORAGE_NAME_INVALID", field, f"a storage's name must match {SHORT_NAME.pattern}")
    return short


def resource_id(value: str, *, field: str) -> str:
    """A spooler_id or instance_id."""
    if not USER_NAME.fullmatch(value):
        raise _invalid("ID_INVALID", field, f"{field} must match {USER_NAME.pattern}")
    return value


def lease_token(value: str, *, field: str = "lease_token") -> str:
    """A lease token."""
    if not _LEASE_TOKEN.fullmatch(value):
        raise _invalid("LEASE_TOKEN_INVALID", field, "a lease token is 32 lower-case hex digits")
    return value


def operation_id(value: str, *, field: str = "name") -> str:
    """The id of an operation, from it or operations/{operation}."""
    short = value.removeprefix("operations/")
    if not _LEASE_TOKEN.fullmatch(short):
        raise _invalid("OPERATION_NAME_INVALID", field, "an operation's id is 32 lower-case hex digits")
    return short


def session_id(value: str, *, field: str = "session") -> str:
    """The id of a spooler's session."""
    if not _LEASE_TOKEN.fullmatch(value):
        raise _invalid("SESSION_ID_INVALID", field, "a session's id is 32 lower-case hex digits")
    return value


def token_name(name: str, *, field: str = "name") -> str:
    """A token's id, from it or tokens/{token}."""
    short = name.removeprefix("tokens/")
    if not _TOKEN_ID.fullmatch(short):
        raise _invalid("TOKEN_NAME_INVALID", field, "a token's name is tokens/ and 16 lower-case hex digits")
    return short


def _invalid(reason: str, field: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)
