"""Copying a storage's backends and jobs into another one, and turning their routes to it.

Everything is copied as it is, ids and revisions included, and what has changed meanwhile once more. For the
last look the backends are UNAVAILABLE for some seconds, so that no change is left behind; then the routes
turn, all in one compare-and-set.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import grpc
import msgspec
import structlog

from spoolway_providers.errors import CursorTooOld, NotFound, ProviderError, Unsupported
from spoolway_providers.interface import Adoptee, Provider, Query
from spoolway_providers.model import (
    ACTIVE_STATES,
    Backend,
    BlobRef,
    Job,
    JobKey,
    State,
    content_blob_id,
    new_token,
    result_blob_id,
)
from spoolway_server.added import AddedStorages
from spoolway_server.admission import job_document_of
from spoolway_server.catalog import Catalog, CatalogConflict, OperationRecord, Routes
from spoolway_server.clock import Clock
from spoolway_server.documents import parse_document
from spoolway_server.errors import ServiceError, from_provider_error
from spoolway_server.keys import key_id_of
from spoolway_server.operations import Operation, Operations
from spoolway_server.storage import COUNT_LIMIT, Storage
from spoolway_server.storages import Storages

__all__ = ["COPY", "Copying", "Transfer", "adopt_all", "wait_settled"]

_log = structlog.get_logger(__name__)

COPY = "COPY"
PAGE = 100
"""Jobs that are read, written and recorded at once."""
INLINE_BYTES = 256 << 10
"""What is longer goes in pieces."""
PIECE_BYTES = 1 << 20
READS_AT_ONCE = 16
SETTLE_S = 3.0
"""After so long every process has read the catalog: 2 s is the promise."""
LOOK_AGAIN_S = 1.0
MAX_TRIES = 10


class Transfer:
    """Brings jobs from one provider to another, as they are."""

    def __init__(self, source: Provider, target: Provider) -> None:
        """Both are open."""
        self._source = source
        self._target = target

    async def take(self, jobs: Sequence[Job]) -> None:
        """Copy these jobs, in this order. Raises ServiceError where one can't be."""
        found: list[Adoptee | None] = []
        for first in range(0, len(jobs), READS_AT_ONCE):
            some = jobs[first : first + READS_AT_ONCE]
            found += await asyncio.gather(*(self._adoptee(job) for job in some))
        await adopt(self._target, [one for one in found if one is not None])

    async def forget(self, keys: Iterable[JobKey]) -> None:
        """Delete these jobs, which are gone at the source."""
        for key in keys:
            try:
                job = await self._target.get(key)
                if not job.is_terminal:
                    # It had ended before it was deleted; how is not to be known any more.
                    ended = msgspec.structs.replace(
                        job, state=State.CANCELLED, revision=job.revision + 1, due_at=None
                    )
                    await self._target.adopt([Adoptee(ended)])
                    job = ended
                await self._target.delete(key, job.revision)
            except NotFound:
                continue

    async def _adoptee(self, job: Job) -> Adoptee | None:
        """A job with its bytes; None if it is deleted by now."""
        try:
            content = await self._bytes(job, job.content)
            result = None if job.result is None else await self._bytes(job, job.result)
        except NotFound as error:
            try:
                await self._source.get(job.key)
            except NotFound:
                return None
            raise _lost(job.key, str(error)) from error
        return Adoptee(job, content, result)

    async def _bytes(self, job: Job, ref: BlobRef) -> bytes | None:
        """The bytes of a short blob; None: they are staged at the target by now."""
        digest = hashlib.sha256()
        pieces: list[bytes] = []
        is_short = ref.size <= INLINE_BYTES and _is_own(job.key, ref)
        offset = 0
        while offset < ref.size:
            piece = await self._source.read_blob(ref, offset, min(PIECE_BYTES, ref.size - offset))
            if not piece:
                break
            digest.update(piece)
            if is_short:
                pieces.append(piece)
            else:
                await self._target.stage(ref.id, offset, piece)
            offset += len(piece)
        if offset != ref.size or digest.hexdigest() != ref.sha256:
            raise _lost(job.key, f"blob {ref.id} is not what was stored")
        return b"".join(pieces) if is_short else None


