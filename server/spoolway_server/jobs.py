"""What clients do with jobs: submit, look, cancel, retry, delete; and operators with those that are held."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import grpc
import msgspec

from spoolway_providers.errors import Conflict, NotFound, ProviderError, QueueFull, Uncertain
from spoolway_providers.interface import Query
from spoolway_providers.model import Backend, BlobRef, Draft, Job, State
from spoolway_providers.rules import Cancel, Event, FailHeld, Hold, Retry, Unhold
from spoolway_server.audit import Audit
from spoolway_server.auth import Principal
from spoolway_server.documents import LARGE_BYTES, check_document
from spoolway_server.errors import ServiceError, from_provider_error
from spoolway_server.explaining import POSITION_LIMIT
from spoolway_server.leases import Update
from spoolway_server.listing import ListedJobs, Listing
from spoolway_server.names import job_name
from spoolway_server.ownership import any_job, job_not_found, own_job
from spoolway_server.quotas import USER_QUOTA, Quotas
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.uploads import PIECE_BYTES, UploadLimits, content_upload_id, read_pieces, verify

__all__ = ["JobRequest", "Jobs", "UploadRef", "result_ref"]

BOOKMARK_S = 15.0
SNAPSHOT_PAGE = 500
MAX_WATCHED = 1000
MAX_LABELS = 32
MAX_REQUEST_ID = 128
MAX_PRIORITY = 100
MAX_ATTEMPTS = 100


class UploadRef(msgspec.Struct, frozen=True):
    """A finished upload that a submit names."""

    upload: str
    size: int
    sha256: str


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A submit as it came in; names are checked, nothing else."""

    backend: str
    content: bytes
    upload: UploadRef | None = None
    labels: Mapping[str, str] = {}
    priority: int = 0
    not_before: datetime | None = None
    expire_at: datetime | None = None
    max_run_time: timedelta | None = None
    max_attempts: int = 0
    request_id: str = ""
    validate_only: bool = False


class _Admitted(msgspec.Struct, frozen=True):
    """A submit that may be stored."""

    draft: Draft
    full: ServiceError | None
    """Its user has as many jobs that wait as he may; only a repeat is answered otherwise."""


