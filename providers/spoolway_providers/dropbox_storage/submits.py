"""Submitting jobs: the request's mark and the status first, then the file in the queue makes the job."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from typing import cast

import msgspec

from spoolway_providers import digests, rules
from spoolway_providers.dropbox_storage.client import ADD
from spoolway_providers.dropbox_storage.documents import Mark, decode_mark, encode_status
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.faults import PathConflict, PathMissing
from spoolway_providers.dropbox_storage.names import Place, id_of, seq_of_id, time_of, user_folder
from spoolway_providers.dropbox_storage.reading import Reader
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

__all__ = ["digest_of", "submit", "trouble_of"]

Answer = Job | ProviderError
_TRIES = 5
"""Of a request whose twin failed, or whose mark says something else than we knew."""


def digest_of(owner: str, backend: str, request_id: str) -> str:
    """The name of a request's mark."""
    return sha256(msgspec.json.encode([owner, backend, request_id])).hexdigest()[:40]


async def submit(tenure: Tenure, reader: Reader, drafts: Sequence[Draft]) -> list[Answer]:
    """Store jobs; see the interface."""
    tenure.ownership.check()
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
        if draft.backend not in tenure.backends:
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
        now = tenure.clock()
        request = Request(tenure.layout.mark(now, self._digest), now)
        tenure.requests[self._digest] = request
        return await self._arrive(request, key, seq, mark_mode=ADD)

    def _refusal(self) -> ProviderError | None:
        tenure, draft = self._tenure, self._draft
        delayed = draft.not_before is not None and draft.not_before > tenure.clock()
        if draft.priority or delayed:
            return Unsupported("a Dropbox account keeps no other order than first in, first out")
        waiting = tenure.index.waiting(draft.backend) + tenure.arriving[draft.backend]
        if draft.max_queued and waiting >= draft.max_queued:
            message = f"backend {draft.backend!r} has {draft.max_queued} waiting jobs"
            return QueueFull(message, draft.max_queued)
        if isinstance(draft.content, BlobRef):
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
        mark_rev = ADD
        if request.key is None:
            found = await tenure.calls.download(request.path)
            mark = decode_mark(found[1]) if found else None
            if found is None or mark is None:
                # It never arrived; if it still does, it will be in the way of the next one.
                del tenure.requests[self._digest]
                return None
            tenure.mirror.set(found[0])
            mark_rev = found[0].rev
            request.key, request.fingerprint = JobKey(mark.backend, mark.id), mark.fingerprint
            request.at = mark.at
            if not mark.deleted and request.key not in tenure.index.entries:
                if request.fingerprint != self._fingerprint:
                    return _reused(draft)
                return await self._finish_half_done(request, request.key, mark_rev)
        if request.fingerprint != self._fingerprint:
            return _reused(draft)
        entry = tenure.index.entries.get(request.key)
        if entry is None:
            message = f"request id {draft.request_id!r} made {request.key}, which is deleted by now"
            return NotFound(message)
        async with entry.lock:
            await self._reader.ensure(entry)
        return entry.job

    async def _finish_half_done(self, request: Request, key: JobKey, mark_rev: str) -> Answer | None:
        """A submit broke off between its mark and its job: do the rest, under the same id."""
        tenure = self._tenure
        request.key = None
        refusal = self._refusal()
        if refusal is not None:
            return refusal
        path = tenure.layout.status(key, user_folder(self._draft.owner))
        status = await tenure.calls.read(tenure.calls.client.metadata, path)
        if status is not None:
            tenure.mirror.set(status)
        return await self._arrive(request, key, seq_of_id(key.id, tenure.clock()), mark_mode=mark_rev)

    # A new job

    async def _arrive(self, request: Request, key: JobKey, seq: int, *, mark_mode: str) -> Answer | None:
        """Store a job under its request id, while repeats wait."""
        request.arriving = asyncio.get_running_loop().create_future()
        try:
            answer = await self._store(key, seq, request, mark_mode)
        except PathConflict:
            # Another mark is there: of a request that we believed to have come to nothing.
            return None
        finally:
            request.arriving.set_result(None)
            request.arriving = None
        request.key, request.fingerprint = key, self._fingerprint
        return answer

    async def _store(
        self, key: JobKey, seq: int, request: Request | None = None, mark_mode: str = ADD
    ) -> Answer:
        tenure, draft = self._tenure, self._draft
        tenure.arriving[draft.backend] += 1
        try:
            job = self._job(key, seq)
            user = user_folder(draft.owner)
            path = tenure.layout.job(key, Place.QUEUED, user)
            entry = Entry(
                key, seq, place=Place.QUEUED, job_path=path, status_path=tenure.layout.status(key, user)
            )
            await self._write_documents(entry, job, request, mark_mode)
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

    async def _write_documents(self, entry: Entry, job: Job, request: Request | None, mark_mode: str) -> None:
        tenure, writer = self._tenure, self._tenure.writer
        known = tenure.mirror.get(entry.status_path)
        status = encode_status(job, tenure.nonce)
        writes = [writer.put(entry.status_path, status, known.rev if known else ADD, job.created_at)]
        if request is not None and mark_mode == ADD:
            mark = Mark(
                owner=job.owner,
                backend=job.key.backend,
                request_id=job.request_id,
                id=job.key.id,
                fingerprint=self._fingerprint,
                at=request.at,
            )
            writes.insert(0, writer.put(request.path, msgspec.json.encode(mark), ADD, request.at))
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, PathMissing) or (
                isinstance(outcome, PathConflict) and outcome is outcomes[-1]
            ):
                message = f"another program has written {entry.status_path}; submit again"
                raise Unavailable(message, timedelta(seconds=1))
            if isinstance(outcome, BaseException):
                raise outcome

    async def _write_content(self, entry: Entry, job: Job) -> None:
        """Put the job's file into the queue; with it there is the job."""
        tenure, content = self._tenure, self._draft.content
        if isinstance(content, bytes):
            data: bytes | None = content
        else:
            data = tenure.staging.whole(content, tenure.capabilities.max_document_bytes)
        try:
            if data is not None:
                await tenure.writer.put(entry.job_path, data, ADD, job.created_at)
                tenure.contents.put(job.content.id, data)
            else:
                uploaded = await tenure.staging.upload(job.content)
                await tenure.writer.put_uploaded(entry.job_path, uploaded, ADD)
        except PathConflict:
            # The same id by the same request: it had arrived after all.
            there = await tenure.calls.read(tenure.calls.client.metadata, entry.job_path)
            if there is None or there.size != job.content.size:
                raise Unavailable(f"another program has written {entry.job_path}") from None
            tenure.mirror.set(there)
        tenure.staging.discard(job.content.id)


def _reused(draft: Draft) -> RequestIdReused:
    return RequestIdReused(f"request id {draft.request_id!r} came before, with another content")
