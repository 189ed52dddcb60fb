"""What the services answer instead of a result: one class, one table, one place that writes trailers."""

import re
from collections.abc import Mapping
from datetime import timedelta

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from spoolway.v1 import job_pb2
from spoolway_providers import errors as provider_errors
from spoolway_providers.rules import Refusal

__all__ = [
    "DOMAIN",
    "ServiceError",
    "draining",
    "from_provider_error",
    "from_refusal",
    "moving_on",
    "without_paths",
]

DOMAIN = "spoolway"
"""`domain` of every ErrorInfo."""
MAX_MESSAGE_BYTES = 1_000
"""A message goes thrice into the trailers, which have 8 KiB: a longer one would lose the whole error."""
MAX_FACT_BYTES = 300
_PATH = re.compile(r"(?<![\w./])/[^\s'\":;,()]+")
"""An absolute path in an operating system's words; names of resources begin with a word."""
DEFAULT_RETRY_AFTER = timedelta(seconds=1)


class ServiceError(Exception):
    """An error for the caller: a status code, a reason of its own, and what to do next."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, object] | None = None,
        retry_after: timedelta | None = None,
        field: str = "",
        quota_subject: str = "",
    ) -> None:
        """Make an error.

        Args:
            code: the gRPC status.
            reason: UPPER_SNAKE_CASE, one for each kind of mistake.
            message: what went wrong and what to do, for people; never a secret, a path or a traceback. It
                is cut after 1,000 bytes.
            metadata: facts for programs, such as the limit that was passed.
            retry_after: becomes RetryInfo; UNAVAILABLE has one always.
            field: the request's field at fault; becomes BadRequest.
            quota_subject: whose quota is used up; becomes QuotaFailure.
        """
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = _cut(message, MAX_MESSAGE_BYTES)
        self.metadata = {key: _cut(str(value), MAX_FACT_BYTES) for key, value in (metadata or {}).items()}
        self.retry_after = retry_after
        if code is grpc.StatusCode.UNAVAILABLE and retry_after is None:
            self.retry_after = DEFAULT_RETRY_AFTER
        self.field = field
        self.quota_subject = quota_subject

    def trailer(self) -> tuple[tuple[str, bytes], ...]:
        """The trailing metadata that carries google.rpc.Status."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.extend(_pack(detail) for detail in self._details())
        return (("grpc-status-details-bin", status.SerializeToString()),)

    def to_proto(self) -> job_pb2.JobError:
        """The same as an item's error."""
        return job_pb2.JobError(
            code=self.code.value[0], reason=self.reason, message=self.message, metadata=self.metadata
        )

    def _details(self) -> list[Message]:
        details: list[Message] = [
            error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        ]
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.message, reason=self.reason
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.quota_subject:
            used_up = error_details_pb2.QuotaFailure.Violation(
                subject=self.quota_subject, description=self.message
            )
            details.append(error_details_pb2.QuotaFailure(violations=[used_up]))
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromTimedelta(self.retry_after)
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        return details


_TABLE: Mapping[type, tuple[grpc.StatusCode, str]] = {
    provider_errors.ProviderError: (grpc.StatusCode.INTERNAL, "STORAGE_FAULT"),
    provider_errors.NotFound: (grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    provider_errors.Conflict: (grpc.StatusCode.ABORTED, "ETAG_MISMATCH"),
    provider_errors.RequestIdReused: (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"),
    provider_errors.Expired: (grpc.StatusCode.INVALID_ARGUMENT, "EXPIRE_TIME_PAST"),
    provider_errors.QueueFull: (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    provider_errors.TooLarge: (grpc.StatusCode.RESOURCE_EXHAUSTED, "CONTENT_TOO_LARGE"),
    provider_errors.SessionClosed: (grpc.StatusCode.ABORTED, "SESSION_CLOSED"),
    provider_errors.CursorTooOld: (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_TOO_OLD"),
    provider_errors.Unavailable: (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE"),
    provider_errors.Uncertain: (grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN"),
    provider_errors.LoginRefused: (grpc.StatusCode.UNAVAILABLE, "STORAGE_LOGIN_REFUSED"),
    provider_errors.NotOwner: (grpc.StatusCode.UNAVAILABLE, "STORAGE_OWNED_ELSEWHERE"),
    provider_errors.Corrupt: (grpc.StatusCode.DATA_LOSS, "DOCUMENT_CORRUPT"),
    provider_errors.Unsupported: (grpc.StatusCode.INVALID_ARGUMENT, "NOT_SUPPORTED_BY_STORAGE"),
}


def from_provider_error(error: provider_errors.ProviderError) -> ServiceError:
    """The answer for an error of a storage; its paths are in the log and in its health, for operators."""
    # A plug-in's own subclass means what its parent means.
    code, reason = next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)
    retry_after = getattr(error, "retry_after", None)
    if isinstance(error, provider_errors.QueueFull):
        retry_after = timedelta(seconds=10)
    facts = {name: getattr(error, name) for name in ("limit", "address") if hasattr(error, name)}
    field = "expire_time" if isinstance(error, provider_errors.Expired) else ""
    return ServiceError(
        code, reason, without_paths(str(error)), metadata=facts, retry_after=retry_after, field=field
    )


def without_paths(text: str) -> str:
    """A driver's words without the paths of the server's files, which are for operators."""
    return _PATH.sub("a file", text)


def draining() -> ServiceError:
    """The answer of a server that is about to stop."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE, "DRAINING", "this server is about to stop; try again, perhaps elsewhere"
    )


def moving_on() -> ServiceError:
    """The end of a stream that has lasted long enough for this server."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE, "CONNECTION_AGE", "this stream is old; reconnect, perhaps elsewhere"
    )


def from_refusal(refusal: Refusal) -> ServiceError:
    """The answer for an event that the rules refuse."""
    return ServiceError(grpc.StatusCode.FAILED_PRECONDITION, refusal.reason, refusal.message)


def _cut(text: str, max_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - 3].decode(errors="ignore") + "..."


def _pack(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
