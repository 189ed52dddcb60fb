"""Submitting jobs: one upsert each, which is the job, its short content and its request id at once."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import msgspec
from pymongo import ReturnDocument, UpdateOne

from spoolway_providers import digests, rules
from spoolway_providers.errors import (
    NotFound,
    ProviderError,
    QueueFull,
    RequestIdReused,
    Unavailable,
    Uncertain,
)
from spoolway_providers.model import (
    BlobRef,
    Draft,
    Job,
    JobKey,
    State,
    content_blob_id,
    new_object_id,
)
from spoolway_providers.mongodb import blobs, rounds
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import INLINE_LIMIT, JOB_FIELDS, Document, job_of, key_of
from spoolway_providers.mongodb.drafts import new_job
from spoolway_providers.mongodb.faults import is_duplicate
from spoolway_providers.unreadable import UnreadableJob

__all__ = ["Answer", "Intake"]

Answer = Job | ProviderError

_NEXT_MS_S = 0.0011
_TWIN_LOOK_S = 0.02
_SURE_S = 10.0
"""So long a backend is taken to be as it was: that another process has unregistered it is seen so late."""
_WAITING = [State.QUEUED.value, State.HELD.value]


class _Entry(msgspec.Struct):
    """A draft on its way to an answer."""

    draft: Draft
    key: JobKey
    ref: BlobRef
    fingerprint: str
    file_id: str = ""
    """The file in GridFS that is kept for its content."""
    turn: int | None = None
    """Its rank, where owners take turns."""
    answer: Answer | None = None

    @property
    def request(self) -> tuple[str, str, str]:
        return (self.draft.owner, self.draft.backend, self.draft.request_id)

    @property
    def bytes(self) -> bytes | None:
        """The content, unless it is a staged blob."""
        return self.draft.content if isinstance(self.draft.content, bytes) else None


class Intake:
    """Takes jobs in; remembers for some seconds which backends there are."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._backends: dict[str, float] = {}
        """When each was last seen registered."""

    def forget(self, backend: str) -> None:
        """Look again whether it is there."""
        self._backends.pop(backend, None)

    async def submit(self, drafts: Sequence[Draft]) -> list[Answer]:
        """See the interface."""
        entries = [_entry(draft) for draft in drafts]
        firsts, twins = _apart(entries)
        await self._refuse_unknown_backends(firsts)
        await self._refuse_beyond_limits(_open(firsts))
        await self._keep_contents(_open(firsts))
        # A repeat adds nothing, so nothing of this refuses it.
        await self._answer_repeats(e for e in firsts if e.answer is not None and e.draft.request_id)
        await self._store(_open(firsts))
        try:
            await self._await_twins(_open(firsts))
            for twin, first in twins:
                twin.answer = first.answer
            await self._answer_repeats(twin for twin, _ in twins)
        except Unavailable as error:
            raise Uncertain(f"some of the jobs may be stored: {error}") from error
        await self._let_go(firsts)
        return [entry.answer for entry in entries if entry.answer is not None]

    async def _refuse_unknown_backends(self, entries: Sequence[_Entry]) -> None:
        now = monotonic()
        asked = {entry.key.backend for entry in entries}
        unsure = {name for name in asked if now - self._backends.get(name, -_SURE_S) >= _SURE_S}
        if unsure:
            with self._connection.reading():
                query = {"_id": {"$in": sorted(unsure)}, "config_etag": {"$ne": ""}}
                found = await self._connection.newest("backends").find(query, {"_id": 1}).to_list()
            for name in unsure:
                self.forget(name)
            self._backends.update((backend["_id"], now) for backend in found)
        for entry in entries:
            if entry.key.backend not in self._backends:
                entry.answer = NotFound(f"there is no backend {entry.key.backend!r}")

    async def _refuse_beyond_limits(self, entries: Sequence[_Entry]) -> None:
        """Look at sizes and at the limits of waiting jobs.

        Calls under way at the same time don't see each other's jobs, so a limit may be passed by as many.
        """
        waiting: Counter[str] = Counter()
        limits: dict[str, int] = {}
        for entry in entries:
            name = entry.key.backend
            limits[name] = max(limits.get(name, 0), entry.draft.max_queued)
        for name, limit in limits.items():
            if limit:
                waiting[name] = await self._count_waiting(name, limit)
        for entry in entries:
            limit = entry.draft.max_queued
            if late := rules.late(entry.draft):
                entry.answer = late
            elif limit and waiting[entry.key.backend] >= limit:
                entry.answer = QueueFull(f"backend {entry.key.backend!r} has {limit} waiting jobs", limit)
            elif entry.bytes is not None:
                entry.answer = blobs.too_large(entry.bytes)
            waiting[entry.key.backend] += entry.answer is None

    async def _count_waiting(self, backend: str, limit: int) -> int:
        with self._connection.reading():
            query = {"backend": backend, "state": {"$in": _WAITING}}
            return await self._connection.newest("jobs").count_documents(query, limit=limit)

    async def _keep_contents(self, entries: Sequence[_Entry]) -> None:
        """Put long contents where the job will find them, and keep staged ones for it."""
        for entry in entries:
            data = entry.bytes
            if data is None:
                entry.answer = await blobs.reserve(self._connection, entry.ref, entry.key)
                entry.file_id = "" if entry.answer else entry.ref.id
            elif len(data) > INLINE_LIMIT:
                await blobs.keep_large(self._connection, entry.ref, data, entry.key)
                entry.file_id = blobs.large_file_id(entry.ref)

    async def _store(self, entries: Sequence[_Entry]) -> None:
        if not entries:
            return
        unknown: Uncertain | None = None
        try:
            stored = await self._insert(entries)
        except ProviderError as error:
            if not (isinstance(error, Uncertain) or is_duplicate(error.__cause__)):
                raise
            unknown = error if isinstance(error, Uncertain) and not is_duplicate(error.__cause__) else None
            stored = await self._read_back(entries, unknown)
        for entry in entries:
            if entry.key.id in stored:
                entry.answer = self._learn(stored[entry.key.id])
        if unknown is not None and _open(entries):
            raise unknown
        # The next submit, of whatever process, has a later millisecond: first acknowledged, first served.
        await asyncio.sleep(_NEXT_MS_S)

    async def _insert(self, entries: Sequence[_Entry]) -> dict[str, Document]:
        """Store the jobs; those that were stored, by id."""
        await rounds.take_turns(self._connection, [e for e in entries if e.draft.round_robin])
        numbers = self._connection.numbers
        floor = numbers.take(len(entries))
        upserts = [
            new_job(
                entry.draft,
                entry.key,
                entry.ref,
                entry.fingerprint,
                numbers,
                file_id=entry.file_id,
                floor=floor,
                offset=offset,
                turn=entry.turn,
            )
            for offset, entry in enumerate(entries)
        ]
        jobs = self._connection["jobs"]
        if len(upserts) > 1:
            with self._connection.writing():
                await jobs.bulk_write([UpdateOne(*upsert, upsert=True) for upsert in upserts], ordered=False)
            return await self._read_back(entries, None)
        with self._connection.writing():
            found: Any = await jobs.find_one_and_update(
                *upserts[0], upsert=True, projection=JOB_FIELDS, return_document=ReturnDocument.AFTER
            )
        return {found["_id"]: found}

    async def _read_back(self, entries: Sequence[_Entry], unknown: Uncertain | None) -> dict[str, Document]:
        unknown = unknown or Uncertain("MongoDB stored the jobs, but does not say how")
        query = {"_id": {"$in": [entry.key.id for entry in entries]}}
        with self._connection.settling(unknown):
            found = await self._connection["jobs"].find(query, JOB_FIELDS).to_list()
        return {document["_id"]: document for document in found}

    def _learn(self, document: Document) -> Job:
        self._connection.numbers.learn(int(document["change"]))
        return job_of(document)

    async def _await_twins(self, entries: Sequence[_Entry]) -> None:
        """Answer those whose request id came before, once a majority has their twins."""
        give_up_at = monotonic() + self._connection.time_limit_s
        while entries:
            await self._answer_repeats(entries)
            entries = _open(entries)
            if entries and monotonic() > give_up_at:
                raise Uncertain(f"a twin of request id {entries[0].draft.request_id!r} is still under way")
            if entries:
                await asyncio.sleep(_TWIN_LOOK_S)

    async def _answer_repeats(self, entries: Iterable[_Entry]) -> None:
        """Answer those whose request id is known with what it stands for; leave the others as they are."""
        asked = list(entries)
        if not asked:
            return
        names = [
            {"owner": owner, "backend": backend, "request": request}
            for owner, backend, request in sorted({entry.request for entry in asked})
        ]
        with self._connection.reading():
            found = await self._connection["jobs"].find({"$or": names}, JOB_FIELDS).to_list()
        known = {(d["owner"], d["backend"], d["request"]): d for d in found}
        for entry in asked:
            if entry.request in known:
                entry.answer = _repeat(entry, known[entry.request])

    async def _let_go(self, entries: Sequence[_Entry]) -> None:
        """Note whose files are now, and give back those of refused drafts; else `repair` would."""
        kept = [entry for entry in entries if entry.file_id]
        if not kept:
            return
        with suppress(ProviderError):
            taken = [e for e in kept if isinstance(e.answer, Job) and e.answer.key == e.key]
            await blobs.mark_committed(self._connection, (entry.file_id for entry in taken))
            for entry in kept:
                if entry not in taken:
                    await self._give_back(entry)

    async def _give_back(self, entry: _Entry) -> None:
        if entry.bytes is None:
            await blobs.release(self._connection, entry.ref.id, entry.key)
        else:
            await blobs.remove(self._connection, [entry.file_id])


