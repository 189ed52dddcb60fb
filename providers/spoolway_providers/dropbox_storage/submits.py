"""Submitting jobs: the status first, which says whose request it is, then the file in the queue: the job."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import cast

from spoolway_providers import digests, rules
from spoolway_providers.dropbox_storage.blobs import is_named
from spoolway_providers.dropbox_storage.client import ADD, content_hash
from spoolway_providers.dropbox_storage.documents import decode_tombstone, encode_status
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.faults import PathConflict, PathMissing
from spoolway_providers.dropbox_storage.names import Place, id_of, seq_of_id, time_of, user_folder
from spoolway_providers.dropbox_storage.reading import Reader
from spoolway_providers.dropbox_storage.requests import digest_of
from spoolway_providers.dropbox_storage.tenure import Request, Tenure
from spoolway_providers.errors import (
    LoginRefused,
    NotFound,
    NotOwner,
    ProviderError,
    QueueFull,
    RequestIdReused,
    TooLarge,
    Unavailable,
    Uncertain,
    Unsupported,
)
from spoolway_providers.interface import RETENTION
from spoolway_providers.model import BlobRef, Draft, Job, JobKey, content_blob_id

__all__ = ["submit", "trouble_of"]

Answer = Job | ProviderError
_TRIES = 5
"""Of a request whose twins fail."""


async def submit(tenure: Tenure, reader: Reader, drafts: Sequence[Draft]) -> list[Answer]:
    """Store jobs; see the interface."""
    tenure.ownership.check()
    if any(draft.request_id for draft in drafts):
        await reader.ensure_requests()
    # The tasks begin in this order, and each gets its place before it waits for anything.
    answers = await asyncio.gather(*(_submit(tenure, reader, draft) for draft in drafts))
    trouble = trouble_of(answers)
    if trouble is not None:
        raise trouble
    return answers


def trouble_of(answers: Sequence[object]) -> ProviderError | None:
    """What the whole call must raise: an outcome that is unknown, or that the storage failed for all."""
    uncertain = next((answer for answer in answers if isinstance(answer, Uncertain)), None)
    if uncertain is not None:
        return uncertain
    storage_trouble = (Unavailable, NotOwner, LoginRefused)
    if answers and all(isinstance(answer, storage_trouble) for answer in answers):
        return cast("ProviderError", answers[0])
    return None


async def _submit(tenure: Tenure, reader: Reader, draft: Draft) -> Answer:
    try:
        for _ in range(_TRIES):
            answer = await _Submit(tenure, reader, draft).run()
            if answer is not None:
                return answer
    except ProviderError as error:
        return error
    return Unavailable("the request comes again and again; try later")


class _Submit:
    """One draft on its way."""

    def __init__(self, tenure: Tenure, reader: Reader, draft: Draft) -> None:
        self._tenure = tenure
        self._reader = reader
        self._draft = draft
        content = draft.content
        self._sha256 = sha256(content).hexdigest() if isinstance(content, bytes) else content.sha256
        self._fingerprint = digests.draft_fingerprint(draft, self._sha256)
        self._digest = digest_of(draft.owner, draft.backend, draft.request_id)

    async def run(self) -> Answer | None:
        """The answer; None: look again."""
        tenure, draft = self._tenure, self._draft
        if not tenure.is_registered(draft.backend):
            return NotFound(f"there is no backend {draft.backend!r}")
        request = tenure.requests.get(self._digest) if draft.request_id else None
        if request is not None and request.at + RETENTION > tenure.clock():
            return await self._repeat(request)
        refusal = self._refusal()
        if refusal is not None:
            return refusal
        seq = tenure.numbering.next(tenure.clock())
        key = JobKey(draft.backend, id_of(seq, draft.backend, user_folder(draft.owner)))
        if not draft.request_id:
            return await self._store(key, seq)
        request = Request(tenure.clock(), key, self._fingerprint)
        tenure.requests[self._digest] = request
        return await self._arrive(request, key, seq)

    def _refusal(self) -> ProviderError | None:
        tenure, draft = self._tenure, self._draft
        if late := rules.late(draft):
            return late
        delayed = draft.not_before is not None and draft.not_before > tenure.clock()
        if draft.priority or draft.round_robin or delayed:
            return Unsupported("a Dropbox account keeps no other order than first in, first out")
        waiting = tenure.index.waiting(draft.backend) + tenure.arriving[draft.backend]
        if draft.max_queued and waiting >= draft.max_queued:
            message = f"backend {draft.backend!r} has {draft.max_queued} waiting jobs"
            return QueueFull(message, draft.max_queued)
        if isinstance(draft.content, BlobRef):
            if is_named(tenure, draft.content.id):
                # What is left of it in the account goes soon.
                return NotFound(f"blob {draft.content.id!r} is another job's by now")
            return tenure.staging.refusal(draft.content)
        limit = tenure.capabilities.max_document_bytes
        if len(draft.content) > limit:
            message = f"{len(draft.content)} bytes are more than {limit} in one document; stage them"
            return TooLarge(message, limit)
        return None

    # A request that came before

    async def _repeat(self, request: Request) -> Answer | None:
        tenure, draft = self._tenure, self._draft
        if request.arriving is not None:
            await asyncio.shield(request.arriving)
            return None
        if request.key is None and not await self._read_tombstone(request):
            return None
        if request.fingerprint != self._fingerprint or request.key is None:
            return RequestIdReused(f"request id {draft.request_id!r} came before, with another content")
        entry = tenure.index.entries.get(request.key)
        if entry is not None:
            async with entry.lock:
                await self._reader.ensure(entry)
            return entry.job
        if request.tombstone:
            message = f"request id {draft.request_id!r} made {request.key}, which is deleted by now"
            return NotFound(message)
        return await self._finish_half_done(request, request.key)

    async def _read_tombstone(self, request: Request) -> bool:
        """Know what a request stood for whose job is deleted; False: nothing is left of it."""
        found = await self._tenure.calls.download(request.tombstone)
        tombstone = decode_tombstone(found[1]) if found else None
        if tombstone is None:
            self._tenure.requests.pop(self._digest, None)
            return False
        request.key = JobKey(tombstone.backend, tombstone.id)
        request.fingerprint, request.at = tombstone.fingerprint, tombstone.at
        return True

    async def _finish_half_done(self, request: Request, key: JobKey) -> Answer | None:
        """A submit broke off before there was a job: do the rest, under the same id, as it may still come."""
        tenure = self._tenure
        refusal = self._refusal()
        if refusal is not None:
            return refusal
        request.arriving = asyncio.get_running_loop().create_future()
        try:
            path = tenure.layout.status(key, user_folder(self._draft.owner))
            status = await tenure.calls.read(tenure.calls.client.metadata, path)
            if status is not None:
                tenure.mirror.set(status)
            return await self._store(key, seq_of_id(key.id, tenure.clock()))
        finally:
            _let_twins_go_on(request)

    # A new job

    async def _arrive(self, request: Request, key: JobKey, seq: int) -> Answer:
        """Store a job under its request id, while repeats wait."""
        request.arriving = asyncio.get_running_loop().create_future()
        try:
            return await self._store(key, seq)
        finally:
            _let_twins_go_on(request)

    async def _store(self, key: JobKey, seq: int) -> Answer:
        tenure, draft = self._tenure, self._draft
        tenure.arriving[draft.backend] += 1
        try:
            job = self._job(key, seq)
            user = user_folder(draft.owner)
            path, status_path = tenure.layout.job(key, Place.QUEUED, user), tenure.layout.status(key, user)
            entry = Entry(key, seq, place=Place.QUEUED, job_path=path, status_path=status_path)
            entry.fingerprint = self._fingerprint if draft.request_id else ""
            await self._write_status(entry, job)
            await self._write_content(entry, job)
        finally:
            tenure.arriving[draft.backend] -= 1
        tenure.changed_statuses += 1
        tenure.index.put(entry, job)
        return job

    def _job(self, key: JobKey, seq: int) -> Job:
        draft, content = self._draft, self._draft.content
        if isinstance(content, bytes):
            content = BlobRef(content_blob_id(key), len(content), self._sha256)
        now = self._tenure.clock()
        return rules.admit(draft, key=key, content=content, seq=seq, now=now, ranked_at=time_of(seq))

    async def _write_status(self, entry: Entry, job: Job) -> None:
        tenure = self._tenure
        known = tenure.mirror.get(entry.status_path)
        status = encode_status(job, tenure.nonce, entry.fingerprint)
        mode = known.rev if known else ADD
        try:
            await tenure.writer.put(entry.status_path, status, mode, job.created_at)
        except (PathConflict, PathMissing):
            raise Unavailable(f"another program has written {entry.status_path}; submit again") from None

    async def _write_content(self, entry: Entry, job: Job) -> None:
        """Put the job's file into the queue; with it there is the job."""
        tenure, content = self._tenure, self._draft.content
        if isinstance(content, bytes):
            data: bytes | None = content
        else:
            data = await tenure.staging.whole(content, tenure.capabilities.max_document_bytes)
        uploaded = None if data is not None else await tenure.staging.upload(job.content)
        try:
            if uploaded is not None:
                await tenure.writer.put_uploaded(entry.job_path, uploaded, ADD)
            elif data is not None:
                await tenure.writer.put(entry.job_path, data, ADD, job.created_at)
        except PathConflict:
            # The same id of the same request had arrived after all; or it is another program's file.
            digest = uploaded.content_hash if uploaded else content_hash(data or b"")
            there = await tenure.calls.read(tenure.calls.client.metadata, entry.job_path)
            if there is None or there.content_hash != digest:
                raise Unavailable(f"another program has written {entry.job_path}; submit again") from None
            tenure.mirror.set(there)
        if data is not None:
            tenure.contents.put(job.content.id, data)
        tenure.staging.discard(job.content.id)


def _let_twins_go_on(request: Request) -> None:
    if request.arriving is not None:
        request.arriving.set_result(None)
    request.arriving = None
