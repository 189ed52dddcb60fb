"""JobService: translates, calls, translates."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_pb2, job_service_pb2_grpc
from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.model import Job, JobKey, State, new_token, result_blob_id
from spoolway_providers.rules import Release
from spoolway_server.audit import Audit
from spoolway_server.auth import Principal, caller_of
from spoolway_server.backends import Backends
from spoolway_server.errors import ServiceError
from spoolway_server.explaining import Explanation, explain
from spoolway_server.guard import Context
from spoolway_server.jobs import JobRequest, Jobs, UploadRef, result_ref
from spoolway_server.kept import KeptResult, kept_results, read_kept
from spoolway_server.leases import Update
from spoolway_server.names import backend_name, lease_token, resource_id, short_backend_name, storage_name
from spoolway_server.ownership import any_job
from spoolway_server.services.lease_updates import complete_update, fail_event, leased_key
from spoolway_server.services.parts import as_fits, chunks, first_part
from spoolway_server.services.spooler_stream import SpoolerStream
from spoolway_server.services.unary_spoolers import UnarySpoolers
from spoolway_server.spoolers import Spoolers
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.translate import (
    etag,
    job_to_proto,
    reason_to_proto,
    state_from_proto,
    state_to_proto,
    status_to_proto,
    time_from,
    timedelta_from,
    timestamp,
)
from spoolway_server.uploads import UploadLimits, content_upload_id, read_pieces, receive, staged_size
from spoolway_server.watching import Watching

__all__ = ["JobService"]


DEFAULT_WAIT_S = 30.0
LONGEST_WAIT_S = 60.0
DEFAULT_PAGE = 50
LONGEST_PAGE = 1000


class JobService(job_service_pb2_grpc.JobServiceServicer):
    """The calls of clients and spoolers; the proto's comments say what each does."""

    def __init__(
        self,
        *,
        storages: Storages,
        jobs: Jobs,
        watching: Watching,
        backends: Backends,
        spoolers: Spoolers,
        limits: UploadLimits,
        max_batch: int,
        audit: Audit,
    ) -> None:
        """Translate for these."""
        self._storages = storages
        self._jobs = jobs
        self._watching = watching
        self._backends = backends
        self._spoolers = spoolers
        self._unary = UnarySpoolers(spoolers)
        self._caller = caller_of
        self._limits = limits
        self._max_batch = max_batch
        self._audit = audit

    def end_waits(self) -> None:
        """The server is about to stop: whoever waits for a change, or for a job to run, is answered."""
        for storage in self._storages.by_name.values():
            storage.feed.end()
        self._unary.end_waits()

    # Clients

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Context) -> pb.SubmitJobResponse:
        caller = self._caller(context)
        job = await self._jobs.submit(caller, _job_request(request))
        return pb.SubmitJobResponse(job=job_to_proto(job) if job else _validated(caller, request))

    async def SubmitJobs(self, request: pb.SubmitJobsRequest, context: Context) -> pb.SubmitJobsResponse:
        caller = self._caller(context)
        if len(request.requests) > self._max_batch:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "BATCH_TOO_LARGE",
                f"{len(request.requests)} jobs; a batch has at most {self._max_batch}: send several",
                metadata={"limit": self._max_batch},
                field="requests",
            )
        parsed = [_job_request_or_error(one) for one in request.requests]
        outcomes = await self._jobs.submit_many(caller, parsed)
        response = pb.SubmitJobsResponse()
        for one, outcome in zip(request.requests, outcomes, strict=True):
            if isinstance(outcome, ServiceError):
                response.outcomes.add(error=outcome.to_proto())
            else:
                response.outcomes.add(job=job_to_proto(outcome) if outcome else _validated(caller, one))
        return response

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        storage, job = await self._jobs.get(self._caller(context), request.name)
        position = await self._jobs.position(storage, job)
        return pb.GetJobResponse(job=job_to_proto(job), queue_position=position)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        storage, job = await self._jobs.get(self._caller(context), request.name)
        if request.etag == etag(job):
            return pb.GetStatusResponse(unchanged=True, etag=etag(job))
        return pb.GetStatusResponse(
            etag=etag(job),
            status=status_to_proto(job),
            state=state_to_proto(job.state),
            reason=reason_to_proto(job.reason),
            queue_position=await self._jobs.position(storage, job),
            backend_paused=storage.policy(job.key.backend).paused,
            stage=job.stage,
            fraction=job.fraction,
        )

    async def WaitJob(self, request: pb.WaitJobRequest, context: Context) -> pb.WaitJobResponse:
        timeout_s = _wait_s(request.timeout if request.HasField("timeout") else None, "timeout")
        job = await self._watching.wait(self._caller(context), request.name, request.etag, timeout_s)
        return pb.WaitJobResponse(job=job_to_proto(job))

    async def WatchJobs(
        self, request: pb.WatchJobsRequest, context: Context
    ) -> AsyncGenerator[pb.WatchJobsResponse, None]:
        backend = backend_name(request.backend) if request.backend else ""
        events = self._watching.watch(self._caller(context), request.names, backend, request.resume_token)
        token = request.resume_token
        async with aclosing(events):
            async for event in events:
                *parts, last = as_fits(job_to_proto(job) for job in event.jobs)
                for part in parts:
                    # The event is not told in full yet: a resume begins before it.
                    yield pb.WatchJobsResponse(jobs=part, resume_token=token, snapshot=event.snapshot)
                token = event.resume_token
                yield pb.WatchJobsResponse(
                    jobs=last,
                    deleted=[str(key) for key in event.deleted],
                    resume_token=token,
                    snapshot=event.snapshot,
                    snapshot_complete=event.snapshot_complete,
                )

    async def GetResult(self, request: pb.GetResultRequest, context: Context) -> pb.GetResultResponse:
        content, sha256 = await self._jobs.result(self._caller(context), request.name)
        return pb.GetResultResponse(content=content, sha256=sha256)

    async def ReadResult(
        self, request: pb.ReadResultRequest, context: Context
    ) -> AsyncGenerator[pb.ReadResultResponse, None]:
        storage, job = await self._jobs.get(self._caller(context), request.name)
        if request.attempt:
            pieces = read_kept(storage, job, request.attempt, request.offset)
        else:
            pieces = read_pieces(storage, result_ref(job), request.offset)
        async for piece in pieces:
            yield pb.ReadResultResponse(chunk=piece)

    async def UploadContent(
        self, request_iterator: AsyncIterator[pb.UploadContentRequest], context: Context
    ) -> pb.UploadContentResponse:
        caller = self._caller(context)
        start = (await first_part(request_iterator)).start
        storage, backend = await self._storages.find_backend(
            backend_name(start.backend, field="start.backend")
        )
        upload = lease_token(start.upload, field="start.upload") if start.upload else new_token()
        blob_id = content_upload_id(caller, backend.name, upload)
        pieces = chunks(request_iterator)
        size = await receive(storage, blob_id, start.offset, pieces, limit=self._limits.content)
        return pb.UploadContentResponse(upload=upload, size_bytes=size)

    async def GetUpload(self, request: pb.GetUploadRequest, context: Context) -> pb.GetUploadResponse:
        caller = self._caller(context)
        if request.job:
            key, token = _served_key(caller, request.job), lease_token(request.lease_token)
            storage = await self._storages.home_of(key)
            blob_id = result_blob_id(key, token)
        else:
            storage, backend = await self._storages.find_backend(backend_name(request.backend))
            upload = lease_token(request.upload, field="upload")
            blob_id = content_upload_id(caller, backend.name, upload)
        return pb.GetUploadResponse(size_bytes=await staged_size(storage, blob_id))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        size = page_size(request.page_size)
        while True:
            listed = await self._jobs.list_page(
                self._caller(context),
                backend=backend_name(request.backend) if request.backend else "",
                states=[_state(number) for number in request.states],
                labels=dict(request.labels),
                oldest_first=request.oldest_first,
                page_size=size,
                page_token=request.page_token,
            )
            first, *rest = as_fits(job_to_proto(job) for job in listed.jobs)
            if not rest:
                return pb.ListJobsResponse(
                    jobs=first,
                    next_page_token=listed.next_token,
                    unreachable_storages=listed.unreachable,
                )
            # The jobs are longer than usual: a page of as many as fit, with a token that goes on after them.
            size = len(first)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        job = await self._jobs.cancel(self._caller(context), request.name)
        return pb.CancelJobResponse(job=job_to_proto(job))

    async def RetryJob(self, request: pb.RetryJobRequest, context: Context) -> pb.RetryJobResponse:
        job = await self._jobs.retry(self._caller(context), request.name)
        return pb.RetryJobResponse(job=job_to_proto(job))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Context) -> pb.DeleteJobResponse:
        await self._jobs.delete(self._caller(context), request.name, request.etag)
        return pb.DeleteJobResponse()

    async def ExplainJob(self, request: pb.ExplainJobRequest, context: Context) -> pb.ExplainJobResponse:
        storage, job = await self._jobs.get(self._caller(context), request.name)
        with storage.noting_trouble():
            explanations = await explain(storage, job)
            kept = await kept_results(storage, job)
        return pb.ExplainJobResponse(
            job=job_to_proto(job),
            explanations=[_explanation(one) for one in explanations],
            kept_results=[_kept_result(one) for one in kept],
        )

    async def ListBackends(
        self, request: pb.ListBackendsRequest, context: Context
    ) -> pb.ListBackendsResponse:
        backends, unreachable = await self._backends.list_all()
        return pb.ListBackendsResponse(backends=backends, unreachable_storages=unreachable)

    async def GetBackend(self, request: pb.GetBackendRequest, context: Context) -> pb.GetBackendResponse:
        backend = await self._backends.get(backend_name(request.name, field="name"))
        return pb.GetBackendResponse(backend=backend)

    # Spoolers

    async def StreamNextJobs(
        self, request_iterator: AsyncIterator[pb.StreamNextJobsRequest], context: Context
    ) -> AsyncGenerator[pb.StreamNextJobsResponse, None]:
        stream = SpoolerStream(self._spoolers, self._caller(context), self._limits)
        async with aclosing(stream.run(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def NextJob(self, request: pb.NextJobRequest, context: Context) -> pb.NextJobResponse:
        return await self._unary.next_job(
            self._caller(context),
            spooler_id=resource_id(request.spooler_id, field="spooler_id"),
            instance_id=resource_id(request.instance_id, field="instance_id"),
            backends=[backend_name(name, field="backends") for name in request.backends],
            session_id=lease_token(request.session, field="session") if request.session else "",
            wait_s=_wait_s(
                request.wait_timeout if request.HasField("wait_timeout") else None, "wait_timeout"
            ),
        )

    async def ReadContent(
        self, request: pb.ReadContentRequest, context: Context
    ) -> AsyncGenerator[pb.ReadContentResponse, None]:
        caller = self._caller(context)
        storage, job = await self._leased_job(caller, request.job, request.lease_token)
        async for piece in read_pieces(storage, job.content, request.offset):
            yield pb.ReadContentResponse(chunk=piece)

    async def UploadResult(
        self, request_iterator: AsyncIterator[pb.UploadResultRequest], context: Context
    ) -> pb.UploadResultResponse:
        caller = self._caller(context)
        start = (await first_part(request_iterator)).start
        storage, job = await self._leased_job(caller, start.job, start.lease_token)
        blob_id = result_blob_id(job.key, start.lease_token)
        pieces = chunks(request_iterator)
        size = await receive(storage, blob_id, start.offset, pieces, limit=self._limits.result)
        return pb.UploadResultResponse(size_bytes=size)

    async def CompleteJob(self, request: pb.CompleteJobRequest, context: Context) -> pb.CompleteJobResponse:
        key = _served_key(self._caller(context), request.job)
        token = lease_token(request.lease_token)
        storage = await self._storages.home_of(key)
        update = await complete_update(key, token, request, storage, self._limits)
        return pb.CompleteJobResponse(job=await self._apply(update))

    async def FailJob(self, request: pb.FailJobRequest, context: Context) -> pb.FailJobResponse:
        key = _served_key(self._caller(context), request.job)
        update = Update(key, fail_event(lease_token(request.lease_token), request.fail))
        return pb.FailJobResponse(job=await self._apply(update))

    async def ReleaseJob(self, request: pb.ReleaseJobRequest, context: Context) -> pb.ReleaseJobResponse:
        key = _served_key(self._caller(context), request.job)
        event = Release(lease_token(request.lease_token), request.reason)
        return pb.ReleaseJobResponse(job=await self._apply(Update(key, event)))

    async def ExtendLeases(
        self, request: pb.ExtendLeasesRequest, context: Context
    ) -> pb.ExtendLeasesResponse:
        caller = self._caller(context)
        session_id = lease_token(request.session, field="session")
        return await self._unary.extend(caller, session_id, request.leases)

    async def RegisterBackend(
        self, request: pb.RegisterBackendRequest, context: Context
    ) -> pb.RegisterBackendResponse:
        name = short_backend_name(request.backend)
        self._caller(context).require_backends([name], field="backend")
        storage = storage_name(request.storage, field="storage") if request.storage else ""
        backend = await self._backends.register(
            name, request.config, request.etag, storage, request.public_key
        )
        return pb.RegisterBackendResponse(backend=backend)

    async def UnregisterBackend(
        self, request: pb.UnregisterBackendRequest, context: Context
    ) -> pb.UnregisterBackendResponse:
        name = short_backend_name(request.backend)
        caller = self._caller(context)
        caller.require_backends([name], field="backend")
        async with self._audit.of(caller, "UnregisterBackend", f"backends/{name}") as deed:
            deed.detail = "forced" if request.force else ""
            left = await self._backends.unregister(name, request.etag, force=request.force)
        return pb.UnregisterBackendResponse(unfinished_jobs=left)

    async def _leased_job(self, caller: Principal, name: str, token: str) -> tuple[Storage, Job]:
        """A job and its storage, for whoever has or had a lease of it."""
        key = _served_key(caller, name)
        lease_token(token)
        storage = await self._storages.home_of(key)
        job = await any_job(storage, key, name, field="job")
        if job.attempt(token) is None:
            message = f"the lease token does not belong to {key}"
            raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_SUPERSEDED", message)
        return storage, job

    async def _apply(self, update: Update) -> job_pb2.Job:
        storage = await self._storages.home_of(update.key)
        return job_to_proto(await storage.leases.apply_one(update))


def _served_key(caller: Principal, name: str) -> JobKey:
    """The key of a job that the caller's backends may have leased to it."""
    key = leased_key(name)
    caller.require_backends([key.backend], field="job")
    return key


def page_size(size: int) -> int:
    """The contract's page sizes: 0 is 50, above 1,000 is 1,000."""
    if size < 0:
        raise _invalid("PAGE_SIZE_INVALID", "page_size", "page_size is a number from 0 up")
    return min(size or DEFAULT_PAGE, LONGEST_PAGE)


def _job_request(request: pb.SubmitJobRequest) -> JobRequest:
    return JobRequest(
        backend=backend_name(request.backend),
        content=request.content,
        labels=dict(request.labels),
        priority=request.priority,
        not_before=_time(request.not_before, "not_before") if request.HasField("not_before") else None,
        expire_at=_time(request.expire_time, "expire_time") if request.HasField("expire_time") else None,
        max_run_time=_length(request.max_run_time, "max_run_time")
        if request.HasField("max_run_time")
        else None,
        max_attempts=request.max_attempts,
        upload=_upload(request.content_upload) if request.HasField("content_upload") else None,
        request_id=request.request_id,
        validate_only=request.validate_only,
    )


def _upload(message: pb.Upload) -> UploadRef:
    if message.size_bytes <= 0:
        raise _invalid("UPLOAD_INVALID", "content_upload.size_bytes", "an upload has at least one byte")
    upload = lease_token(message.upload, field="content_upload.upload")
    return UploadRef(upload, message.size_bytes, message.sha256)


def _job_request_or_error(request: pb.SubmitJobRequest) -> JobRequest | ServiceError:
    try:
        return _job_request(request)
    except ServiceError as error:
        return error


def _validated(caller: Principal, request: pb.SubmitJobRequest) -> job_pb2.Job:
    return job_pb2.Job(backend=request.backend, owner=caller.name, content_bytes=len(request.content))


def _explanation(one: Explanation) -> pb.Explanation:
    return pb.Explanation(
        cause=pb.ExplanationCause.Value(f"EXPLANATION_CAUSE_{one.cause}"),
        message=one.message,
        advice=one.advice,
        until=timestamp(one.until),
        jobs_before=one.jobs_before,
    )


def _kept_result(one: KeptResult) -> pb.KeptResult:
    return pb.KeptResult(
        attempt=one.attempt.number,
        spooler=one.attempt.spooler,
        size_bytes=one.size,
        attempt_end_time=timestamp(one.attempt.ended_at),
    )


def _state(number: int) -> State:
    state = state_from_proto(number)
    if state is None:
        raise _invalid("STATE_INVALID", "states", f"{number} is no state that a job can be in")
    return state


def _time(message: Timestamp, field: str) -> datetime:
    try:
        return time_from(message)
    except (ValueError, OverflowError) as error:
        raise _invalid("TIME_INVALID", field, f"{field} is no valid time") from error


def _length(message: Duration, field: str) -> timedelta:
    try:
        length = timedelta_from(message)
    except (ValueError, OverflowError) as error:
        raise _invalid("DURATION_INVALID", field, f"{field} is no valid duration") from error
    if abs(length) > timedelta(days=3650):
        raise _invalid("DURATION_INVALID", field, f"{field} is longer than ten years")
    return length


def _wait_s(message: Duration | None, field: str) -> float:
    if message is None:
        return DEFAULT_WAIT_S
    return min(max(_length(message, field).total_seconds(), 0.0), LONGEST_WAIT_S)


def _invalid(reason: str, field: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)
