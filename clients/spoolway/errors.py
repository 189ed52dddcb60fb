"""What the client raises, and nothing else: a gRPC error never reaches a user of this package.

SpoolwayError
├── SettingsError             an argument, environment variable or profile is wrong; nothing was sent
├── InvalidArgumentError      a field or the job's content is wrong; repeating it won't help
├── NotFoundError             unknown, or not yours
├── AlreadyExistsError
│   └── RequestIdReusedError  the request id came before, with another content
├── PermissionDeniedError     you may not
├── UnauthenticatedError      the token is missing, wrong or revoked
├── FailedPreconditionError   not in this state
│   ├── ResultNotReadyError
│   ├── LeaseSupersededError
│   ├── StorageInactiveError
│   ├── SpoolerRevokedError   an operator has ended this instance of the spooler
│   └── JobEndedError         the job ended without a result; carries its snapshot
│       ├── JobFailedError
│       ├── JobCancelledError
│       └── JobExpiredError
├── AbortedError              somebody else was first; read again and decide anew
│   ├── EtagMismatchError
│   └── SessionReplacedError  a newer instance of this spooler has taken over
├── ResourceExhaustedError    a limit is reached
│   ├── ContentTooLargeError  over a limit in bytes
│   └── QueueFullError        too many jobs wait
├── UnavailableError          not reachable, or in trouble; surely temporary
├── DeadlineExceededError     out of time (also a TimeoutError)
├── CallCancelledError        the other side, or a proxy, cancelled the call
├── DataLossError             a checksum is wrong
├── VerificationError         a result is not signed, or not rightly
├── OutOfRangeError, UnimplementedError, InternalError, UnknownError

Raised by the run functions of spoolers, for their own reasons: RetryLater, JobError.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "CallCancelledError",
    "ContentTooLargeError",
    "DataLossError",
    "DeadlineExceededError",
    "EtagMismatchError",
    "FailedPreconditionError",
    "FieldViolation",
    "InternalError",
    "InvalidArgumentError",
    "JobCancelledError",
    "JobEndedError",
    "JobError",
    "JobExpiredError",
    "JobFailedError",
    "LeaseSupersededError",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "QueueFullError",
    "RequestIdReusedError",
    "ResourceExhaustedError",
    "ResultNotReadyError",
    "RetryLater",
    "SessionReplacedError",
    "SettingsError",
    "SpoolerRevokedError",
    "SpoolwayError",
    "StorageInactiveError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
]


class FieldViolation(NamedTuple):
    """One field of a request that is wrong."""

    field: str
    """Path of the field, such as `content` or `requests[3].backend`."""
    description: str
    """What is wrong with it."""


class SpoolwayError(Exception):
    """Root of all errors of this package.

    Attributes:
        message: What went wrong and what to do next, for people.
        reason: Machine-readable, UPPER_SNAKE_CASE; None where the server gave none.
        metadata: Facts about it, such as the limit that was passed.
        retry_after: How long to wait before trying again; None where waiting is no cure or the time unknown.
        violations: The fields that are wrong.
    """

    def __init__(
        self,
        message: str,
        reason: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
        violations: tuple[FieldViolation, ...] = (),
    ) -> None:
        """Remember what is known about the error."""
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.violations = violations

    def __str__(self) -> str:
        """The message, with the reason where there is one."""
        return f"{self.message} [{self.reason}]" if self.reason else self.message


class SettingsError(SpoolwayError):
    """An argument, an environment variable or a profile is wrong; nothing was sent."""


class InvalidArgumentError(SpoolwayError):
    """A field or the content is wrong. Correct it: repeating the call won't help."""


class NotFoundError(SpoolwayError):
    """There is no such job or backend, or it is not yours."""


class AlreadyExistsError(SpoolwayError):
    """There is one already."""


class RequestIdReusedError(AlreadyExistsError):
    """The request id was used within 24 hours for another content; choose a new one."""


class PermissionDeniedError(SpoolwayError):
    """You are known, but may not do this; ask the operator of the server."""


class UnauthenticatedError(SpoolwayError):
    """The token is missing, wrong or revoked; ask the operator of the server for one."""