class Jobs:
    """The clients' side of the service."""

    def __init__(
        self, storages: Storages, audit: Audit, quotas: Quotas, *, limits: UploadLimits, max_depth: int
    ) -> None:
        """Work on `storages`; contents within `limits` and up to `max_depth` levels are taken."""
        self._quotas = quotas
        self._storages = storages
        self._audit = audit
        self._limits = limits
        self._max_depth = max_depth

    # Submit

    async def submit(self, caller: Principal, request: JobRequest) -> Job | None:
        """Check and store one job; None if only validation was asked for."""
        try:
            storage, one = await self._admit(caller, request)
            if request.validate_only:
                return None
            outcome = (await self._store(storage, [one]))[0]
            if isinstance(outcome, ServiceError):
                raise outcome
        except ServiceError as error:
            await self._quotas.hold_back(caller, error)
            raise
        return outcome

    async def submit_many(
        self, caller: Principal, requests: Sequence[JobRequest | ServiceError]
    ) -> list[Job | ServiceError | None]:
        """Check and store jobs, those of one storage in one commit; one answer for each, in order."""
        outcomes: list[Job | ServiceError | None] = [None] * len(requests)
        groups: dict[Storage, list[tuple[int, _Admitted]]] = {}
        ahead: Counter[str] = Counter()
        for index, request in enumerate(requests):
            if isinstance(request, ServiceError):
                outcomes[index] = request
                continue
            try:
                storage, one = await self._admit(caller, request, ahead)
            except ServiceError as error:
                outcomes[index] = error
            except ProviderError as error:
                outcomes[index] = from_provider_error(error)
            else:
                if not request.validate_only:
                    groups.setdefault(storage, []).append((index, one))
        for storage, admitted in groups.items():
            try:
                stored = await self._store(storage, [one for _, one in admitted])
            except ProviderError as error:
                # Jobs for other storages may be stored by now: each job stands for itself.
                stored = [from_provider_error(error)] * len(admitted)
            for (index, _), outcome in zip(admitted, stored, strict=True):
                outcomes[index] = outcome
        for answer in outcomes:
            if isinstance(answer, ServiceError) and answer.reason == USER_QUOTA:
                await self._quotas.hold_back(caller, answer)
                break
        return outcomes

    async def _admit(
        self, caller: Principal, request: JobRequest, ahead: Counter[str] | None = None
    ) -> "tuple[Storage, _Admitted]":
        """Check a submit; `ahead` counts those of the same call by backend."""
        storage, backend = await self._storages.find_registered(request.backend)
        storage.require_active()
        _check_options(request, storage)
        policy = storage.policy(backend.name)
        size = request.upload.size if request.upload else len(request.content)
        self._quotas.spend(caller, backend.name, policy, size)
        content = await self._content(caller, storage, backend, request)
        waiting = ahead[backend.name] if ahead else 0
        full = await self._quotas.waiting_refusal(caller, storage, backend.name, policy, waiting)
        if ahead is not None:
            ahead[backend.name] += 1
        limits = [t for t in (request.max_run_time, policy.max_run_time) if t is not None]
        draft = Draft(
            backend=backend.name,
            owner=caller.name,
            content=content,
            request_id=request.request_id,
            labels=dict(request.labels),
            trace=storage.metrics.tracing.context(),
            priority=request.priority,
            not_before=request.not_before,
            expire_at=request.expire_at,
            max_run_time=min(limits) if limits else None,
            max_attempts=min(request.max_attempts or policy.max_attempts, policy.max_attempts),
            round_robin=policy.round_robin,
            is_late=_is_late(request, storage),
            # Whose quota is full has a job that waits: refused by the storage, but for the repeat of an
            # earlier submit, which only the storage knows.
            max_queued=1 if full else policy.max_queued,
        )
        return storage, _Admitted(draft, full)

    async def _content(
        self, caller: Principal, storage: Storage, backend: Backend, request: JobRequest
    ) -> bytes | BlobRef:
        """The content, checked: inline, or the staged blob that the request names."""
        if request.upload is None:
            limit = min(self._limits.inline, storage.provider.capabilities.max_document_bytes)
            await self._check_content(storage, backend, request.content, limit)
            return request.content
        if request.content:
            message = "a submit has a content or a content_upload, not both"
            raise _invalid("CONTENT_AMBIGUOUS", "content_upload", message)
        upload = request.upload
        ref = BlobRef(content_upload_id(caller, backend.name, upload.upload), upload.size, upload.sha256)
        if ref.size > self._limits.content:
            raise _upload_too_large(self._limits.content)
        # Not staged any more: an earlier submit has used it, and if this is its repeat the storage knows.
        if await verify(storage, ref):
            content = bytearray()
            while len(content) < ref.size:
                content += await storage.provider.read_staged(ref.id, len(content), PIECE_BYTES)
            await self._check_content(storage, backend, bytes(content), self._limits.content)
        return ref

    async def _check_content(self, storage: Storage, backend: Backend, content: bytes, limit: int) -> None:
        job = await check_document(content, field="content", max_bytes=limit, max_depth=self._max_depth)
        rules = storage.rules(backend)
        if len(content) > LARGE_BYTES:
            await asyncio.to_thread(rules.check, job, size=len(content))
        else:
            rules.check(job, size=len(content))

    async def _store(self, storage: Storage, admitted: "Sequence[_Admitted]") -> list[Job | ServiceError]:
        drafts = [one.draft for one in admitted]
        storage.expect_jobs({draft.backend for draft in drafts})
        try:
            outcomes = await storage.provider.submit(drafts)
        except Uncertain as error:
            storage.report(error)
            outcomes = await self._submit_again(storage, drafts, error)
        except ProviderError as error:
            storage.report(error)
            raise
        if storage.trouble:
            storage.report(None)
        for draft, outcome in zip(drafts, outcomes, strict=True):
            if isinstance(outcome, Job):
                storage.metrics.backend(draft.backend).submitted.inc()
        return [_answer(one, outcome) for one, outcome in zip(admitted, outcomes, strict=True)]

    @staticmethod
    async def _submit_again(
        storage: Storage, drafts: Sequence[Draft], error: Uncertain
    ) -> list[Job | ProviderError]:
        """After an unknown outcome: a repeat with a request id finds what was stored.

        Without one, to store it twice would be worse than not to know.
        """
        known = [draft for draft in drafts if draft.request_id]
        try:
            found = iter(await storage.provider.submit(known) if known else [])
        except ProviderError:
            # Whatever it says of the repeat: the first one may have been done.
            raise error from None
        return [next(found) if draft.request_id else error for draft in drafts]

    # Look

    async def get(self, caller: Principal, name: str) -> tuple[Storage, Job]:
        """A job of the caller's."""
        storage, key = await self._storages.find_job(name)
        return storage, await own_job(storage, caller, key, name)

    async def position(self, storage: Storage, job: Job) -> int | None:
        """Jobs before it in the queue; POSITION_LIMIT means at least so many; None unless QUEUED."""
        if job.state is not State.QUEUED:
            return None
        return await storage.provider.position(job, POSITION_LIMIT)

    async def result(self, caller: Principal, name: str) -> tuple[bytes, str]:
        """The result of a job that is DONE and its SHA-256, or the ServiceError that tells how it stands."""
        storage, job = await self.get(caller, name)
        ref = result_ref(job)
        if ref.size > self._limits.inline:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "RESULT_TOO_LARGE",
                f"the result has {ref.size} bytes, more than fit into a message; read it with ReadResult",
                metadata={"size": ref.size, "limit": self._limits.inline},
            )
        content = bytearray()
        async for piece in read_pieces(storage, ref, 0):
            content += piece
        if hashlib.sha256(content).hexdigest() != ref.sha256:
            raise ServiceError(
                grpc.StatusCode.DATA_LOSS,
                "RESULT_CHECKSUM",
                "the result is not what was stored; ask the operator to check the storage",
            )
        return bytes(content), ref.sha256

    async def list_page(
        self,
        caller: Principal,
        *,
        backend: str,
        states: Sequence[State],
        labels: Mapping[str, str],
        oldest_first: bool,
        page_size: int,
        page_token: str,
    ) -> ListedJobs:
        """A page of the caller's jobs, in one order over all storages."""
        home = None
        if backend:
            home, found = await self._storages.find_backend(backend)
            backend = found.name
        query = Query(
            backend=backend or None,
            owner=None if caller.sees_all else caller.name,
            states=tuple(states),
            labels=labels,
            newest_first=not oldest_first,
            limit=page_size,
        )
        return await Listing(self._storages, caller, query, home).page(page_token)

    # Change

    async def cancel(self, caller: Principal, name: str) -> Job:
        """Cancel a job of the caller's."""
        storage, job = await self.get(caller, name)
        return await storage.leases.apply_one(Update(job.key, Cancel(caller.name), known=job))

    async def retry(self, caller: Principal, name: str) -> Job:
        """Run a job of the caller's anew that ended without a result."""
        storage, job = await self.get(caller, name)
        storage.require_active()
        return await storage.leases.apply_one(Update(job.key, Retry(caller.name), known=job))

    async def delete(self, caller: Principal, name: str, etag: str) -> None:
        """Delete a job of the caller's that has ended; only at the revision `etag`, unless that is empty."""
        storage, job = await self.get(caller, name)
        async with self._audit.of(caller, "DeleteJob", job_name(job.key)) as deed:
            if not job.is_terminal:
                raise ServiceError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "WRONG_STATE",
                    f"the job is {job.state}: only a job that has ended can be deleted; cancel it first",
                    metadata={"state": job.state},
                )
            deed.detail = f"{job.state}, owner {job.owner}"
            if etag and etag != str(job.revision):
                raise _changed_since()
            try:
                with storage.noting_trouble():
                    await storage.provider.delete(job.key, job.revision)
            except NotFound:
                raise job_not_found(name) from None
            except Conflict as error:
                raise _changed_since() from error

    # For operators

    async def hold(self, caller: Principal, name: str) -> Job:
        """Keep a queued job from running."""
        return await self._decide(caller, "HoldJob", name, Hold(caller.name))

    async def resume(self, caller: Principal, name: str) -> Job:
        """Let a job run that waits for somebody's decision."""
        return await self._decide(caller, "ResumeJob", name, Unhold(caller.name))

    async def fail_held(self, caller: Principal, name: str, message: str) -> Job:
        """End a job that waits for somebody's decision."""
        message = message or "an operator ended it"
        return await self._decide(caller, "FailHeldJob", name, FailHeld(caller.name, message))

    async def _decide(self, caller: Principal, what: str, name: str, event: Event) -> Job:
        """An operator's decision about a job, whosever that is."""
        storage, key = await self._storages.find_job(name)
        job = await any_job(storage, key, name, field="name")
        async with self._audit.of(caller, what, job_name(key)):
            return await storage.leases.apply_one(Update(key, event, known=job))