async def adopt(target: Provider, adoptees: Sequence[Adoptee]) -> None:
    """Have jobs taken over, in this order. Raises ServiceError where one can't be."""
    answers = await target.adopt(adoptees)
    for one, answer in zip(adoptees, answers, strict=True):
        if isinstance(answer, ProviderError):
            raise _refused(one.job.key, answer)


async def adopt_all(target: Provider, adoptees: Sequence[Adoptee]) -> None:
    """The same for jobs with all their bytes: what is long is staged first."""
    await adopt(target, [await _staged(target, one) for one in adoptees])


async def _staged(target: Provider, one: Adoptee) -> Adoptee:
    content, result = one.content, one.result
    if content is not None and len(content) > INLINE_BYTES:
        await _stage(target, one.job.content, content)
        content = None
    if one.job.result is not None and result is not None and len(result) > INLINE_BYTES:
        await _stage(target, one.job.result, result)
        result = None
    return Adoptee(one.job, content, result)


async def _stage(target: Provider, ref: BlobRef, data: bytes) -> None:
    for offset in range(0, len(data), PIECE_BYTES):
        await target.stage(ref.id, offset, data[offset : offset + PIECE_BYTES])


async def wait_settled(provider: Provider, operation: Operation) -> None:
    """Return once all that lies in a storage is to be found."""
    while not await provider.is_settled():
        await operation.save(phase="waiting for the source to take over all that lies in it")
        await asyncio.sleep(LOOK_AGAIN_S)