class FailedPreconditionError(SpoolwayError):
    """It can't be done in the present state; repeating the call alone won't help."""


class ResultNotReadyError(FailedPreconditionError):
    """The job has not ended; wait for it."""


class LeaseSupersededError(FailedPreconditionError):
    """The job has been given to another spooler, or has ended."""


class StorageInactiveError(FailedPreconditionError):
    """The storage takes no new jobs; its operator has deactivated it."""


class JobEndedError(FailedPreconditionError):
    """The job ended without a result.

    Attributes:
        snapshot: The job as it ended (a JobSnapshot); None where only the server's answer is known.
    """

    snapshot: object = None


class JobFailedError(JobEndedError):
    """The job ended with an error; the message is what its spooler said."""


class JobCancelledError(JobEndedError):
    """The job was cancelled."""


class JobExpiredError(JobEndedError):
    """The job was not started before its expire_time."""


class AbortedError(SpoolwayError):
    """Somebody else was first; read again and decide anew."""


class EtagMismatchError(AbortedError):
    """The document has changed since it was read; read it again and decide anew."""


class SpoolerRevokedError(FailedPreconditionError):
    """An operator has ended this instance of the spooler; started anew it is another one, and welcome."""


class SessionReplacedError(AbortedError):
    """A newer instance of this spooler has taken over; run one instance per spooler_id."""


class ResourceExhaustedError(SpoolwayError):
    """A limit is reached; the message names it."""


class ContentTooLargeError(ResourceExhaustedError):
    """The content or the result has more bytes than allowed; the message names the limit."""


class QueueFullError(ResourceExhaustedError):
    """As many jobs wait as the backend's policy allows; submit again later."""


class UnavailableError(SpoolwayError):
    """The server is not reachable or its storage is in trouble; try again after `retry_after`."""


class DeadlineExceededError(SpoolwayError, TimeoutError):
    """Out of time. What was asked for may be done all the same: a repeat with the same request id is safe."""


class CallCancelledError(SpoolwayError):
    """The server, or a proxy on the way, cancelled the call."""


class DataLossError(SpoolwayError):
    """What arrived is not what was stored: a checksum is wrong. Tell the operator of the server."""


class VerificationError(SpoolwayError):
    """A result is not signed, or not by the key of its backend; `reason` says which."""


class OutOfRangeError(SpoolwayError):
    """Past the end of what there is."""


class UnimplementedError(SpoolwayError):
    """The server does not know this call; it may be older than this client."""


class InternalError(SpoolwayError):
    """The server made a mistake, or a proxy cut the connection."""


class UnknownError(SpoolwayError):
    """Something without a name of its own, such as a connection that a proxy removed."""


class RetryLater(Exception):
    """Raise it in a run function: this attempt failed, another one may succeed.

    The job runs again if attempts are left, at the earliest after `after` (default: the server's back-off,
    doubling from 2 s to 60 s).
    """

    def __init__(self, message: str, after: timedelta | None = None) -> None:
        """Say why, for the job's owner, and how long to wait."""
        super().__init__(message)
        self.after = after


class JobError(Exception):
    """Raise it in a run function: the job is wrong. Its owner sees the message, without a traceback."""


# One table for both ways in which an error arrives: the status of a call, and the JobError of one item.
CLASS_OF_STATUS: dict[grpc.StatusCode, type[SpoolwayError]] = {
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.UNKNOWN: UnknownError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRangeError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DATA_LOSS: DataLossError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
}

# Reasons that have a class of their own; it must be a subclass of the class of the status they come with.
CLASS_OF_REASON: dict[str, type[SpoolwayError]] = {
    "REQUEST_ID_REUSED": RequestIdReusedError,
    "RESULT_NOT_READY": ResultNotReadyError,
    "LEASE_SUPERSEDED": LeaseSupersededError,
    "STORAGE_INACTIVE": StorageInactiveError,
    "JOB_ERROR": JobFailedError,
    "JOB_CANCELLED": JobCancelledError,
    "JOB_EXPIRED": JobExpiredError,
    "ETAG_MISMATCH": EtagMismatchError,
    "SESSION_REPLACED": SessionReplacedError,
    "SPOOLER_REVOKED": SpoolerRevokedError,
    "QUEUE_FULL": QueueFullError,
    "CONTENT_TOO_LARGE": ContentTooLargeError,
    "UPLOAD_TOO_LARGE": ContentTooLargeError,
}

