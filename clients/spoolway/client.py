"""JobClient submits jobs and follows them; Job is a handle on one."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from spoolway.backend import Backend, backend_from_proto
from spoolway.caller import DEFAULT_TIMEOUT_S, Caller, Seconds, in_seconds
from spoolway.errors import (
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    JobCancelledError,
    JobEndedError,
    JobExpiredError,
    JobFailedError,
    SpoolwayError,
    error_from_item,
)
from spoolway.snapshot import (
    Explanation,
    JobSnapshot,
    JobState,
    LateResult,
    explanation_from_proto,
    snapshot_from_proto,
    state_to_proto,
)
from spoolway.submission import (
    MAX_CONTENT_BYTES,
    MAX_INLINE_BYTES,
    Content,
    SubmitOptions,
    batches,
    encode_content,
    submit_request,
)
from spoolway.timing import Timing
from spoolway.transfer import Transfer
from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway.verification import require_cryptography, verified_result
from spoolway.watching import wait_for_end, watch_job, watch_snapshots

if TYPE_CHECKING:
    from spoolway.channel import Stub

__all__ = ["Job", "JobClient"]

_LONGEST_PAGE = 1_000


class JobClient(Caller):
    """Submits jobs and follows them. For asyncio; SyncJobClient is its blocking twin.

        async with JobClient() as client:
            job = await client.submit("singlequdit", {"experiment_0": ...})
            print(await job.result())

    Calls that can be repeated safely are repeated when the server is unavailable, for about 3 s; submits are
    among them, as each carries a request id. Every error is a SpoolwayError. One client serves any number of
    tasks of one event loop.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        user: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        profile: str | None = None,
        timeout: Seconds = DEFAULT_TIMEOUT_S,
        max_content_bytes: int = MAX_CONTENT_BYTES,
    ) -> None:
        """Find the settings; the connection is made by the first call.

        Args:
            address: host:port of the server. Else `SPOOLWAY_ADDRESS`, the profile, 127.0.0.1:50061.
            token: Bearer token. Else `SPOOLWAY_TOKEN`, the profile, none.
            user: Who submits. Else `SPOOLWAY_USER`, the profile, the operating system's user.
            ca: File of the certificate authority that signed the server's certificate, or `system`; turns TLS
                on. Else `SPOOLWAY_CA`, the profile, none.
            profile: Table of the profile file. Else `SPOOLWAY_PROFILE`, `default`.
            timeout: Limit of each call, in seconds. Waiting for a job has limits of its own.
            max_content_bytes: Contents larger than this are refused before they are sent; 32 MiB, as the
                server does unless it is configured otherwise.

        Raises:
            SettingsError: a setting is wrong.
        """
        super().__init__(address, token=token, user=user, ca=ca, profile=profile, timeout=timeout)
        self._max_content_bytes = max_content_bytes
        self._timing = Timing()

    async def submit(
        self,
        backend: str,
        content: Content,
        *,
        request_id: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> "Job":
        """Submit one job. Once this returns the job is durable: whatever breaks, it is not lost.

        Args:
            backend: Short name of the backend.
            content: The job: what `json.dumps` takes, or a JSON document as text or bytes, sent as it is. At
                most 32 MiB unless the server is configured otherwise; above 2 MiB it is uploaded in pieces.
            request_id: Up to 128 printable characters. A repeat within 24 hours answers the same job.
                Default: random, so that the client's own repeats are safe.
            **options: `labels`, `priority`, `not_before`, `expire_time`, `max_run_time`, `max_attempts`; see
                SubmitOptions.

        Raises:
            ContentTooLargeError: too large; nothing was sent.
            InvalidArgumentError: not JSON, not valid by the backend's schema, or an option is wrong.
            NotFoundError: there is no such backend.
            RequestIdReusedError: the request id came before, with another content.
            QueueFullError: too many jobs wait.
            UnavailableError, DeadlineExceededError: no answer; whether it was submitted is unknown. Repeat it
                with the same request_id.
        """
        request = await self._request(backend, content, request_id, **options)
        response = await self._call(self._jobs.SubmitJob, request)
        return self._handle(response.job)

    async def validate(self, backend: str, content: Content, **options: Unpack[SubmitOptions]) -> None:
        """Let the server check a job as `submit` would, and store nothing. Raises what `submit` would."""
        request = await self._request(backend, content, None, **options)
        request.validate_only = True
        await self._call(self._jobs.SubmitJob, request)

    async def submit_many(
        self,
        backend: str,
        contents: Iterable[Content],
        *,
        request_id: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> "list[Job | SpoolwayError]":
        """Submit many jobs, in few calls; each stands for itself.

        Sent in order, at most 1,000 jobs and 3 MiB a call. The options hold for each of the jobs.

        Args:
            backend: Short name of the backend.
            contents: The jobs, each as in `submit`.
            request_id: Up to 120 characters; the job in place n gets `{request_id}-{n}`, so that the whole
                can be repeated. Default: random.
            **options: As in `submit`.

        Returns:
            For each content, in order, its job, or the error for which it was refused.

        Raises:
            SpoolwayError: the first call failed. Where a later call fails, its jobs' places hold its error.
        """
        answers: dict[int, Job | SpoolwayError] = {}
        places: list[int] = []
        requests: list[pb.SubmitJobRequest] = []
        for place, content in enumerate(contents):
            item_id = f"{request_id}-{place}" if request_id else None
            try:
                requests.append(await self._request(backend, content, item_id, **options))
                places.append(place)
            except SpoolwayError as error:
                answers[place] = error
        sent = 0
        for batch in batches(requests):
            outcomes = await self._submit_batch(batch, may_raise=sent == 0)
            answers.update(zip(places[sent:], outcomes, strict=False))
            sent += len(batch)
        return [answers[place] for place in sorted(answers)]

    def job(self, name: str) -> "Job":
        """A handle on a job by its name or id, without a call."""
        return Job(self, name)

    async def jobs(
        self,
        backend: str | None = None,
        states: Iterable[JobState | str] = (),
        *,
        labels: dict[str, str] | None = None,
        oldest_first: bool = False,
        limit: int | None = None,
    ) -> "AsyncIterator[Job]":
        """The caller's jobs, newest first, each with its snapshot.

        Those of a storage that does not answer are missing.

        Args:
            backend: Only of this backend.
            states: Only in one of these states.
            labels: Only with all of these labels.
            oldest_first: The other way round.
            limit: At most so many.
        """
        request = pb.ListJobsRequest(
            backend=backend or "",
            states=[state_to_proto(state) for state in states],
            labels=labels or {},
            oldest_first=oldest_first,
        )
        left = limit
        while left is None or left > 0:
            request.page_size = _LONGEST_PAGE if left is None else min(left, _LONGEST_PAGE)
            response = await self._call(self._jobs.ListJobs, request)
            for job in response.jobs[:left]:
                yield self._handle(job)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token
            left = left and left - len(response.jobs)

    async def backends(self) -> list[Backend]:
        """All backends, by name. Those of a storage that does not answer are missing."""
        response = await self._call(self._jobs.ListBackends, pb.ListBackendsRequest())
        return [backend_from_proto(backend) for backend in response.backends]

    async def backend(self, name: str) -> Backend:
        """One backend; NotFoundError if there is none of this name."""
        response = await self._call(self._jobs.GetBackend, pb.GetBackendRequest(name=name))
        return backend_from_proto(response.backend)

    async def watch(
        self, names: "Iterable[str | Job]" = (), *, backend: str | None = None
    ) -> AsyncGenerator[JobSnapshot, None]:
        """Jobs as they are, then as they change, until you stop iterating.

        Reconnects and resumes by itself. Snapshots of one job never go back; states may be passed over, but
        `transitions` tells them all.

        Args:
            names: The jobs, at most 1,000; none: all of the caller's.
            backend: Only of this backend, where no names are given.
        """
        wanted = [name.name if isinstance(name, Job) else name for name in names]
        snapshots = watch_snapshots(self._connection(), wanted, backend or "", timing=self._timing)
        try:
            async for snapshot in snapshots:
                yield snapshot
        finally:
            await snapshots.aclose()

    @property
    def _jobs(self) -> "Stub":
        return self._connection().jobs

    async def _request(
        self, backend: str, content: Content, request_id: str | None, **options: Unpack[SubmitOptions]
    ) -> pb.SubmitJobRequest:
        encoded = encode_content(content, self._max_content_bytes)
        if len(encoded) <= MAX_INLINE_BYTES:
            return submit_request(backend, content=encoded, request_id=request_id, **options)
        request = submit_request(backend, request_id=request_id, **options)  # checked before the upload
        request.content_upload.CopyFrom(await self._transfer().send_content(backend, encoded))
        return request

    def _transfer(self) -> Transfer:
        return Transfer(self._connection(), timing=self._timing)

    async def _submit_batch(
        self, batch: list[pb.SubmitJobRequest], *, may_raise: bool
    ) -> "Sequence[Job | SpoolwayError]":
        try:
            response = await self._call(self._jobs.SubmitJobs, pb.SubmitJobsRequest(requests=batch))
        except SpoolwayError as error:
            if may_raise:
                raise
            return [error] * len(batch)
        return [self._outcome(outcome) for outcome in response.outcomes]

    def _outcome(self, outcome: pb.SubmitOutcome) -> "Job | SpoolwayError":
        if outcome.HasField("error"):
            error = outcome.error
            return error_from_item(error.code, error.message, error.reason, error.metadata)
        return self._handle(outcome.job)

    def _handle(self, job: job_pb2.Job) -> "Job":
        return Job(self, job.name, snapshot_from_proto(job))


class Job:
    """A handle on one job.

    Attributes:
        name: backends/{backend}/jobs/{id}, or the bare id it was made with.
        snapshot: What was last heard of it; None before the first answer.
        late_results: Results that came too late to count, as `explain` last heard of them.
    """

    def __init__(self, client: JobClient, name: str, snapshot: JobSnapshot | None = None) -> None:
        """Made by JobClient."""
        self._client = client
        self.name = name
        self.snapshot = snapshot
        self.late_results: list[LateResult] = []

    def __repr__(self) -> str:
        """The name, and the state if known."""
        state = f" {self.snapshot.state}" if self.snapshot else ""
        return f"<Job {self.name}{state}>"

    @property
    def id(self) -> str:
        """The id alone."""
        return self.name.rpartition("/")[2]

    @property
    def backend(self) -> str:
        """Short name of its backend; empty for a bare id of which nothing has been heard yet."""
        if self.snapshot is not None:
            return self.snapshot.backend
        return self.name.split("/")[1] if "/" in self.name else ""

    async def status(self) -> JobSnapshot:
        """Where it stands now, with its place in the queue."""
        response = await self._client._call(self._client._jobs.GetJob, pb.GetJobRequest(name=self.name))
        position = response.queue_position if response.HasField("queue_position") else None
        return self._heard(snapshot_from_proto(response.job, position))

    async def watch(self) -> AsyncGenerator[JobSnapshot, None]:
        """Where it stands, then its changes, until it has ended. Reconnects and resumes by itself."""
        snapshots = watch_job(self._client._connection(), self.name, timing=self._client._timing)
        try:
            async for snapshot in snapshots:
                yield self._heard(snapshot)
        finally:
            await snapshots.aclose()

    async def wait(self, timeout: Seconds | None = None) -> JobSnapshot:
        """Wait until it has ended, however it ends.

        Args:
            timeout: In seconds; None: as long as it takes.

        Raises:
            DeadlineExceededError: it has not ended in time. The job goes on.
        """
        if self.snapshot is not None and self.snapshot.is_terminal:
            return self.snapshot
        limit_s = None if timeout is None else in_seconds(timeout)
        wait = wait_for_end(self._client._connection(), self.name, timing=self._client._timing)
        try:
            async with asyncio.timeout(limit_s):
                return self._heard(await wait)
        except TimeoutError as error:
            if isinstance(error, SpoolwayError):
                raise
            raise DeadlineExceededError(
                f"job {self.name} has not ended within {limit_s:g} s; it goes on: wait again, or cancel it"
            ) from None

    async def result(self, timeout: Seconds | None = None, *, verify: bool = False) -> Any:
        """Wait for the result and parse it.

        Args:
            timeout: In seconds, for the job to end; None: as long as it takes.
            verify: Check that it is signed, as this job's, by the public key that its backend has registered,
                and return what was signed. Needs the extra `spoolway-client[verify]`. Otherwise a signed
                result is returned as it is, with header and signature.

        Raises:
            JobFailedError, JobCancelledError, JobExpiredError: it ended without a result.
            DeadlineExceededError: it has not ended in time. The job goes on.
            VerificationError: it is not signed, or not rightly.
            SettingsError: to verify it, the extra must be installed.
        """
        if verify:
            require_cryptography()
        result = json.loads(await self.result_bytes(timeout))
        if not verify:
            return result
        backend = await self._client.backend(self.backend)
        return verified_result(result, backend.public_key, job_name=self.name)

    async def result_bytes(self, timeout: Seconds | None = None) -> bytes:
        """Wait for the result and return the JSON document as its spooler sent it; see `result`."""
        snapshot = await self.wait(timeout)
        if snapshot.state is not JobState.DONE:
            raise _end_error(snapshot)
        if snapshot.result_bytes > MAX_INLINE_BYTES:
            return await self._read_result(snapshot)
        try:
            response = await self._client._call(
                self._client._jobs.GetResult, pb.GetResultRequest(name=self.name)
            )
        except FailedPreconditionError as error:
            if error.reason != "RESULT_TOO_LARGE":
                raise
            return await self._read_result(snapshot)
        content = response.content
        if response.sha256 and hashlib.sha256(content).hexdigest() != response.sha256:
            raise DataLossError(f"the result of {self.name} arrived damaged; get it again")
        return content

    async def _read_result(self, snapshot: JobSnapshot) -> bytes:
        transfer = self._client._transfer()
        return await transfer.fetch_result(self.name, snapshot.result_bytes, snapshot.result_sha256)

    async def late_result_bytes(self, attempt: int) -> bytes:
        """A result that came too late to count, as its spooler sent it; NotFoundError if none is kept."""
        call = self._client._connection().jobs.ReadResult(
            pb.ReadResultRequest(name=self.name, attempt=attempt)
        )
        content = bytearray()
        try:
            while (piece := await self._client._connection().read(call)) is not None:
                content += piece.chunk
        finally:
            call.cancel()
        return bytes(content)

    async def cancel(self) -> JobSnapshot:
        """Cancel it: at once where no spooler runs it, else by asking its spooler. Safe to repeat.

        Returns:
            CANCELLED, CANCELLING, or as it had ended before.
        """
        response = await self._client._call(self._client._jobs.CancelJob, pb.CancelJobRequest(name=self.name))
        return self._heard(snapshot_from_proto(response.job))

    async def retry(self) -> JobSnapshot:
        """Run it anew: queued at the tail, its attempts counted from 0.

        Raises:
            FailedPreconditionError: it has not ended, or is DONE.
        """
        response = await self._client._call(self._client._jobs.RetryJob, pb.RetryJobRequest(name=self.name))
        return self._heard(snapshot_from_proto(response.job))

    async def delete(self, *, etag: str = "") -> None:
        """Delete it, with its content and result.

        Args:
            etag: Only if it has not changed since the snapshot of this etag; empty: whatever it is.

        Raises:
            FailedPreconditionError: it has not ended; cancel it first.
            EtagMismatchError: it has changed since.
            NotFoundError: it is not there (any more).
        """
        request = pb.DeleteJobRequest(name=self.name, etag=etag)
        await self._client._call(self._client._jobs.DeleteJob, request)

    async def explain(self) -> list[Explanation]:
        """Why it stands where it stands, above all why it does not run; the most important reason first.

        Also learns of `late_results`.
        """
        response = await self._client._call(
            self._client._jobs.ExplainJob, pb.ExplainJobRequest(name=self.name)
        )
        self._heard(snapshot_from_proto(response.job))
        self.late_results = [
            LateResult(attempt=kept.attempt, spooler=kept.spooler, size_bytes=kept.size_bytes)
            for kept in response.kept_results
        ]
        return [explanation_from_proto(one) for one in response.explanations]

    def _heard(self, snapshot: JobSnapshot) -> JobSnapshot:
        self.snapshot = snapshot
        return snapshot


_END_ERRORS: dict[JobState, tuple[type[JobEndedError], str]] = {
    JobState.ERROR: (JobFailedError, "failed"),
    JobState.CANCELLED: (JobCancelledError, "was cancelled"),
    JobState.EXPIRED: (JobExpiredError, "was not started before its expire_time"),
}


def _end_error(snapshot: JobSnapshot) -> JobEndedError:
    error_class, words = _END_ERRORS[snapshot.state]
    said = snapshot.error.message if snapshot.error else ""
    error = error_class(
        f"job {snapshot.name} {words}" + (f": {said}" if said else ""),
        snapshot.error.reason if snapshot.error and snapshot.error.reason else f"JOB_{snapshot.state}",
        metadata=snapshot.error.metadata if snapshot.error else None,
    )
    error.snapshot = snapshot
    return error