def _answer(admitted: _Admitted, outcome: Job | ProviderError) -> Job | ServiceError:
    if isinstance(outcome, QueueFull) and admitted.full is not None:
        return admitted.full
    return from_provider_error(outcome) if isinstance(outcome, ProviderError) else outcome


def result_ref(job: Job) -> BlobRef:
    """The result of a job that is DONE, or the ServiceError that tells how it stands."""
    if job.result is None or job.state is not State.DONE:
        raise _no_result(job)
    return job.result


def _changed_since() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED,
        "ETAG_MISMATCH",
        "the job has changed since; read it with GetJob and decide again",
        field="etag",
    )


def _upload_too_large(limit: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "UPLOAD_TOO_LARGE",
        f"a content has at most {limit} bytes",
        metadata={"limit": limit},
        field="content_upload",
    )


def _no_result(job: Job) -> ServiceError:
    reasons = {State.ERROR: "JOB_ERROR", State.CANCELLED: "JOB_CANCELLED", State.EXPIRED: "JOB_EXPIRED"}
    if job.state not in reasons:
        message = f"the job is {job.state}: there is no result yet; wait for it with WaitJob or WatchJobs"
        return ServiceError(
            grpc.StatusCode.FAILED_PRECONDITION, "RESULT_NOT_READY", message, metadata={"state": job.state}
        )
    why = f": {job.error.message}" if job.error else ""
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        reasons[job.state],
        f"the job ended {job.state} and has no result{why[:1000]}",
        metadata={"state": job.state, "reason": job.error.reason if job.error else ""},
    )


