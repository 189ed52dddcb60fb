"""Storing changed jobs, each by compare-and-set on its revision; and removing ended ones."""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
from pymongo import ReturnDocument, UpdateOne

from spoolway_providers.errors import Conflict, NotFound, ProviderError, Uncertain
from spoolway_providers.interface import Change
from spoolway_providers.model import TERMINAL_STATES, Job, JobKey
from spoolway_providers.mongodb import blobs
from spoolway_providers.mongodb.changes import Write, commit_id, write_of
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import INLINE_LIMIT, JOB_FIELDS, Document, job_of
from spoolway_providers.unreadable import UnreadableJob

__all__ = ["commit", "current_job", "delete"]

Answer = Job | ProviderError


class _Entry(msgspec.Struct):
    """A change on its way to an answer."""

    change: Change
    file_id: str = ""
    """A file in GridFS that the change makes visible."""
    answer: Answer | None = None


async def commit(connection: Connection, changes: Sequence[Change]) -> list[Answer]:
    """See the interface."""
    entries = [_Entry(change) for change in changes]
    for entry in entries:
        await _keep_result(connection, entry)
    writes = [(entry, _write(connection, entry)) for entry in entries if entry.answer is None]
    if len(writes) == 1:
        await _store_one(connection, *writes[0])
    elif writes:
        await _store_all(connection, writes)
    # Only saves later looks; `repair` does it too.
    with suppress(ProviderError):
        await blobs.mark_committed(
            connection, (e.file_id for e in entries if e.file_id and isinstance(e.answer, Job))
        )
    return [entry.answer for entry in entries if entry.answer is not None]


async def _keep_result(connection: Connection, entry: _Entry) -> None:
    """Have a long or staged result ready before the commit that names it."""
    job, payload = entry.change.job, entry.change.payload
    if job.result is None:
        return
    if payload is None:
        await _keep_staged(connection, entry)
    elif (refusal := blobs.too_large(payload)) is not None:
        entry.answer = refusal
    elif not _lies_inline(job, payload):
        await blobs.keep_large(connection, job.result, payload, job.key)
        entry.file_id = blobs.large_file_id(job.result)


def _lies_inline(job: Job, payload: bytes) -> bool:
    """Whether the result lies in the job's document, where only an id with the job's key is found."""
    in_document = f"{job.key.backend}/{job.key.id}/result/"
    return len(payload) <= INLINE_LIMIT and job.result is not None and job.result.id.startswith(in_document)


async def _keep_staged(connection: Connection, entry: _Entry) -> None:
    job = entry.change.job
    if job.result is None or job.revision == entry.change.expected_revision:
        return
    refusal = await blobs.reserve(connection, job.result, job.key)
    if refusal is None:
        entry.file_id = job.result.id
        return
    # A change that keeps the result of before has nothing staged; and if the job has moved on, that counts.
    current = await current_job(connection, job.key)
    if isinstance(current, NotFound):
        entry.answer = current
    elif current.revision != entry.change.expected_revision:
        entry.answer = _conflict(current)
    elif current.result != job.result:
        entry.answer = refusal


def _write(connection: Connection, entry: _Entry) -> Write:
    job, payload = entry.change.job, entry.change.payload
    inline = payload if payload is not None and _lies_inline(job, payload) else None
    return write_of(
        job, entry.change.expected_revision, connection.numbers, result=inline, file_id=entry.file_id
    )


async def _store_one(connection: Connection, entry: _Entry, write: Write) -> None:
    try:
        with connection.writing():
            done = await connection["jobs"].update_one(write.expected, write.change)
    except Uncertain as unknown:
        await _settle(connection, [(entry, write)], unknown)
        return
    if done.matched_count:
        entry.answer = entry.change.job
    else:
        current = await current_job(connection, write.key)
        entry.answer = current if isinstance(current, NotFound) else _conflict(current)


async def _store_all(connection: Connection, writes: Sequence[tuple[_Entry, Write]]) -> None:
    updates = [UpdateOne(write.expected, write.change) for _, write in writes]
    unknown: Uncertain | None = None
    try:
        with connection.writing():
            done = await connection["jobs"].bulk_write(updates, ordered=False)
        if done.matched_count == len(writes):
            for entry, _ in writes:
                entry.answer = entry.change.job
            return
    except Uncertain as error:
        unknown = error
    await _settle(connection, writes, unknown)


