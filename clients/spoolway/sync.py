"""The blocking twins of JobClient and Job, for scripts and notebooks."""

import os
from collections.abc import Iterable, Iterator
from typing import Any, Unpack

from spoolway.backend import Backend
from spoolway.blocking import SyncCaller, thread
from spoolway.caller import DEFAULT_TIMEOUT_S, Seconds
from spoolway.client import Job, JobClient
from spoolway.errors import SpoolwayError
from spoolway.snapshot import Explanation, JobSnapshot, JobState, LateResult
from spoolway.submission import MAX_CONTENT_BYTES, Content, SubmitOptions

__all__ = ["SyncJob", "SyncJobClient"]


class SyncJobClient(SyncCaller):
    """Submits jobs and follows them, blocking. Each method is that of JobClient.

        with SyncJobClient() as client:
            print(client.submit("singlequdit", {"experiment_0": ...}).result())

    Any number of threads may use one client.
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
        """Find the settings; arguments and errors are those of JobClient."""
        self._client = JobClient(
            address,
            token=token,
            user=user,
            ca=ca,
            profile=profile,
            timeout=timeout,
            max_content_bytes=max_content_bytes,
        )
        super().__init__(self._client)

    def submit(
        self,
        backend: str,
        content: Content,
        *,
        request_id: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> "SyncJob":
        """Submit one job; see JobClient.submit."""
        return SyncJob(thread.run(self._client.submit(backend, content, request_id=request_id, **options)))

    def validate(self, backend: str, content: Content, **options: Unpack[SubmitOptions]) -> None:
        """Let the server check a job and store nothing; see JobClient.validate."""
        thread.run(self._client.validate(backend, content, **options))

    def submit_many(
        self,
        backend: str,
        contents: Iterable[Content],
        *,
        request_id: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> "list[SyncJob | SpoolwayError]":
        """Submit many jobs in few calls; see JobClient.submit_many."""
        work = self._client.submit_many(backend, contents, request_id=request_id, **options)
        return [SyncJob(answer) if isinstance(answer, Job) else answer for answer in thread.run(work)]

    def job(self, name: str) -> "SyncJob":
        """A handle on a job by its name or id, without a call."""
        return SyncJob(self._client.job(name))

    def jobs(
        self,
        backend: str | None = None,
        states: Iterable[JobState | str] = (),
        *,
        labels: dict[str, str] | None = None,
        oldest_first: bool = False,
        limit: int | None = None,
    ) -> "Iterator[SyncJob]":
        """The caller's jobs, newest first; see JobClient.jobs."""
        found = self._client.jobs(backend, states, labels=labels, oldest_first=oldest_first, limit=limit)
        return map(SyncJob, thread.iterate(found))

    def backends(self) -> list[Backend]:
        """All backends, by name."""
        return thread.run(self._client.backends())

    def backend(self, name: str) -> Backend:
        """One backend; NotFoundError if there is none of this name."""
        return thread.run(self._client.backend(name))

    def watch(
        self, names: "Iterable[str | SyncJob]" = (), *, backend: str | None = None
    ) -> Iterator[JobSnapshot]:
        """Jobs as they are, then as they change; see JobClient.watch."""
        wanted = [name.name if isinstance(name, SyncJob) else name for name in names]
        return thread.iterate(self._client.watch(wanted, backend=backend))


class SyncJob:
    """A handle on one job, blocking. Each method is that of Job."""

    def __init__(self, job: Job) -> None:
        """Made by SyncJobClient."""
        self._job = job

    def __repr__(self) -> str:
        """The name, and the state if known."""
        return repr(self._job)

    @property
    def name(self) -> str:
        """backends/{backend}/jobs/{id}, or the bare id it was made with."""
        return self._job.name

    @property
    def id(self) -> str:
        """The id alone."""
        return self._job.id

    @property
    def backend(self) -> str:
        """Short name of its backend; empty for a bare id of which nothing has been heard yet."""
        return self._job.backend

    @property
    def snapshot(self) -> JobSnapshot | None:
        """What was last heard of it; None before the first answer."""
        return self._job.snapshot

    def status(self) -> JobSnapshot:
        """Where it stands now; see Job.status."""
        return thread.run(self._job.status())

    def watch(self) -> Iterator[JobSnapshot]:
        """Where it stands, then its changes, until it has ended."""
        return thread.iterate(self._job.watch())

    def wait(self, timeout: Seconds | None = None) -> JobSnapshot:
        """Wait until it has ended, however it ends; see Job.wait."""
        return thread.run(self._job.wait(timeout))

    def result(self, timeout: Seconds | None = None, *, verify: bool = False) -> Any:
        """Wait for the result and parse it; see Job.result."""
        return thread.run(self._job.result(timeout, verify=verify))

    def result_bytes(self, timeout: Seconds | None = None) -> bytes:
        """Wait for the result, as its spooler sent it; see Job.result_bytes."""
        return thread.run(self._job.result_bytes(timeout))

    @property
    def late_results(self) -> list[LateResult]:
        """Results that came too late to count, as `explain` last heard of them."""
        return self._job.late_results

    def late_result_bytes(self, attempt: int) -> bytes:
        """A result that came too late to count; see Job.late_result_bytes."""
        return thread.run(self._job.late_result_bytes(attempt))

    def cancel(self) -> JobSnapshot:
        """Cancel it; see Job.cancel."""
        return thread.run(self._job.cancel())

    def retry(self) -> JobSnapshot:
        """Run it anew; see Job.retry."""
        return thread.run(self._job.retry())

    def delete(self, *, etag: str = "") -> None:
        """Delete it; see Job.delete."""
        thread.run(self._job.delete(etag=etag))

    def explain(self) -> list[Explanation]:
        """Why it stands where it stands; see Job.explain."""
        return thread.run(self._job.explain())