# Errors that came without ErrorInfo are not the server's own words: gRPC or a proxy made them.
_ADVICE: dict[type[SpoolwayError], str] = {
    UnavailableError: "Is the server running there? Check the address (argument, SPOOLWAY_ADDRESS or "
    "profile), and that TLS is used on both sides or on neither.",
    UnimplementedError: "Is this a Spoolway server, and as new as this client?",
    DeadlineExceededError: "Try again, or give it more time.",
    ResourceExhaustedError: "The message may be larger than the server receives: send less at once.",
    UnauthenticatedError: "Give a token (argument, SPOOLWAY_TOKEN or profile).",
    CallCancelledError: "Try again; if it stays, look at the proxy between here and the server.",
    InternalError: "Try again; if it stays, look at the server's log and at the proxy in front of it.",
    UnknownError: "Try again; if it stays, look at the server's log and at the proxy in front of it.",
}

_TRANSIENT = (
    UnavailableError,
    InternalError,
    UnknownError,
    CallCancelledError,
    DeadlineExceededError,
    AbortedError,
)
_STATUS_OF_NUMBER: dict[int, grpc.StatusCode] = {status.value[0]: status for status in grpc.StatusCode}
_DETAILS_KEY = "grpc-status-details-bin"


def is_transient(error: SpoolwayError) -> bool:
    """Whether the same call may succeed a little later."""
    return isinstance(error, _TRANSIENT) and not isinstance(error, SessionReplacedError)


def error_from_item(
    code: int, message: str, reason: str = "", metadata: Mapping[str, str] | None = None
) -> SpoolwayError:
    """The error of one item of a call that went well as a whole; `code` is a google.rpc.Code number."""
    status = _STATUS_OF_NUMBER.get(code, grpc.StatusCode.UNKNOWN)
    return _class_for(status, reason)(message, reason or None, metadata=metadata)


def error_from_rpc(error: aio.AioRpcError, address: str) -> SpoolwayError:
    """The error of a call; raise it `from` the gRPC error."""
    status = error.code()
    details = error.details() or ""
    trailer = error.trailing_metadata()
    raw = trailer.get(_DETAILS_KEY) if trailer else None
    parsed = _parse_details(raw) if isinstance(raw, bytes) else None
    if parsed is None or not parsed.info.reason:
        return _error_of_transport(status, details, address, parsed)
    return _class_for(status, parsed.info.reason)(
        details,
        parsed.info.reason,
        metadata=parsed.info.metadata,
        retry_after=parsed.retry_after,
        violations=parsed.violations,
    )


class _Details(NamedTuple):
    info: error_details_pb2.ErrorInfo
    retry_after: timedelta | None
    violations: tuple[FieldViolation, ...]


def _parse_details(raw: bytes) -> _Details | None:
    try:
        status = status_pb2.Status.FromString(raw)
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        bad = error_details_pb2.BadRequest()
        for detail in status.details:
            for message in (info, retry, bad):
                detail.Unpack(message)  # does nothing where the type is another one
    except DecodeError:
        return None
    return _Details(
        info,
        retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
        tuple(FieldViolation(wrong.field, wrong.description) for wrong in bad.field_violations),
    )


def _error_of_transport(
    status: grpc.StatusCode, details: str, address: str, parsed: _Details | None
) -> SpoolwayError:
    error_class = _class_for(status, "")
    said = details or status.name
    advice = _ADVICE.get(error_class)
    message = f"{address}: {said}" + (f". {advice}" if advice else "")
    return error_class(
        message,
        retry_after=parsed.retry_after if parsed else None,
        violations=parsed.violations if parsed else (),
    )


def _class_for(status: grpc.StatusCode, reason: str) -> type[SpoolwayError]:
    by_status = CLASS_OF_STATUS.get(status, UnknownError)
    by_reason = CLASS_OF_REASON.get(reason, by_status)
    # A reason that came with another status than agreed must not hide the status.
    return by_reason if issubclass(by_reason, by_status) else by_status