def _entry(draft: Draft) -> _Entry:
    key = JobKey(draft.backend, new_object_id())
    content = draft.content
    ref = digests.blob_ref(content_blob_id(key), content) if isinstance(content, bytes) else content
    fingerprint = digests.draft_fingerprint(draft, ref.sha256) if draft.request_id else ""
    return _Entry(draft, key, ref, fingerprint)


def _apart(entries: Sequence[_Entry]) -> tuple[list[_Entry], list[tuple[_Entry, _Entry]]]:
    """Those to be stored; and the others, each with the one before it that has its request id."""
    firsts: list[_Entry] = []
    twins: list[tuple[_Entry, _Entry]] = []
    known: dict[tuple[str, str, str], _Entry] = {}
    for entry in entries:
        if entry.draft.request_id and entry.request in known:
            twins.append((entry, known[entry.request]))
        else:
            known[entry.request] = entry
            firsts.append(entry)
    return firsts, twins


def _open(entries: Iterable[_Entry]) -> list[_Entry]:
    return [entry for entry in entries if entry.answer is None]


def _repeat(entry: _Entry, document: Document) -> Answer:
    request_id = entry.draft.request_id
    if document["fingerprint"] not in {"", entry.fingerprint}:
        return RequestIdReused(f"request id {request_id!r} came before, with another content")
    if "seq" not in document:
        return NotFound(f"request id {request_id!r} made {key_of(document)}, which is deleted by now")
    try:
        return job_of(document)
    except UnreadableJob as error:
        # Of this draft alone.
        return error