async def _settle(
    connection: Connection, writes: Sequence[tuple[_Entry, Write]], unknown: Uncertain | None
) -> None:
    """Tell by the documents which writes were done.

    A document at the expected revision after an unknown outcome may still be changed by it, so that stays
    unknown. One that has moved on was changed by ours or by another's: the number of the write tells, and
    if that is a still later one's, a conflict is a true answer for both.
    """
    query = {"_id": {"$in": [write.key.id for _, write in writes]}}
    with connection.settling(unknown or Uncertain("MongoDB stored changes, but does not say which")):
        # After an unknown outcome only what a majority has is sure to stay.
        jobs = connection.newest("jobs") if unknown is None else connection["jobs"]
        found = await jobs.find(query, JOB_FIELDS).to_list()
    documents = {document["_id"]: document for document in found}
    for entry, write in writes:
        entry.answer = _told_by(documents.get(write.key.id), entry, write, unknown)


def _told_by(document: Document | None, entry: _Entry, write: Write, unknown: Uncertain | None) -> Answer:
    if document is None or "seq" not in document or document["backend"] != write.key.backend:
        return NotFound(f"there is no {write.key}")
    if document["commit"] == write.commit:
        return entry.change.job
    if unknown is not None and document["rev"] == entry.change.expected_revision:
        raise unknown
    try:
        return _conflict(job_of(document))
    except UnreadableJob as error:
        # Of this change alone.
        return error


def _conflict(current: Job) -> Conflict:
    return Conflict(f"{current.key} is at revision {current.revision} by now", current)


async def current_job(connection: Connection, key: JobKey) -> Job | NotFound:
    """The job as a compare-and-set would find it."""
    with connection.reading():
        found = await connection.newest("jobs").find_one(
            {"_id": key.id, "backend": key.backend, "seq": {"$gt": 0}}, JOB_FIELDS
        )
    return NotFound(f"there is no {key}") if found is None else job_of(found)


async def delete(connection: Connection, key: JobKey, revision: int) -> int:
    """Replace a terminal job by its tombstone, and return the tombstone's revision; see the interface.

    The tombstone keeps the request id, and tells `repair` of files that are still to be removed.
    """
    commit = commit_id(key)
    expected = {
        "_id": key.id,
        "backend": key.backend,
        "rev": revision,
        "state": {"$in": sorted(state.value for state in TERMINAL_STATES)},
    }
    stub = await _bury(connection, expected, _tombstone(connection, commit), commit)
    if stub is None:
        current = await current_job(connection, key)
        if isinstance(current, NotFound):
            raise current
        raise Conflict(f"{key} is {current.state} at revision {current.revision}", current)
    connection.numbers.learn(int(stub["change"]))
    if stub.get("has_files"):
        with suppress(ProviderError):
            await remove_files(connection, key)
    return int(stub["rev"])


def _tombstone(connection: Connection, commit: str) -> list[Document]:
    fields = ("$content_file", "$result_file")
    has_file = {"$or": [{"$ne": [{"$type": field}, "missing"]} for field in fields]}
    kept = ("_id", "backend", "owner", "request", "fingerprint", "requested_at")
    return [
        {
            "$replaceWith": {
                **{name: f"${name}" for name in kept},
                "rev": {"$add": ["$rev", 1]},
                "change": connection.numbers.number(connection.numbers.take()),
                "commit": {"$literal": commit},
                "deleted_at": connection.numbers.now(),
                "has_files": has_file,
            }
        }
    ]


async def _bury(
    connection: Connection, expected: Document, tombstone: list[Document], commit: str
) -> Document | None:
    try:
        with connection.writing():
            stub: Document | None = await connection["jobs"].find_one_and_update(
                expected, tombstone, return_document=ReturnDocument.AFTER
            )
    except Uncertain as unknown:
        with connection.settling(unknown):
            stub = await connection["jobs"].find_one({"_id": expected["_id"], "commit": commit})
        if stub is None:
            raise
    return stub


async def remove_files(connection: Connection, key: JobKey) -> None:
    """Remove a deleted job's files, and note in its tombstone that they are gone."""
    await blobs.remove_of_job(connection, key)
    with connection.writing():
        await connection["jobs"].update_one({"_id": key.id}, {"$unset": {"has_files": ""}})
