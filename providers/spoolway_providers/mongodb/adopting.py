"""Taking over jobs of another storage as they are: one upsert each, which leaves a newer document alone."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
from bson.binary import Binary
from bson.int64 import Int64
from pymongo import UpdateOne

from spoolway_providers import digests
from spoolway_providers.errors import Conflict, NotFound, ProviderError, Uncertain
from spoolway_providers.interface import RETENTION, Adoptee
from spoolway_providers.model import BlobRef, Job, State, content_blob_id
from spoolway_providers.mongodb import blobs
from spoolway_providers.mongodb.changes import commit_id
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import (
    INLINE_LIMIT,
    JOB_FIELDS,
    Document,
    backend_of,
    job_fields,
    job_of,
    label_pairs,
)
from spoolway_providers.mongodb.faults import is_duplicate

__all__ = ["adopt"]

Answer = Job | ProviderError


class _Entry(msgspec.Struct):
    """A job on its way to an answer."""

    adoptee: Adoptee
    bytes: Document = {}
    """Fields of the document that hold content and result, or name their files."""
    answer: Answer | None = None

    @property
    def job(self) -> Job:
        return self.adoptee.job


async def adopt(connection: Connection, adoptees: Sequence[Adoptee]) -> list[Answer]:
    """See the interface."""
    entries = [_Entry(adoptee) for adoptee in adoptees]
    turns = await _refuse_unknown_backends(connection, entries)
    await _learn(connection, _open(entries))
    for entry in _open(entries):
        await _keep_bytes(connection, entry)
    await _keep_rounds(connection, [entry.job for entry in _open(entries) if entry.job.key.backend in turns])
    files = {
        value for entry in _open(entries) for field, value in entry.bytes.items() if field.endswith("_file")
    }
    await _store(connection, _open(entries), with_request=True)
    # A request id may stand for another job here: that one keeps it.
    await _store(connection, _open(entries), with_request=False)
    for entry in _open(entries):
        entry.answer = Conflict(f"the id of {entry.job.key} belongs to a job of another backend")
    # Only saves `repair` a look.
    with suppress(ProviderError):
        await blobs.mark_committed(connection, files)
    return [entry.answer for entry in entries if entry.answer is not None]


async def _refuse_unknown_backends(connection: Connection, entries: Sequence[_Entry]) -> set[str]:
    """The backends on which owners take turns."""
    asked = {entry.job.key.backend for entry in entries}
    with connection.reading():
        found = await connection.newest("backends").find({"_id": {"$in": sorted(asked)}}).to_list()
    known = {backend.name: backend for backend in map(backend_of, found)}
    for entry in entries:
        if entry.job.key.backend not in known:
            entry.answer = NotFound(f"there is no backend {entry.job.key.backend!r}")
    return {name for name, backend in known.items() if backend.policy and backend.policy.round_robin}


async def _learn(connection: Connection, entries: Sequence[_Entry]) -> None:
    """Answer those that are there, in this revision or a newer one."""
    if not entries:
        return
    query = {"_id": {"$in": [entry.job.key.id for entry in entries]}, "seq": {"$exists": True}}
    with connection.reading():
        found = await connection["jobs"].find(query, JOB_FIELDS).to_list()
    jobs = {job.key: job for job in map(job_of, found)}
    for entry in entries:
        stored = jobs.get(entry.job.key)
        if stored is not None and stored.revision >= entry.job.revision:
            entry.answer = stored


async def _keep_bytes(connection: Connection, entry: _Entry) -> None:
    job, adoptee = entry.job, entry.adoptee
    parts = [("content", job.content, adoptee.content), ("result", job.result, adoptee.result)]
    fields: Document = {}
    for field, ref, data in parts:
        if ref is None:
            continue
        if data is None:
            entry.answer = await blobs.reserve(connection, ref, job.key)
            fields[f"{field}_file"] = ref.id
        elif (refusal := blobs.too_large(data)) is not None:
            entry.answer = refusal
        elif _lies_inline(job, ref):
            fields[field] = Binary(data)
        else:
            await blobs.keep_large(connection, ref, data, job.key)
            fields[f"{field}_file"] = blobs.large_file_id(ref)
        if entry.answer is not None:
            return
    entry.bytes = fields


def _lies_inline(job: Job, ref: BlobRef) -> bool:
    """In the document a blob is found by an id with the job's key only."""
    of_job = ref.id == content_blob_id(job.key) or ref.id.startswith(
        f"{job.key.backend}/{job.key.id}/result/"
    )
    return ref.size <= INLINE_LIMIT and of_job


async def _keep_rounds(connection: Connection, jobs: Iterable[Job]) -> None:
    """The next job of an owner has a later round than those that wait."""
    for job in jobs:
        if job.state not in {State.QUEUED, State.HELD}:
            continue
        newest = {"$max": [{"$literal": Int64(job.rank)}, "$round"]}
        change: Document = {"backend": {"$literal": job.key.backend}, "round": newest}
        with connection.writing():
            await connection["rounds"].update_one(
                {"_id": f"{job.key.backend}/{job.owner}"}, [{"$set": change}], upsert=True
            )


async def _store(connection: Connection, entries: Sequence[_Entry], *, with_request: bool) -> None:
    if not entries:
        return
    floor = connection.numbers.take(len(entries))
    upserts = [
        _upsert(connection, entry, floor, offset, with_request=with_request)
        for offset, entry in enumerate(entries)
    ]
    unknown: Uncertain | None = None
    try:
        with connection.writing():
            await connection["jobs"].bulk_write(upserts, ordered=False)
    except ProviderError as error:
        if not (isinstance(error, Uncertain) or is_duplicate(error.__cause__)):
            raise
        unknown = error if isinstance(error, Uncertain) and not is_duplicate(error.__cause__) else None
    await _learn(connection, entries)
    if unknown is not None and _open(entries):
        raise unknown


def _upsert(
    connection: Connection, entry: _Entry, floor: int, offset: int, *, with_request: bool
) -> UpdateOne:
    job, numbers = entry.job, connection.numbers
    fixed: Document = {
        "_id": job.key.id,
        "backend": job.key.backend,
        "owner": job.owner,
        "labels": label_pairs(job.labels),
        "request_id": job.request_id,
        "commit": commit_id(job.key),
        **{name: value for name, value in job_fields(job).items() if value is not None},
        **entry.bytes,
    }
    if job.request_id and with_request and not _is_old(connection, job):
        fixed |= {
            "request": job.request_id,
            "fingerprint": digests.job_fingerprint(job),
            "requested_at": job.created_at,
        }
    number = numbers.number(floor, offset)
    made = {
        "$mergeObjects": [
            {"$literal": fixed},
            {"change": number, "seq": {"$ifNull": ["$seq", number]}},
        ]
    }
    is_older = {
        "$or": [{"$eq": [{"$type": "$seq"}, "missing"]}, {"$lt": ["$rev", {"$literal": job.revision}]}]
    }
    change = [{"$replaceWith": {"$cond": [is_older, made, "$$ROOT"]}}]
    return UpdateOne({"_id": job.key.id, "backend": job.key.backend}, change, upsert=True)


def _is_old(connection: Connection, job: Job) -> bool:
    """Whether its request id would be swept at once; by this machine's clock, as that need not be exact."""
    return (connection.numbers.known_now() or datetime.now(UTC)) - job.created_at > RETENTION


def _open(entries: Iterable[_Entry]) -> list[_Entry]:
    return [entry for entry in entries if entry.answer is None]
