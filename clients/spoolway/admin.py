"""AdminClient makes the calls of operators; SyncAdminClient is its blocking twin."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from spoolway.backend import Backend, PolicyChanges, backend_from_proto, policy_to_proto
from spoolway.blocking import SyncCaller, thread
from spoolway.caller import DEFAULT_TIMEOUT_S, Caller, Seconds
from spoolway.snapshot import JobSnapshot, snapshot_from_proto
from spoolway.v1 import storage_admin_pb2 as pb

if TYPE_CHECKING:
    from spoolway.channel import AdminStub

__all__ = ["AdminClient", "Storage", "StorageTest", "StorageTestStep", "SyncAdminClient"]

_LONGEST_PAGE = 1_000
_TEST_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A configured place for backends, jobs and results."""

    name: str
    """Short name."""
    type: str
    """Name of the provider type."""
    description: str
    """For people."""
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


class AdminClient(Caller):
    """Looks after backends, spoolers and storages. For asyncio; SyncAdminClient is its blocking twin.

        async with AdminClient() as admin:
            for storage in await admin.storages():
                print(storage.name, storage.serving)

    Calls that can be repeated safely are repeated when the server is unavailable, for about 3 s. Every error
    is a SpoolwayError.
    """

    async def storages(self) -> list[Storage]:
        """All storages, by name; one in trouble is listed with its trouble."""
        found: list[Storage] = []
        request = pb.ListStoragesRequest(page_size=_LONGEST_PAGE)
        while True:
            page = await self._call(self._admin.ListStorages, request)
            found += map(_storage, page.storages)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def test_storage(self, name: str) -> StorageTest:
        """Go through what a storage must be able to do, on documents that are removed again."""
        request = pb.TestStorageRequest(name=name)
        answer = await self._connection().call(self._admin.TestStorage, request, timeout_s=_TEST_S)
        return StorageTest(passed=answer.passed, steps=tuple(map(_step, answer.steps)))

    async def set_backend_policy(
        self, name: str, *, etag: str | None = None, **changes: Unpack[PolicyChanges]
    ) -> Backend:
        """Change some fields of a backend's policy; the others, and its config, stay as they are.

        Args:
            name: Short name of the backend.
            etag: Its `policy_etag` as you read it: change only that version. Else whatever there is.
            changes: The fields, which are those of BackendPolicy. None is the server's default.

        Raises:
            EtagMismatchError: it has changed since; read it and decide again.
            InvalidArgumentError: a value that it can't have.
        """
        request = pb.SetBackendPolicyRequest(
            name=name,
            policy=policy_to_proto(changes),
            update_mask=FieldMask(paths=list(changes)),
            etag=etag or "",
        )
        return backend_from_proto((await self._call(self._admin.SetBackendPolicy, request)).backend)

    async def pause_backend(self, name: str) -> Backend:
        """Hand out no more of its jobs; what waits keeps its place, what runs goes on. Safe to repeat."""
        request = pb.PauseBackendRequest(name=name)
        return backend_from_proto((await self._call(self._admin.PauseBackend, request)).backend)

    async def resume_backend(self, name: str) -> Backend:
        """Hand out its jobs again. Safe to repeat."""
        request = pb.ResumeBackendRequest(name=name)
        return backend_from_proto((await self._call(self._admin.ResumeBackend, request)).backend)

    async def hold_job(self, name: str) -> JobSnapshot:
        """Keep a queued job from running, until `resume_job`.

        Raises:
            FailedPreconditionError: it is not QUEUED.
        """
        answer = await self._call(self._admin.HoldJob, pb.HoldJobRequest(name=name))
        return snapshot_from_proto(answer.job)

    async def resume_job(self, name: str) -> JobSnapshot:
        """Let a job run (again) that is held by an operator, an import, a lost spooler or another program.

        Make sure that nothing runs it any more.

        Raises:
            FailedPreconditionError: it is not held so.
        """
        answer = await self._call(self._admin.ResumeJob, pb.ResumeJobRequest(name=name))
        return snapshot_from_proto(answer.job)

    async def fail_held_job(self, name: str, message: str = "") -> JobSnapshot:
        """End a job in ERROR that `resume_job` could let run; `message` tells its owner why."""
        answer = await self._call(self._admin.FailHeldJob, pb.FailHeldJobRequest(name=name, message=message))
        return snapshot_from_proto(answer.job)

    @property
    def _admin(self) -> "AdminStub":
        return self._connection().admin


class SyncAdminClient(SyncCaller):
    """Looks after backends, spoolers and storages, blocking. Each method is that of AdminClient."""

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        user: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        profile: str | None = None,
        timeout: Seconds = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Find the settings; arguments and errors are those of AdminClient."""
        self._client = AdminClient(address, token=token, user=user, ca=ca, profile=profile, timeout=timeout)
        super().__init__(self._client)

    def storages(self) -> list[Storage]:
        """All storages, by name; see AdminClient.storages."""
        return thread.run(self._client.storages())

    def test_storage(self, name: str) -> StorageTest:
        """Go through what a storage must be able to do; see AdminClient.test_storage."""
        return thread.run(self._client.test_storage(name))

    def set_backend_policy(
        self, name: str, *, etag: str | None = None, **changes: Unpack[PolicyChanges]
    ) -> Backend:
        """Change some fields of a backend's policy; see AdminClient.set_backend_policy."""
        return thread.run(self._client.set_backend_policy(name, etag=etag, **changes))

    def pause_backend(self, name: str) -> Backend:
        """Hand out no more of its jobs; see AdminClient.pause_backend."""
        return thread.run(self._client.pause_backend(name))

    def resume_backend(self, name: str) -> Backend:
        """Hand out its jobs again; see AdminClient.resume_backend."""
        return thread.run(self._client.resume_backend(name))

    def hold_job(self, name: str) -> JobSnapshot:
        """Keep a queued job from running; see AdminClient.hold_job."""
        return thread.run(self._client.hold_job(name))

    def resume_job(self, name: str) -> JobSnapshot:
        """Let a held job run; see AdminClient.resume_job."""
        return thread.run(self._client.resume_job(name))

    def fail_held_job(self, name: str, message: str = "") -> JobSnapshot:
        """End a held job; see AdminClient.fail_held_job."""
        return thread.run(self._client.fail_held_job(name, message))


def _storage(message: pb.Storage) -> Storage:
    return Storage(
        name=message.name.rpartition("/")[2],
        type=message.type,
        description=message.description,
        active=message.active,
        is_default=message.is_default,
        read_only=message.read_only,
        serving=message.health.serving,
        message=message.health.message,
    )


def _step(message: pb.TestStep) -> StorageTestStep:
    return StorageTestStep(
        name=message.name,
        passed=message.passed,
        duration=message.duration.ToTimedelta(),
        advice=message.advice,
    )
