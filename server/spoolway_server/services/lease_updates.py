"""Reports about jobs in hand: from their messages to the rules' events, checked."""

from datetime import timedelta
from hashlib import sha256

import grpc

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.interface import Claimed
from spoolway_providers.model import BlobRef, Job, JobKey, result_blob_id
from spoolway_providers.rules import Accept, Cancelled, Complete, Event, Fail, Progress, Release
from spoolway_server.documents import check_result
from spoolway_server.errors import ServiceError
from spoolway_server.leases import Update
from spoolway_server.names import job_name, lease_token, parse_job_name
from spoolway_server.sessions import Session
from spoolway_server.spoolers import HeldJob
from spoolway_server.storage import Storage
from spoolway_server.translate import duration, timedelta_from, timestamp
from spoolway_server.uploads import UploadLimits, verify

__all__ = [
    "assignment_to_proto",
    "complete_update",
    "fail_event",
    "held_from_proto",
    "leased_key",
    "progress_event",
    "update_of",
]

MAX_RETRY_AFTER = timedelta(days=7)


def leased_key(name: str, *, field: str = "job") -> JobKey:
    """The key of a job named in full, as assignments name it."""
    backend, job_id = parse_job_name(name, field=field)
    if not backend:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "JOB_NAME_INVALID",
            "name the job as its assignment does: backends/{backend}/jobs/{id}",
            field=field,
        )
    return JobKey(backend, job_id)


def held_from_proto(held: pb.HeldLease) -> HeldJob:
    """A job that a spooler says it holds."""
    return HeldJob(
        held.job,
        leased_key(held.job, field="hello.held.job"),
        lease_token(held.lease_token, field="hello.held.lease_token"),
    )


async def update_of(report: pb.LeaseUpdate, session: Session, limits: UploadLimits) -> tuple[Storage, Update]:
    """The update that a report of a session asks for, and the storage that it is for."""
    key = leased_key(report.job)
    storage = session.backends.get(key.backend)
    if storage is None:
        raise ServiceError(
            grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", "the job is of no backend of this stream"
        )
    known = session.known
    token = lease_token(report.lease_token)
    kind = report.WhichOneof("update")
    if kind == "complete":
        update = await complete_update(key, token, report.complete, storage, limits, known(key, token))
        return storage, update
    event: Event
    match kind:
        case "accept":
            event = Accept(token)
        case "progress":
            event = progress_event(token, report.progress)
        case "fail":
            event = fail_event(token, report.fail)
        case "release":
            event = Release(token, report.release.reason)
        case "cancelled":
            event = Cancelled(token)
        case _:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "MESSAGE_EMPTY",
                "a report has exactly one of its fields set",
            )
    return storage, Update(key, event, known=known(key, token))


async def complete_update(
    key: JobKey,
    token: str,
    complete: pb.Complete | pb.CompleteJobRequest,
    storage: Storage,
    limits: UploadLimits,
    known: Job | None = None,
) -> Update:
    """A completion, its result checked to be a JSON document, or its upload to be whole."""
    blob_id = result_blob_id(key, token)
    if complete.HasField("upload"):
        if complete.result:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "RESULT_AMBIGUOUS",
                "a completion has a result or an upload, not both",
                field="upload",
            )
        ref = BlobRef(blob_id, complete.upload.size_bytes, complete.upload.sha256)
        # Not staged any more: an earlier completion has used it, and if this is its repeat the rules know.
        await verify(storage, ref)
        return Update(key, Complete(token, ref), known=known)
    result = complete.result
    limit = min(limits.inline, storage.provider.capabilities.max_document_bytes)
    await check_result(result, field="result", max_bytes=limit)
    ref = BlobRef(blob_id, len(result), sha256(result).hexdigest())
    return Update(key, Complete(token, ref), payload=result, known=known)


def progress_event(token: str, progress: pb.Progress) -> Progress:
    """A report of progress; the newest stands for all of it, but an empty sentence leaves the last."""
    if not 0.0 <= progress.fraction <= 1.0:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "FRACTION_INVALID",
            "fraction is a number from 0 to 1",
            field="progress.fraction",
        )
    return Progress(token, progress.stage, progress.fraction, progress.detail or None)


def fail_event(token: str, fail: pb.Fail) -> Fail:
    """A failure; a message that is too long is cut by the rules."""
    retry_after: timedelta | None = None
    if fail.HasField("retry_after"):
        try:
            retry_after = timedelta_from(fail.retry_after)
        except (ValueError, OverflowError):
            retry_after = timedelta(-1)
        if not timedelta(0) <= retry_after <= MAX_RETRY_AFTER:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "RETRY_AFTER_INVALID",
                f"retry_after is a duration from 0 to {MAX_RETRY_AFTER.days} days",
                field="fail.retry_after",
            )
    return Fail(token, fail.message or "the spooler reported a failure", fail.retryable, retry_after)


def assignment_to_proto(claimed: Claimed) -> pb.Assignment:
    """A job for its spooler."""
    job = claimed.job
    holder = job.holder
    return pb.Assignment(
        job=job_name(job.key),
        lease_token=holder.token if holder else "",
        content=claimed.content or b"",
        content_bytes=job.content.size,
        owner=job.owner,
        attempts_before=job.attempt_count,
        labels=job.labels,
        max_run_time=duration(job.max_run_time),
        create_time=timestamp(job.created_at),
        trace_context=job.trace,
    )
