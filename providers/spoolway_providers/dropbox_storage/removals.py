"""Removing jobs: the mark learns of it, then the job's file goes: that is the commit, the rest is garbage."""

import msgspec
from msgspec.structs import replace

from spoolway_providers.dropbox_storage.client import OVERWRITE
from spoolway_providers.dropbox_storage.documents import decode_mark
from spoolway_providers.dropbox_storage.faults import PathConflict
from spoolway_providers.dropbox_storage.reading import Reader
from spoolway_providers.dropbox_storage.submits import digest_of
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.errors import Conflict, Uncertain
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
        await _mark_deleted(tenure, job)
        try:
            await tenure.writer.delete(entry.job_path)
        except PathConflict as error:
            raise Conflict(f"another program writes {entry.job_path}", job) from error
        except Uncertain:
            entry.doubted = True
            raise
        tenure.garbage |= {entry.status_path, tenure.result_path(entry)}
        for ref in (job.content, job.result):
            if ref is not None:
                tenure.contents.drop(ref.id)
        tenure.misplaced.pop(key, None)
        tenure.unwritten.discard(key)
        tenure.index.remove(entry)
        tenure.feed.entomb(key, tenure.clock())


async def _mark_deleted(tenure: Tenure, job: Job) -> None:
    """Keep a repeat of the job's request from making it anew."""
    request = tenure.requests.get(digest_of(job.owner, job.key.backend, job.request_id))
    if not job.request_id or request is None:
        return
    found = await tenure.calls.download(request.path)
    mark = decode_mark(found[1]) if found else None
    if mark is None or mark.id != job.key.id or mark.deleted:
        return
    request.key, request.fingerprint = job.key, mark.fingerprint
    await tenure.writer.put(request.path, msgspec.json.encode(replace(mark, deleted=True)), OVERWRITE)
