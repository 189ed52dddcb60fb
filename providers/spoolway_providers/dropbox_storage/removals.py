"""Removing jobs: a tombstone for the request, then the job's file goes: the commit; the rest is garbage."""

import msgspec

from spoolway_providers.dropbox_storage.client import OVERWRITE
from spoolway_providers.dropbox_storage.documents import Tombstone
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.faults import PathConflict
from spoolway_providers.dropbox_storage.reading import Reader
from spoolway_providers.dropbox_storage.requests import digest_of
from spoolway_providers.dropbox_storage.tenure import Request, Tenure
from spoolway_providers.errors import Conflict, Uncertain
from spoolway_providers.interface import RETENTION
from spoolway_providers.model import Job, JobKey

__all__ = ["delete"]


async def delete(tenure: Tenure, reader: Reader, key: JobKey, revision: int) -> None:
    """Remove a job that has ended; see the interface."""
    tenure.ownership.check()
    entry = tenure.index.get(key)
    async with entry.lock:
        tenure.index.get(key)
        await reader.ensure(entry)
        job = entry.job
        if job is None or job.revision != revision or not job.is_terminal:
            at = f"{job.state} at revision {job.revision}" if job else "unknown"
            raise Conflict(f"{key} is {at}", job)
        await _entomb(tenure, entry, job)
        try:
            await tenure.writer.delete(entry.job_path)
        except PathConflict as error:
            raise Conflict(f"another program writes {entry.job_path}", job) from error
        except Uncertain:
            entry.doubted = True
            raise
        other = tenure.layout.status_of_nobody(key)
        tenure.garbage |= {entry.status_path, other, tenure.result_path(entry)}
        for ref in (job.content, job.result):
            if ref is not None:
                tenure.contents.drop(ref.id)
        tenure.misplaced.pop(key, None)
        tenure.unwritten.discard(key)
        tenure.index.remove(entry)
        tenure.feed.entomb(key, tenure.clock())


async def _entomb(tenure: Tenure, entry: Entry, job: Job) -> None:
    """Keep a repeat of the job's request from making it anew, as long as its id is kept."""
    if not job.request_id or job.created_at + RETENTION <= tenure.clock():
        return
    digest = digest_of(job.owner, job.key.backend, job.request_id)
    tombstone = Tombstone(
        owner=job.owner,
        backend=job.key.backend,
        request_id=job.request_id,
        id=job.key.id,
        fingerprint=entry.fingerprint,
        at=job.created_at,
    )
    path = tenure.layout.tombstone(job.created_at, digest)
    await tenure.writer.put(path, msgspec.json.encode(tombstone), OVERWRITE, job.created_at)
    tenure.requests[digest] = Request(job.created_at, job.key, entry.fingerprint, path)
