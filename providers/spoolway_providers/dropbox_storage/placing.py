"""Moving jobs' files to where they should lie, and finding those that lie elsewhere than we thought."""

import asyncio

from spoolway_providers.dropbox_storage.adoption import lost
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.faults import PathConflict, PathMissing
from spoolway_providers.dropbox_storage.names import Place
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.model import ACTIVE_STATES, State

__all__ = ["bring", "follow_file"]


async def bring(tenure: Tenure, entry: Entry, place: Place) -> bool:
    """Move a job's file to `place`; the caller holds the entry's lock.

    Returns:
        False if the file is not where it was: it was looked for, and the job follows it.
    """
    if entry.place is place:
        return True
    target = tenure.layout.job(entry.key, place, tenure.user(entry))
    try:
        await tenure.writer.move(entry.job_path, target)
    except PathMissing:
        tenure.mirror.drop(entry.job_path)
        await follow_file(tenure, entry)
        return entry.place is place
    except PathConflict:
        return await _resolve_double(tenure, entry, place, target)
    _note(tenure, entry, place, target)
    return True


async def _resolve_double(tenure: Tenure, entry: Entry, place: Place, target: str) -> bool:
    """The file lies in both places: one is enough if they are alike, else it is left to a person."""
    read, metadata = tenure.calls.read, tenure.calls.client.metadata
    here, there = await asyncio.gather(read(metadata, entry.job_path), read(metadata, target))
    alike = here is not None and there is not None and here.content_hash == there.content_hash
    if there is not None and (alike or here is None):
        tenure.mirror.set(there)
        tenure.garbage.add(entry.job_path)
        _note(tenure, entry, place, target)
        return True
    return False


def _note(tenure: Tenure, entry: Entry, place: Place, path: str) -> None:
    entry.place, entry.job_path = place, path
    tenure.index.place(entry)
    tenure.note_place(entry)


async def follow_file(tenure: Tenure, entry: Entry) -> None:
    """Look where a job's file lies now; the caller holds the entry's lock."""
    user = tenure.user(entry)
    paths = {place: tenure.layout.job(entry.key, place, user) for place in Place}
    read, metadata = tenure.calls.read, tenure.calls.client.metadata
    found = await asyncio.gather(*(read(metadata, path) for path in paths.values()))
    for (place, path), info in zip(paths.items(), found, strict=True):
        if info is not None:
            tenure.mirror.set(info)
            _note(tenure, entry, place, path)
            return
    job = entry.job
    if job is not None and not job.is_terminal and job.state not in ACTIVE_STATES:
        tenure.index.put(entry, lost(job, tenure.clock()))
        tenure.write_later(entry, 0.0)
    if job is not None and job.state is State.QUEUED:
        entry.reserved = False
