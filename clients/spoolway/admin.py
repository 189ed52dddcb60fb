"""AdminClient makes the calls of operators; SyncAdminClient is its blocking twin."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.backend import Backend, PolicyChanges, backend_from_proto, policy_to_proto
from spoolway.blocking import SyncCaller, thread
from spoolway.caller import DEFAULT_TIMEOUT_S, Caller, Seconds
from spoolway.errors import SpoolwayError, is_transient
from spoolway.operations import (
    Operation,
    StorageCheck,
    check_from_proto,
    operation_from_proto,
)
from spoolway.snapshot import JobSnapshot, snapshot_from_proto
from spoolway.storage import (
    ProviderType,
    Storage,
    StorageStats,
    StorageTest,
    login_to_proto,
    provider_type_from_proto,
    stats_from_proto,
    storage_from_proto,
    storage_test_from_proto,
)
from spoolway.token import NewToken, Role, Token, role_to_proto, token_from_proto
from spoolway.trail import AuditEvent, event_from_proto
from spoolway.v1 import job_service_pb2 as job_pb
from spoolway.v1 import storage_admin_pb2 as pb

if TYPE_CHECKING:
    from grpc import aio

    from spoolway.channel import AdminStub

__all__ = ["AdminClient", "Purged", "SpoolerSession", "SpoolerState", "SyncAdminClient"]

_Message = TypeVar("_Message", bound=Message)

_LONGEST_PAGE = 1_000
_TEST_S = 300.0
_WATCH_AGAIN_S = 1.0
"""Before a watch that broke off is opened again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What one step of a purge did."""

    deleted: int
    """Jobs that are gone, with their results."""
    cancelled: int
    """Jobs that waited and were cancelled."""


class SpoolerState(StrEnum):
    """How a spooler's session stands."""

    LIVE = "LIVE"
    """May be given jobs."""
    REPLACED = "REPLACED"
    """A newer instance has taken over; it keeps what it holds until it ends that, or falls silent."""
    CLOSED = "CLOSED"
    """Over for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolerSession:
    """One session of a spooler: a stream, or a series of unary calls."""

    session: str
    """Its id."""
    spooler_id: str
    """Name of the spooler."""
    instance_id: str
    """Its process."""
    principal: str
    """Who it runs as."""
    backends: tuple[str, ...]
    """Short names of the backends whose jobs it runs."""
    storages: tuple[str, ...]
    """Short names of their storages."""
    state: SpoolerState
    """How it stands."""
    reason: str
    """Why it is not live, such as SPOOLER_REVOKED."""
    has_stream: bool
    """Whether it has a stream; else it makes unary calls."""
    disconnected: bool
    """Its stream has ended, and it has not come back yet for the jobs that it holds."""
    connected_here: bool
    """Whether its stream ends at the server that answered."""
    open_time: datetime
    """When it was opened."""
    close_time: datetime | None
    """When it was closed."""
    last_beat_time: datetime | None
    """Its last sign of life, as far as the server that answered knows; None for closed ones."""
    jobs_in_hand: int
    """Jobs that it holds."""
    credit: dict[str, int]
    """How many jobs it takes at once, by backend, "" for all together; only where connected_here."""


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
            found += map(storage_from_proto, page.storages)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def storage(self, name: str) -> Storage:
        """One storage; NotFoundError if there is none of this name."""
        answer = await self._call(self._admin.GetStorage, pb.GetStorageRequest(name=name))
        return storage_from_proto(answer.storage)

    async def add_storage(
        self,
        name: str,
        type: str,  # noqa: A002 - the word of the contract
        login: Mapping[str, Any],
        *,
        description: str = "",
        owner: str = "",
        active: bool = True,
    ) -> Storage:
        """Add a storage; every server has it within 2 s. Waits some seconds for it to open: see `serving`.

        Args:
            name: 1 to 64 of a-z and 0-9.
            type: Name of the provider type; `provider_types` tells which there are.
            login: Its fields by name, as `provider_types` tells. Never comes back.
            description: For people.
            owner: Who answers for it; default: the caller.
            active: Takes submits and gives jobs.

        Raises:
            AlreadyExistsError: there is one of this name.
            InvalidArgumentError: the name, the type or a field of the login is wrong.
            FailedPreconditionError: the login has a secret, and the server no key to encrypt it with.
        """
        request = pb.CreateStorageRequest(
            name=name,
            type=type,
            description=description,
            owner=owner,
            inactive=not active,
            login=login_to_proto(type, login),
        )
        return storage_from_proto((await self._call(self._admin.CreateStorage, request)).storage)

    async def update_storage(
        self,
        name: str,
        *,
        etag: str = "",
        description: str | None = None,
        owner: str | None = None,
        login: Mapping[str, Any] | None = None,
        login_fields: Mapping[str, Any] | None = None,
    ) -> Storage:
        """Change what is given, and nothing else; with another login the storage is opened anew.

        Args:
            name: Of the storage.
            etag: Its `etag` as you read it: change only that version. Else whatever there is.
            description: For people.
            owner: Who answers for it.
            login: The whole new login.
            login_fields: Some fields of the login; the others stay as they are.

        Raises:
            EtagMismatchError: it has changed since; read it and decide again.
            FailedPreconditionError: it is declared in the server's configuration file.
        """
        request = pb.UpdateStorageRequest(name=name, etag=etag)
        if description is not None:
            request.update_mask.paths.append("description")
            request.description = description
        if owner is not None:
            request.update_mask.paths.append("owner")
            request.owner = owner
        fields = login if login is not None else login_fields
        if fields is not None:
            type_name = (await self.storage(name)).type
            request.login.CopyFrom(login_to_proto(type_name, fields))
            named = ["login"] if login is not None else [f"login.{field}" for field in fields]
            request.update_mask.paths.extend(named)
        return storage_from_proto((await self._call(self._admin.UpdateStorage, request)).storage)

    async def delete_storage(self, name: str, *, etag: str = "", force: bool = False) -> None:
        """Forget a storage and its login; what lies in it stays there.

        Raises:
            FailedPreconditionError: it holds jobs that have not ended, or can't tell; `force` does it anyway.
        """
        request = pb.DeleteStorageRequest(name=name, etag=etag, force=force)
        await self._call(self._admin.DeleteStorage, request)

    async def activate_storage(self, name: str) -> Storage:
        """Let it take submits and give jobs. Safe to repeat."""
        answer = await self._call(self._admin.ActivateStorage, pb.ActivateStorageRequest(name=name))
        return storage_from_proto(answer.storage)

    async def deactivate_storage(self, name: str) -> Storage:
        """Let it take no submits and give no jobs; jobs that run end as always. Safe to repeat."""
        answer = await self._call(self._admin.DeactivateStorage, pb.DeactivateStorageRequest(name=name))
        return storage_from_proto(answer.storage)

    async def test_storage(
        self,
        name: str = "",
        *,
        type: str = "",  # noqa: A002 - the word of the contract
        login: Mapping[str, Any] | None = None,
    ) -> StorageTest:
        """Go through what a storage must be able to do, on documents that are removed again.

        Args:
            name: Of a storage that is saved; empty: only the login is tried.
            type: Name of the provider type of a login that is not saved.
            login: A login that is not saved, tried instead of the storage's own.
        """
        request = pb.TestStorageRequest(name=name, type=type)
        if login is not None:
            type_name = type or (await self.storage(name)).type
            request.login.CopyFrom(login_to_proto(type_name, login))
        answer = await self._connection().call(self._admin.TestStorage, request, timeout_s=_TEST_S)
        return storage_test_from_proto(answer)

    async def storage_stats(self, name: str) -> StorageStats:
        """What lies in a storage."""
        request = pb.GetStorageStatsRequest(name=name)
        return stats_from_proto(await self._call(self._admin.GetStorageStats, request))

    async def copy_storage(self, source: str, target: str) -> Operation:
        """Begin to copy all backends of an inactive storage into another one, and to turn them to it.

        Ids, states, results and the order are kept. `watch_operation` tells how it goes.

        Raises:
            FailedPreconditionError: the source is active, the target has jobs of one of the backends, or
                another operation works on one of them.
        """
        request = pb.CopyStorageRequest(source=source, target=target)
        return operation_from_proto((await self._call(self._admin.CopyStorage, request)).operation)

    async def import_storage(
        self,
        target: str,
        type: str,  # noqa: A002 - the word of the contract
        login: Mapping[str, Any],
        *,
        owner: str = "",
    ) -> Operation:
        """Begin to read what another system has left into a storage; ids are kept.

        Args:
            target: Name of the storage.
            type: Name of the provider type: mongodb, or local for a folder.
            login: How what is imported is reached.
            owner: Who owns the jobs that do not say it; empty: you.

        Raises:
            FailedPreconditionError: another storage has one of the backends, or an operation is at work.
        """
        request = pb.ImportStorageRequest(
            target=target, type=type, login=login_to_proto(type, login), owner=owner
        )
        return operation_from_proto((await self._call(self._admin.ImportStorage, request)).operation)

    async def check_storage(
        self, name: str, *, repair: bool = False, verify_checksums: bool = False
    ) -> AsyncGenerator[StorageCheck, None]:
        """Look through a storage, job by job; each step has what was found since the one before.

        Args:
            name: Of the storage.
            repair: Mend what can be mended.
            verify_checksums: Read all contents and results to their end, and compare their SHA-256.
        """
        request = pb.CheckStorageRequest(name=name, repair=repair, verify_checksums=verify_checksums)
        async with aclosing(self._stream(self._admin.CheckStorage, request)) as steps:
            async for step in steps:
                yield check_from_proto(step)

    async def operations(self) -> list[Operation]:
        """All operations, the newest first; they are kept for 30 days after their end."""
        found: list[Operation] = []
        request = pb.ListOperationsRequest(page_size=_LONGEST_PAGE)
        while True:
            page = await self._call(self._admin.ListOperations, request)
            found += map(operation_from_proto, page.operations)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def operation(self, operation_id: str) -> Operation:
        """One operation as it is now."""
        request = pb.GetOperationRequest(name=operation_id)
        return operation_from_proto((await self._call(self._admin.GetOperation, request)).operation)

    async def watch_operation(self, operation_id: str) -> AsyncGenerator[Operation, None]:
        """An operation as it is, and each time that it has changed, until it has ended.

        It goes on through restarts of the server, like the operation.
        """
        request = pb.WatchOperationRequest(name=operation_id)
        while True:
            try:
                async with aclosing(self._stream(self._admin.WatchOperation, request)) as messages:
                    async for message in messages:
                        operation = operation_from_proto(message.operation)
                        yield operation
                        if not operation.is_running:
                            return
            except SpoolwayError as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(_WATCH_AGAIN_S)

    async def cancel_operation(self, operation_id: str) -> Operation:
        """Have an operation end as soon as it can. Safe to repeat."""
        request = pb.CancelOperationRequest(name=operation_id)
        return operation_from_proto((await self._call(self._admin.CancelOperation, request)).operation)

    async def provider_types(self) -> list[ProviderType]:
        """The types of storage that the server can hold, by name."""
        answer = await self._call(self._admin.ListProviderTypes, pb.ListProviderTypesRequest())
        return [provider_type_from_proto(one) for one in answer.types]

    async def sign_in_page(self, type: str, login: Mapping[str, Any]) -> str:  # noqa: A002 - as above
        """Where an account's owner signs in; the page's code is the login's `authorization_code`."""
        request = pb.GetSignInPageRequest(login=login_to_proto(type, login))
        return (await self._call(self._admin.GetSignInPage, request)).url

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

    async def unregister_backend(self, name: str, *, etag: str = "", force: bool = False) -> int:
        """Let a backend be listed, take and give jobs no more, until its spooler registers it again.

        Its jobs stay to be read, and its policy stays. Returns how many jobs have not ended.

        Raises:
            FailedPreconditionError: it has jobs that have not ended; `force` does it anyway.
            EtagMismatchError: its config is not that of `etag` any more.
        """
        request = job_pb.UnregisterBackendRequest(backend=name, etag=etag, force=force)
        answer = await self._call(self._connection().jobs.UnregisterBackend, request)
        return int(answer.unfinished_jobs)

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

    async def purge_backend(
        self, name: str, *, ended_before: datetime | None = None, cancel_queued: bool = False
    ) -> AsyncGenerator[Purged, None]:
        """Delete its jobs that have ended, with their results, step by step; each step's counts.

        It goes on as long as you iterate. Jobs that run are left alone. Owners see what was cancelled.

        Args:
            name: Short name of the backend.
            ended_before: Only jobs that ended before; None: all that have ended by now.
            cancel_queued: Cancel what waits, too.
        """
        request = pb.PurgeBackendRequest(name=name, cancel_queued=cancel_queued)
        if ended_before is not None:
            request.end_time_before.FromDatetime(ended_before.astimezone(UTC))
        while True:
            step = await self._call(self._admin.PurgeBackend, request)
            yield Purged(deleted=step.deleted, cancelled=step.cancelled)
            if not step.next_page_token:
                return
            request.page_token = step.next_page_token

    async def spoolers(self, backend: str | None = None, *, closed: bool = False) -> list[SpoolerSession]:
        """Sessions of spoolers, of whichever server, by spooler_id.

        Args:
            backend: Only those that run jobs of this backend.
            closed: Also those that were closed within a day.
        """
        found: list[SpoolerSession] = []
        request = pb.ListSpoolersRequest(backend=backend or "", show_closed=closed, page_size=_LONGEST_PAGE)
        while True:
            page = await self._call(self._admin.ListSpoolers, request)
            found += map(_spooler, page.spoolers)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def revoke_spooler(self, session: str) -> SpoolerSession:
        """End a session and its instance for good; its jobs go back. Safe to repeat.

        Args:
            session: Id of a session, from `spoolers`.
        """
        request = pb.RevokeSpoolerRequest(session=session)
        return _spooler((await self._call(self._admin.RevokeSpooler, request)).spooler)

    async def create_token(
        self,
        user: str,
        role: Role | str,
        *,
        backends: Iterable[str] = (),
        description: str = "",
        expire_time: datetime | None = None,
    ) -> NewToken:
        """Make an access token. Its secret is in the answer, and nowhere else ever.

        Args:
            user: Who calls with it.
            role: What it may do.
            backends: Of a spooler, the only backends whose jobs it may run; none: any.
            description: What it is for, for people.
            expire_time: When it ends by itself; None: never.
        """
        request = pb.CreateTokenRequest(
            user=user, role=role_to_proto(role), backends=backends, description=description
        )
        if expire_time is not None:
            request.expire_time.FromDatetime(expire_time.astimezone(UTC))
        answer = await self._call(self._admin.CreateToken, request)
        return NewToken(token=token_from_proto(answer.token), secret=answer.secret)

    async def tokens(self, user: str | None = None) -> list[Token]:
        """All access tokens, also those that are revoked or expired; on request of one user only."""
        found: list[Token] = []
        request = pb.ListTokensRequest(user=user or "", page_size=_LONGEST_PAGE)
        while True:
            page = await self._call(self._admin.ListTokens, request)
            found += map(token_from_proto, page.tokens)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def revoke_token(self, token_id: str) -> Token:
        """End a token for good: every server refuses it within 5 s, and ends its streams. Safe to repeat."""
        answer = await self._call(self._admin.RevokeToken, pb.RevokeTokenRequest(name=token_id))
        return token_from_proto(answer.token)

    async def _stream(
        self, method: "aio.UnaryStreamMultiCallable[Any, _Message]", request: Any
    ) -> AsyncGenerator[_Message, None]:
        connection = self._connection()
        call = connection.open(method, request)
        try:
            while (message := await connection.read(call)) is not None:
                yield message
        finally:
            call.cancel()

    async def audit_events(
        self,
        *,
        user: str | None = None,
        call: str | None = None,
        subject: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[AuditEvent, None]:
        """Who did what to storages, tokens, policies, spoolers and held jobs, newest first.

        Args:
            user: Only what this user did.
            call: Only this call, such as RevokeToken.
            subject: Only what was done to this resource, such as storages/lab.
            since: Only from this moment on.
            limit: At most so many; None: all.
        """
        request = pb.ListAuditEventsRequest(user=user or "", call=call or "", subject=subject or "")
        if since is not None:
            request.start_time.FromDatetime(since.astimezone(UTC))
        left = limit
        while left is None or left > 0:
            request.page_size = _LONGEST_PAGE if left is None else min(left, _LONGEST_PAGE)
            page = await self._call(self._admin.ListAuditEvents, request)
            for message in page.events:
                yield event_from_proto(message)
            left = None if left is None else left - len(page.events)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

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

    def storage(self, name: str) -> Storage:
        """One storage; see AdminClient.storage."""
        return thread.run(self._client.storage(name))

    def add_storage(
        self,
        name: str,
        type: str,  # noqa: A002 - the word of the contract
        login: Mapping[str, Any],
        *,
        description: str = "",
        owner: str = "",
        active: bool = True,
    ) -> Storage:
        """Add a storage; see AdminClient.add_storage."""
        work = self._client.add_storage(
            name, type, login, description=description, owner=owner, active=active
        )
        return thread.run(work)

    def update_storage(
        self,
        name: str,
        *,
        etag: str = "",
        description: str | None = None,
        owner: str | None = None,
        login: Mapping[str, Any] | None = None,
        login_fields: Mapping[str, Any] | None = None,
    ) -> Storage:
        """Change what is given; see AdminClient.update_storage."""
        work = self._client.update_storage(
            name, etag=etag, description=description, owner=owner, login=login, login_fields=login_fields
        )
        return thread.run(work)

    def delete_storage(self, name: str, *, etag: str = "", force: bool = False) -> None:
        """Forget a storage; see AdminClient.delete_storage."""
        thread.run(self._client.delete_storage(name, etag=etag, force=force))

    def activate_storage(self, name: str) -> Storage:
        """Let it take submits and give jobs; see AdminClient.activate_storage."""
        return thread.run(self._client.activate_storage(name))

    def deactivate_storage(self, name: str) -> Storage:
        """Let it take no submits and give no jobs; see AdminClient.deactivate_storage."""
        return thread.run(self._client.deactivate_storage(name))

    def test_storage(
        self,
        name: str = "",
        *,
        type: str = "",  # noqa: A002 - the word of the contract
        login: Mapping[str, Any] | None = None,
    ) -> StorageTest:
        """Go through what a storage must be able to do; see AdminClient.test_storage."""
        return thread.run(self._client.test_storage(name, type=type, login=login))

    def storage_stats(self, name: str) -> StorageStats:
        """What lies in a storage; see AdminClient.storage_stats."""
        return thread.run(self._client.storage_stats(name))

    def copy_storage(self, source: str, target: str) -> Operation:
        """Begin to copy a storage into another one; see AdminClient.copy_storage."""
        return thread.run(self._client.copy_storage(source, target))

    def import_storage(
        self,
        target: str,
        type: str,  # noqa: A002 - the word of the contract
        login: Mapping[str, Any],
        *,
        owner: str = "",
    ) -> Operation:
        """Begin to read what another system has left; see AdminClient.import_storage."""
        return thread.run(self._client.import_storage(target, type, login, owner=owner))

    def check_storage(
        self, name: str, *, repair: bool = False, verify_checksums: bool = False
    ) -> Iterator[StorageCheck]:
        """Look through a storage; see AdminClient.check_storage."""
        steps = self._client.check_storage(name, repair=repair, verify_checksums=verify_checksums)
        return thread.iterate(steps)

    def operations(self) -> list[Operation]:
        """All operations; see AdminClient.operations."""
        return thread.run(self._client.operations())

    def operation(self, operation_id: str) -> Operation:
        """One operation; see AdminClient.operation."""
        return thread.run(self._client.operation(operation_id))

    def watch_operation(self, operation_id: str) -> Iterator[Operation]:
        """An operation until it has ended; see AdminClient.watch_operation."""
        return thread.iterate(self._client.watch_operation(operation_id))

    def cancel_operation(self, operation_id: str) -> Operation:
        """Have an operation end; see AdminClient.cancel_operation."""
        return thread.run(self._client.cancel_operation(operation_id))

    def provider_types(self) -> list[ProviderType]:
        """The types of storage that the server can hold; see AdminClient.provider_types."""
        return thread.run(self._client.provider_types())

    def sign_in_page(self, type: str, login: Mapping[str, Any]) -> str:  # noqa: A002 - as above
        """Where an account's owner signs in; see AdminClient.sign_in_page."""
        return thread.run(self._client.sign_in_page(type, login))

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

    def unregister_backend(self, name: str, *, etag: str = "", force: bool = False) -> int:
        """Let a backend take and give jobs no more; see AdminClient.unregister_backend."""
        return thread.run(self._client.unregister_backend(name, etag=etag, force=force))

    def hold_job(self, name: str) -> JobSnapshot:
        """Keep a queued job from running; see AdminClient.hold_job."""
        return thread.run(self._client.hold_job(name))

    def resume_job(self, name: str) -> JobSnapshot:
        """Let a held job run; see AdminClient.resume_job."""
        return thread.run(self._client.resume_job(name))

    def fail_held_job(self, name: str, message: str = "") -> JobSnapshot:
        """End a held job; see AdminClient.fail_held_job."""
        return thread.run(self._client.fail_held_job(name, message))

    def purge_backend(
        self, name: str, *, ended_before: datetime | None = None, cancel_queued: bool = False
    ) -> Iterator[Purged]:
        """Delete its jobs that have ended, step by step; see AdminClient.purge_backend."""
        steps = self._client.purge_backend(name, ended_before=ended_before, cancel_queued=cancel_queued)
        return thread.iterate(steps)

    def spoolers(self, backend: str | None = None, *, closed: bool = False) -> list[SpoolerSession]:
        """Sessions of spoolers; see AdminClient.spoolers."""
        return thread.run(self._client.spoolers(backend, closed=closed))

    def revoke_spooler(self, session: str) -> SpoolerSession:
        """End a session and its instance for good; see AdminClient.revoke_spooler."""
        return thread.run(self._client.revoke_spooler(session))

    def create_token(
        self,
        user: str,
        role: Role | str,
        *,
        backends: Iterable[str] = (),
        description: str = "",
        expire_time: datetime | None = None,
    ) -> NewToken:
        """Make an access token; see AdminClient.create_token."""
        work = self._client.create_token(
            user, role, backends=backends, description=description, expire_time=expire_time
        )
        return thread.run(work)

    def tokens(self, user: str | None = None) -> list[Token]:
        """All access tokens; see AdminClient.tokens."""
        return thread.run(self._client.tokens(user))

    def revoke_token(self, token_id: str) -> Token:
        """End a token for good; see AdminClient.revoke_token."""
        return thread.run(self._client.revoke_token(token_id))

    def audit_events(
        self,
        *,
        user: str | None = None,
        call: str | None = None,
        subject: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[AuditEvent]:
        """Who did what; see AdminClient.audit_events."""
        found = self._client.audit_events(user=user, call=call, subject=subject, since=since, limit=limit)
        return thread.iterate(found)


def _spooler(message: pb.Spooler) -> SpoolerSession:
    return SpoolerSession(
        session=message.session,
        spooler_id=message.spooler_id,
        instance_id=message.instance_id,
        principal=message.principal,
        backends=tuple(message.backends),
        storages=tuple(message.storages),
        state=SpoolerState(pb.SpoolerState.Name(message.state).removeprefix("SPOOLER_STATE_")),
        reason=message.reason,
        has_stream=message.has_stream,
        disconnected=message.disconnected,
        connected_here=message.connected_here,
        open_time=message.open_time.ToDatetime(tzinfo=UTC),
        close_time=_time(message, "close_time"),
        last_beat_time=_time(message, "last_beat_time"),
        jobs_in_hand=message.jobs_in_hand,
        credit=dict(message.credit),
    )


def _time(message: pb.Spooler, field: Literal["close_time", "last_beat_time"]) -> datetime | None:
    if not message.HasField(field):
        return None
    time: Timestamp = getattr(message, field)
    return time.ToDatetime(tzinfo=UTC)
