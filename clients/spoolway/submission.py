"""From what a user hands in to the requests that are sent: JSON, limits, batches."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.errors import ContentTooLargeError, InvalidArgumentError
from spoolway.v1 import job_service_pb2 as pb

__all__ = [
    "MAX_CONTENT_BYTES",
    "MAX_INLINE_BYTES",
    "Content",
    "SubmitOptions",
    "batches",
    "encode_content",
    "encode_json",
    "submit_request",
]

MAX_INLINE_BYTES = 2 * 1024 * 1024
"""What fits into a message unless the server is configured otherwise; what is longer is uploaded."""
MAX_CONTENT_BYTES = 32 * 1024 * 1024
"""The server's limit of a job's content, unless it is configured otherwise."""

MAX_BATCH_JOBS = 1_000
MAX_BATCH_BYTES = 3 * 1024 * 1024
"""Under the 4 MiB that gRPC receives, and this client keeps for a retry, by default."""

Content = Mapping[str, Any] | Sequence[Any] | str | bytes
"""A job's content: what `json.dumps` takes, or a JSON document as text or bytes, sent as it is."""


class SubmitOptions(TypedDict, total=False):
    """What may be said about a job beside its content."""

    labels: Mapping[str, str] | None
    """At most 32 pairs; keys 1 to 64, values up to 256 characters."""
    priority: int
    """-100 to 100; one step is worth a minute of waiting. Default 0."""
    not_before: datetime | None
    """Not started before; must have a time zone."""
    expire_time: datetime | None
    """Given up unless started by then; must have a time zone."""
    max_run_time: timedelta | None
    """Longest run; the backend's limit counts too."""
    max_attempts: int | None
    """Attempts allowed, up to the backend's limit."""


def encode_json(value: Content | float | bool | None) -> bytes:
    """One JSON document in UTF-8; text and bytes are taken as they are.

    Raises:
        InvalidArgumentError: the value can't be written as JSON; the message says which part.
    """
    if isinstance(value, bytes):
        return value
    try:
        if isinstance(value, str):
            return value.encode()
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"a text in it is not Unicode: {error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"it can't be written as JSON: {error}") from error


def encode_content(content: Content, max_bytes: int) -> bytes:
    """A job's content as it is sent.

    Raises:
        ContentTooLargeError: it has more than `max_bytes` bytes.
        InvalidArgumentError: it is not JSON.
    """
    encoded = encode_json(content)
    if len(encoded) > max_bytes:
        raise _too_large(len(encoded), max_bytes)
    return encoded


def submit_request(
    backend: str,
    *,
    content: bytes = b"",
    upload: pb.Upload | None = None,
    request_id: str | None = None,
    validate_only: bool = False,
    **options: Unpack[SubmitOptions],
) -> pb.SubmitJobRequest:
    """The request for one job; with a random request id where none is given, so that it can be repeated.

    Raises:
        InvalidArgumentError: an option has no place in a request.
    """
    try:
        return pb.SubmitJobRequest(
            backend=backend,
            content=content,
            content_upload=upload,
            labels=options.get("labels") or {},
            priority=options.get("priority", 0),
            not_before=_timestamp("not_before", options.get("not_before")),
            expire_time=_timestamp("expire_time", options.get("expire_time")),
            max_run_time=_duration(options.get("max_run_time")),
            max_attempts=options.get("max_attempts") or 0,
            request_id=request_id or uuid.uuid4().hex,
            validate_only=validate_only,
        )
    except ValueError as error:
        # protobuf: a number out of range, or half a surrogate pair in a text.
        raise InvalidArgumentError(f"an option of the job is out of range: {error}") from error


def batches(requests: Sequence[pb.SubmitJobRequest]) -> Iterator[list[pb.SubmitJobRequest]]:
    """Cut into lists of at most 1,000 jobs and 3 MiB, in order; a larger job stands alone."""
    batch: list[pb.SubmitJobRequest] = []
    batch_bytes = 0
    for request in requests:
        request_bytes = request.ByteSize()
        if batch and (len(batch) == MAX_BATCH_JOBS or batch_bytes + request_bytes > MAX_BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(request)
        batch_bytes += request_bytes
    if batch:
        yield batch


def _too_large(size: int, limit: int) -> ContentTooLargeError:
    return ContentTooLargeError(
        f"the content has {size:,} bytes, over the limit of {limit:,}; split the job, or keep the data "
        "elsewhere and submit where it is. If the server allows more (limits.max_content_bytes), "
        "give max_content_bytes",
        "CONTENT_TOO_LARGE",
        metadata={"limit_bytes": str(limit), "size_bytes": str(size)},
    )


def _timestamp(field: str, moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidArgumentError(f"{field} has no time zone; write datetime.now(UTC) + timedelta(...)")
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _duration(span: timedelta | None) -> Duration | None:
    if span is None:
        return None
    duration = Duration()
    duration.FromTimedelta(span)
    return duration