class Copying:
    """The work of CopyStorage."""

    def __init__(
        self,
        storages: Storages,
        added: AddedStorages,
        catalog: Catalog,
        clock: Clock,
        *,
        settle_s: float = SETTLE_S,
    ) -> None:
        """Copy between `storages`; `settle_s` is how long a change of the catalog takes to be known."""
        self._storages = storages
        self._added = added
        self._catalog = catalog
        self._clock = clock
        self._settle_s = settle_s

    async def plan(
        self, source_name: str, target_name: str, operations: Operations, by: str
    ) -> OperationRecord:
        """The record of a new copy, checked: what can't be is refused now."""
        source = self._storages.get(source_name, field="source")
        target = self._storages.get(target_name, field="target")
        if source is target:
            raise _invalid(
                "STORAGES_SAME", "target", "a storage can't be copied into itself; name another target"
            )
        _require_inactive(source)
        for storage in (source, target):
            storage.require_usable()
        await operations.require_idle(source.name, target.name)
        try:
            await target.provider.adopt([])
        except Unsupported as error:
            raise from_provider_error(error) from error
        backends = await self._backends_of(source, target)
        now = self._clock.now()
        return OperationRecord(
            id=new_token(),
            type=COPY,
            source=source.name,
            target=target.name,
            backends=tuple(backends),
            phase="starting",
            created_at=now,
            created_by=by,
            updated_at=now,
        )

    async def _backends_of(self, source: Storage, target: Storage) -> list[str]:
        """The backends that live in the source, none of which may have jobs in the target."""
        names = [name for name in await source.backends(fresh=True) if self._storages.is_home(source, name)]
        known = await target.backends(fresh=True)
        for name in names:
            if name in known and await target.provider.count(Query(backend=name, limit=1)):
                raise ServiceError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "BACKEND_EXISTS",
                    f"storage {target.name} has jobs of a backend {name} already; choose another target, or "
                    "delete them there first",
                    metadata={"backend": name, "storage": target.name},
                )
        return names

    async def run(self, operation: Operation) -> None:
        """Copy from where it stopped; see the module."""
        record = operation.record
        if await self._has_turned(record):
            return
        source = self._storages.get(record.source)
        target = self._storages.get(record.target)
        for storage in (source, target):
            storage.require_usable()
        run = _Run(operation, source, target)
        if record.place.get("step") != "follow":
            await wait_settled(source.provider, operation)
            await self._pin(operation)
            await operation.save(phase="copying backends")
            await run.copy_backends()
            await run.copy_jobs()
        while True:
            await run.follow()
            await run.wait_for_active()
            await self._set_moving(operation, on=True)
            await operation.save(phase="taking a last look")
            await asyncio.sleep(self._settle_s)
            await run.copy_backends()
            await run.follow()
            if not await run.count_active():
                break
            await self._set_moving(operation, on=False)
        await run.compare()
        await operation.save(phase="turning the routes")
        await self._turn(operation.record)
        await self._added.refresh()
        _log.info("storage copied", source=source.name, target=target.name, backends=list(record.backends))

    async def abandon(self, record: OperationRecord) -> None:
        """Leave the backends where they are; what was copied stays in the target, and is in nobody's way."""
        await self._change_routes(lambda routes: _without_moving(routes, record.id))

    async def _has_turned(self, record: OperationRecord) -> bool:
        routes = await self._catalog.get(Routes, Routes.KEY)
        turned = routes.backends if routes else {}
        return bool(record.backends) and all(turned.get(name) == record.target for name in record.backends)

    async def _pin(self, operation: Operation) -> None:
        """Say where the backends lie before the target has them, too: nobody is to find them there yet."""
        record = operation.record

        def change(routes: Routes) -> Routes:
            here = dict.fromkeys(record.backends, record.source)
            return msgspec.structs.replace(routes, backends={**routes.backends, **here})

        await operation.save(phase="telling all servers")
        if await self._change_routes(change):
            await self._added.refresh()
            await asyncio.sleep(self._settle_s)

    async def _set_moving(self, operation: Operation, *, on: bool) -> None:
        record = operation.record

        def change(routes: Routes) -> Routes:
            kept = _without_moving(routes, record.id)
            if not on:
                return kept
            moving = {**kept.moving, **dict.fromkeys(record.backends, record.id)}
            return msgspec.structs.replace(kept, moving=moving)

        await self._change_routes(change)
        await self._added.refresh()

    async def _turn(self, record: OperationRecord) -> None:
        def change(routes: Routes) -> Routes:
            kept = _without_moving(routes, record.id)
            turned = {**kept.backends, **dict.fromkeys(record.backends, record.target)}
            return msgspec.structs.replace(kept, backends=turned)

        await self._change_routes(change)

    async def _change_routes(self, change: Callable[[Routes], Routes]) -> bool:
        """Whether there was anything to change."""
        for attempt in range(MAX_TRIES):
            routes = await self._catalog.get(Routes, Routes.KEY) or Routes()
            changed = change(routes)
            if changed == routes:
                return False
            try:
                await self._catalog.put(changed)
            except CatalogConflict:
                if attempt + 1 == MAX_TRIES:
                    raise
            else:
                return True
        raise AssertionError("unreachable")


