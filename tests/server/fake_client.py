"""A client without a server, for the commands that use one."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from spoolway.backend import Backend, BackendPolicy, BackendStatus
from spoolway.errors import NotFoundError, SpoolwayError
from spoolway.snapshot import (
    Explanation,
    ExplanationCause,
    JobFailure,
    JobSnapshot,
    JobState,
    LateResult,
    StateReason,
)
from spoolway_server.cli.connection import Connection

NAME = "backends/lamp/jobs/20261124120000abcdef0123"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def snapshot(state: str = "QUEUED", *, name: str = NAME, revision: int = 1, **changes: Any) -> JobSnapshot:
    """A job as the server would show it."""
    facts: dict[str, Any] = {
        "name": name,
        "id": name.rpartition("/")[2],
        "backend": name.split("/")[1],
        "owner": "ada",
        "state": JobState(state),
        "reason": StateReason.UNSPECIFIED,
        "status": "QUEUED",
        "detail": "Got your json.",
        "error_message": "None",
        "stage": "",
        "fraction": 0.0,
        "queue_position": None,
        "labels": {},
        "priority": 0,
        "attempt_count": 0,
        "max_attempts": 3,
        "attempts": (),
        "transitions": (),
        "error": None,
        "content_bytes": 2,
        "result_bytes": 0,
        "result_sha256": "",
        "create_time": NOON,
        "update_time": NOON,
        "start_time": None,
        "end_time": None,
        "due_time": None,
        "purge_time": None,
        "revision": revision,
        "etag": str(revision),
    }
    return JobSnapshot(**facts | changes)


def failed(message: str = "the lamp is broken", **changes: Any) -> JobSnapshot:
    """A job that ended with an error."""
    failure = JobFailure(code=13, reason="FAILED", message=message, metadata={})
    return snapshot("ERROR", error=failure, **changes)


def backend(name: str = "lamp", *, operational: bool = True) -> Backend:
    """A backend as the server would show it."""
    return Backend(
        name=name,
        storage="main",
        config={"description": "A lamp", "version": "1.2.3"},
        config_bytes=b'{"description": "A lamp", "version": "1.2.3"}',
        config_etag="c",
        policy=BackendPolicy(
            paused=False,
            max_attempts=3,
            max_crashes=5,
            lease_ttl=None,
            resume_grace=None,
            lost_timeout=None,
            cancel_grace=None,
            max_run_time=None,
            max_queued=0,
            round_robin=False,
        ),
        policy_etag="p",
        status=BackendStatus(
            backend_name=name,
            backend_version="1.2.3",
            operational=operational,
            pending_jobs=4,
            status_msg="ok" if operational else "no spooler is connected",
        ),
    )


class FakeJob:
    """A handle on a job whose life is written down beforehand."""

    def __init__(self, client: "FakeClient", name: str) -> None:
        self.name = name
        self._client = client
        self.late_results: list[LateResult] = []

    @property
    def snapshot(self) -> JobSnapshot:
        return self._client.life_of(self.name)[0]

    async def status(self) -> JobSnapshot:
        self._client.may_fail()
        return self._client.life_of(self.name)[0]

    async def cancel(self) -> JobSnapshot:
        self._client.may_fail()
        return snapshot("CANCELLED", name=self._client.life_of(self.name)[0].name)

    async def retry(self) -> JobSnapshot:
        self._client.may_fail()
        return snapshot("QUEUED", name=self._client.life_of(self.name)[0].name)

    async def delete(self) -> None:
        self._client.may_fail()
        del self._client.lives[self._client.life_of(self.name)[0].name]

    async def explain(self) -> list[Explanation]:
        self._client.may_fail()
        self._client.life_of(self.name)
        self.late_results = [LateResult(attempt=1, spooler="lamp-1", size_bytes=13)]
        return [
            Explanation(
                cause=ExplanationCause.BEHIND_OTHERS,
                message="2 jobs come first",
                advice="wait",
                until=None,
                jobs_before=2,
            )
        ]

    async def late_result_bytes(self, attempt: int) -> bytes:
        self._client.life_of(self.name)
        return b'{"late": %d}' % attempt

    async def result_bytes(self) -> bytes:
        return self._client.result


class FakeClient:
    """Jobs by name, each a list of snapshots: the first is how it stands, the others happen to a watch."""

    def __init__(self, *lives: list[JobSnapshot], error: SpoolwayError | None = None) -> None:
        self.lives = {life[0].name: life for life in lives}
        self.error = error
        self.result = b'{"light": 1.0}'
        self.submitted: list[dict[str, Any]] = []
        self.asked: dict[str, Any] = {}
        self.connection: Connection | None = None
        self.hangs = False

    @asynccontextmanager
    async def open(self, connection: Connection) -> AsyncIterator["FakeClient"]:
        self.connection = connection
        yield self

    def may_fail(self) -> None:
        if self.error is not None:
            raise self.error

    def life_of(self, name: str) -> list[JobSnapshot]:
        for full_name, life in self.lives.items():
            if name in (full_name, life[0].id):
                return life
        raise NotFoundError(f"there is no job {name}", "JOB_NOT_FOUND")

    async def submit(self, backend: str, content: bytes, **options: Any) -> FakeJob:
        self.may_fail()
        self.submitted.append({"backend": backend, "content": content, **options})
        return FakeJob(self, next(iter(self.lives)))

    def job(self, name: str) -> FakeJob:
        return FakeJob(self, name)

    async def jobs(self, **asked: Any) -> AsyncIterator[FakeJob]:
        self.may_fail()
        self.asked = asked
        for name in self.lives:
            yield FakeJob(self, name)

    async def backends(self) -> list[Backend]:
        self.may_fail()
        return [backend(), backend("laser", operational=False)]

    async def watch(self, names: Iterable[str]) -> AsyncGenerator[JobSnapshot, None]:
        import asyncio

        wanted = list(names)
        for name in wanted:
            for moment in self.lives[name]:
                yield moment
        if self.hangs:
            await asyncio.Event().wait()
