"""Changing jobs: the status, uploaded by its rev, is the commit; the result goes before, the move after."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from spoolway_providers.dropbox_storage.client import ADD, content_hash
from spoolway_providers.dropbox_storage.documents import encode_status
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.faults import PathConflict, PathMissing
from spoolway_providers.dropbox_storage.reading import Reader
from spoolway_providers.dropbox_storage.submits import trouble_of
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.errors import Conflict, NotFound, ProviderError, TooLarge, Unavailable, Uncertain
from spoolway_providers.interface import Change
from spoolway_providers.model import Job

__all__ = ["commit", "write_status"]

Answer = Job | ProviderError
_TRIES = 3
"""Of a write before which another program wrote, but nothing that counts."""


async def commit(tenure: Tenure, reader: Reader, changes: Sequence[Change]) -> list[Answer]:
    """Store each changed job by compare-and-set; see the interface."""
    tenure.ownership.check()
    answers = await asyncio.gather(*(_commit(tenure, reader, change) for change in changes))
    trouble = trouble_of(answers)
    if trouble is not None:
        raise trouble
    return answers


async def _commit(tenure: Tenure, reader: Reader, change: Change) -> Answer:
    job = change.job
    entry = tenure.index.entries.get(job.key)
    if entry is None:
        return NotFound(f"there is no {job.key}")
    try:
        async with entry.lock:
            await reader.ensure(entry)
            current = entry.job
            if current is None or current.revision != change.expected_revision:
                return _conflict(entry)
            if job.result is not None and job.result != current.result:
                refusal = await _store_result(tenure, entry, change)
                if refusal is not None:
                    return refusal
            if _can_wait(current, job):
                tenure.index.put(entry, job)
                tenure.write_later(entry, tenure.timings.progress_after_s)
                return job
            if not await write_status(tenure, reader, entry, job):
                return _conflict(entry)
            _note_result(tenure, change)
            tenure.index.put(entry, job)
            tenure.note_place(entry)
    except ProviderError as error:
        return error
    return job


def _conflict(entry: Entry) -> Conflict:
    revision = entry.job.revision if entry.job else 0
    return Conflict(f"{entry.key} is at revision {revision} by now", entry.job)


def _can_wait(before: Job, after: Job) -> bool:
    """Whether the change only tells how far the job is: nobody's promise hangs on that."""
    told = {name: getattr(after, name) for name in ("stage", "fraction", "detail", "revision")}
    return bool(before.times) and replace(before, **told) == after


async def write_status(tenure: Tenure, reader: Reader, entry: Entry, job: Job) -> bool:
    """Write a job's status; the caller holds the entry's lock.

    Returns:
        False if another program wrote it meanwhile: the job is then what became of it.
    """
    data = encode_status(job, tenure.nonce, entry.fingerprint)
    for _ in range(_TRIES):
        known = tenure.mirror.get(entry.status_path)
        try:
            await tenure.writer.put(entry.status_path, data, known.rev if known else ADD)
        except (PathConflict, PathMissing):
            before = entry.job
            entry.doubted = True
            await reader.ensure(entry)
            if entry.job != before:
                return False
        except Uncertain:
            entry.doubted = True
            raise
        else:
            tenure.note_written(entry)
            return True
    return False


async def _store_result(tenure: Tenure, entry: Entry, change: Change) -> ProviderError | None:
    """Store the result where nobody reads it before the status says so."""
    ref = change.job.result
    if ref is None:
        return None
    limit = tenure.capabilities.max_document_bytes
    data = change.payload
    if data is None:
        refusal = tenure.staging.refusal(ref)
        if refusal is not None:
            return refusal
        data = await tenure.staging.whole(ref, limit)
    elif len(data) > limit:
        return TooLarge(f"{len(data)} bytes are more than {limit} in one document; stage them", limit)
    path = tenure.result_path(entry)
    uploaded = await tenure.staging.upload(ref) if data is None else None
    digest = content_hash(data) if data is not None else ""
    for _ in range(_TRIES):
        known = tenure.mirror.get(path)
        if known is not None and known.content_hash == digest:
            return None
        mode = known.rev if known else ADD
        try:
            if uploaded is not None:
                await tenure.writer.put_uploaded(path, uploaded, mode)
            elif data is not None:
                await tenure.writer.put(path, data, mode)
            return None
        except (PathConflict, PathMissing):
            # One from an earlier attempt, which nobody reads.
            there = await tenure.calls.read(tenure.calls.client.metadata, path)
            tenure.mirror.drop(path)
            if there is not None:
                tenure.mirror.set(there)
    return Unavailable(f"another program writes {path}")


def _note_result(tenure: Tenure, change: Change) -> None:
    """The result is readable from now on."""
    ref = change.job.result
    if ref is None:
        return
    if change.payload is not None:
        tenure.contents.put(ref.id, change.payload)
    tenure.staging.discard(ref.id)