class _Run:
    """One try to copy."""

    def __init__(self, operation: Operation, source: Storage, target: Storage) -> None:
        self._operation = operation
        self._source = source
        self._target = target
        self._backends = frozenset(operation.record.backends)
        self._transfer = Transfer(source.provider, target.provider)

    async def copy_backends(self) -> None:
        """Configs, policies and public keys; the newest ones count."""
        source, target = self._source.provider, self._target.provider
        listed = [backend for backend in await source.backends() if backend.name in self._backends]
        for backend in listed:
            # A backend that was unregistered has jobs and a policy, which need a config for a moment.
            await target.put_config(backend.name, backend.config or b"{}", None)
            if backend.policy is not None:
                await target.put_policy(backend.name, backend.policy, None)
            if not backend.is_registered:
                await target.remove_config(backend.name, None)
        for kid, key in (await _public_keys(source, listed)).items():
            await target.put_public_key(kid, key)

    async def copy_jobs(self) -> None:
        """All jobs in the order of their submission, from the last page on."""
        place = self._operation.record.place
        done = self._operation.record.done
        if not place:
            place = {"changes": (await self._source.provider.changes("")).cursor, "cursor": ""}
            done = 0
        total = await self._source.provider.count(Query(limit=COUNT_LIMIT))
        while True:
            _require_inactive(self._source)
            page = await self._source.provider.find(Query(limit=PAGE, cursor=place["cursor"]))
            await self._transfer.take([job for job in page.jobs if job.key.backend in self._backends])
            done += len(page.jobs)
            place = {**place, "cursor": page.cursor}
            if not page.cursor:
                place["step"] = "follow"
            await self._operation.save(phase="copying jobs", done=done, total=max(total, done), place=place)
            if not page.cursor:
                return

    async def follow(self) -> None:
        """What has changed since, up to now."""
        while True:
            place = self._operation.record.place
            try:
                changes = await self._source.provider.changes(place["changes"], PAGE)
            except CursorTooOld:
                await self._operation.save(place={}, phase="copying jobs again: too much has changed")
                await self.copy_jobs()
                continue
            await self._transfer.take([job for job in changes.jobs if job.key.backend in self._backends])
            await self._transfer.forget(key for key in changes.deleted if key.backend in self._backends)
            await self._operation.save(place={**place, "changes": changes.cursor})
            if not changes.more:
                return

    async def count_active(self) -> int:
        """Jobs that spoolers hold."""
        query = Query(states=tuple(sorted(ACTIVE_STATES)), limit=COUNT_LIMIT)
        return await self._source.provider.count(query)

    async def wait_for_active(self) -> None:
        """Return once no job runs; what they come to is copied."""
        while active := await self.count_active():
            _require_inactive(self._source)
            await self._operation.save(phase=f"waiting for {active} jobs that run to end")
            await asyncio.sleep(LOOK_AGAIN_S)
            await self.follow()

    async def compare(self) -> None:
        """Count on both sides. What goes by itself meanwhile goes on both, but not at one moment."""
        for name in sorted(self._backends):
            for attempt in range(MAX_TRIES):
                query = Query(backend=name, limit=COUNT_LIMIT)
                there, here = [await one.provider.count(query) for one in (self._source, self._target)]
                if there == here:
                    break
                if attempt + 1 == MAX_TRIES:
                    raise ServiceError(
                        grpc.StatusCode.DATA_LOSS,
                        "COPY_DIFFERS",
                        f"backend {name} has {there} jobs in storage {self._source.name}, and {here} in the "
                        "copy; it stays where it is: check both storages, and copy again into an empty one",
                        metadata={"backend": name, "source": there, "target": here},
                    )
                await self.follow()
                await asyncio.sleep(LOOK_AGAIN_S)


async def _public_keys(source: Provider, backends: Sequence[Backend]) -> Mapping[str, bytes]:
    try:
        return await source.public_keys()
    except Unsupported:
        # Those at least that are in use.
        found: dict[str, bytes] = {}
        for backend in backends:
            if not backend.is_registered:
                continue
            kid = key_id_of(job_document_of(parse_document(backend.config, field="config")))
            key = await source.public_key(kid) if kid else None
            if key is not None:
                found[kid] = key
        return found


def _without_moving(routes: Routes, operation_id: str) -> Routes:
    moving = {name: by for name, by in routes.moving.items() if by != operation_id}
    return msgspec.structs.replace(routes, moving=moving)


def _is_own(key: JobKey, ref: BlobRef) -> bool:
    """Whether the id of a blob names its job; else it is that of an upload."""
    return ref.id == content_blob_id(key) or ref.id.startswith(result_blob_id(key, ""))


def _require_inactive(source: Storage) -> None:
    if source.active:
        raise ServiceError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "STORAGE_ACTIVE",
            f"storage {source.name} is active; deactivate it first, so that it takes no jobs meanwhile",
            metadata={"storage": source.name},
            field="source",
        )


def _lost(key: JobKey, problem: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.DATA_LOSS,
        "PAYLOAD_LOST",
        f"{key} can't be copied: {problem}; CheckStorage lists all such jobs, delete them and copy again",
        metadata={"job": str(key)},
    )


def _refused(key: JobKey, error: ProviderError) -> ServiceError:
    answer = from_provider_error(error)
    return ServiceError(
        answer.code, answer.reason, f"{key} can't be copied: {error}", metadata={"job": str(key)}
    )


def _invalid(reason: str, field: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)