def _check_options(request: JobRequest, storage: Storage) -> None:
    if len(request.labels) > MAX_LABELS or any(
        not 1 <= len(key) <= 64 or len(value) > 256 or "\0" in key + value
        for key, value in request.labels.items()
    ):
        message = "at most 32 labels; keys 1 to 64, values up to 256 characters, and no NUL"
        raise _invalid("LABELS_INVALID", "labels", message)
    if not -MAX_PRIORITY <= request.priority <= MAX_PRIORITY:
        raise _invalid("PRIORITY_INVALID", "priority", "priority is a number from -100 to 100")
    if request.priority and not storage.provider.capabilities.priority:
        message = f"storage {storage.name} serves strictly first in, first out; send priority 0"
        raise _invalid("PRIORITY_INVALID", "priority", message)
    if not 0 <= request.max_attempts <= MAX_ATTEMPTS:
        raise _invalid("MAX_ATTEMPTS_INVALID", "max_attempts", "max_attempts is a number from 0 to 100")
    if len(request.request_id) > MAX_REQUEST_ID or not (
        request.request_id.isprintable() and request.request_id.isascii()
    ):
        raise _invalid(
            "REQUEST_ID_INVALID", "request_id", "a request id has up to 128 printable ASCII characters"
        )
    if request.max_run_time is not None and request.max_run_time <= timedelta(0):
        raise _invalid("MAX_RUN_TIME_INVALID", "max_run_time", "max_run_time is longer than 0")
    # With a request id it may be the repeat of a submit that came in time, which only the storage knows.
    if _is_late(request, storage) and (request.validate_only or not request.request_id):
        raise _invalid("EXPIRE_TIME_PAST", "expire_time", "expire_time has passed; submit with a later one")
    if request.expire_at and request.not_before and request.expire_at <= request.not_before:
        raise _invalid("EXPIRE_TIME_INVALID", "expire_time", "expire_time comes after not_before")


def _is_late(request: JobRequest, storage: Storage) -> bool:
    return request.expire_at is not None and request.expire_at <= storage.clock.now()


def _invalid(reason: str, field: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)
