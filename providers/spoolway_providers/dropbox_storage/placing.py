"""Moving jobs' files to where they should lie, and finding those that lie elsewhere than we thought."""

import asyncio

from spoolway_providers.dropbox_storage.adoption import followed, spoiled
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.faults import PathConflict, PathMissing
from spoolway_providers.dropbox_storage.names import Place
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.model import State

__all__ = ["bring", "ended_by_another", "follow_file", "spoil", "taken_by_another"]


async def bring(tenure: Tenure, entry: Entry, place: Place) -> bool:
    """Move a job's file to `place`; the caller holds the entry's lock.

    Returns:
        False if it can't be: somebody else has moved the file, and the job follows it.
    """
    if entry.place is place:
        return True
    target = tenure.layout.job(entry.key, place, tenure.user(entry))
    try:
        await tenure.writer.move(entry.job_path, target)
    except PathMissing:
        tenure.mirror.drop(entry.job_path)
        await follow_file(tenure, entry, by_another=True)
        return False
    except PathConflict:
        return await _resolve_double(tenure, entry, place, target)
    _note(tenure, entry, place, target)
    return True


async def _resolve_double(tenure: Tenure, entry: Entry, place: Place, target: str) -> bool:
    """The file lies in both places: one is enough if they are alike, else nobody knows which is meant."""
    read, metadata = tenure.calls.read, tenure.calls.client.metadata
    here, there = await asyncio.gather(read(metadata, entry.job_path), read(metadata, target))
    alike = here is not None and there is not None and here.content_hash == there.content_hash
    if there is not None and (alike or here is None):
        tenure.mirror.set(there)
        tenure.garbage.add(entry.job_path)
        _note(tenure, entry, place, target)
        return True
    spoil(tenure, entry, f"another file is in the way at {target}")
    return False


def _note(tenure: Tenure, entry: Entry, place: Place, path: str) -> None:
    entry.place, entry.job_path = place, path
    tenure.index.place(entry)
    tenure.note_place(entry)


async def follow_file(tenure: Tenure, entry: Entry, *, by_another: bool) -> None:
    """Look where a job's file lies now; the caller holds the entry's lock.

    Args:
        tenure: Of the owner.
        entry: The job.
        by_another: Another program must have moved it: it was not us, with an answer that was lost.
    """
    user = tenure.user(entry)
    paths = {place: tenure.layout.job(entry.key, place, user) for place in Place}
    read, metadata = tenure.calls.read, tenure.calls.client.metadata
    found = await asyncio.gather(*(read(metadata, path) for path in paths.values()))
    for (place, path), info in zip(paths.items(), found, strict=True):
        if info is not None:
            tenure.mirror.set(info)
            _note(tenure, entry, place, path)
            if by_another and place is Place.RUNNING:
                taken_by_another(tenure, entry)
            elif by_another and place is not Place.QUEUED:
                ended_by_another(tenure, entry)
            return
    spoil(tenure, entry, "its file was removed by another program")


def taken_by_another(tenure: Tenure, entry: Entry) -> None:
    """A waiting job's file was moved to the running ones: by a spooler of today's systems, for ever its."""
    job = entry.job
    if job is None or job.state not in {State.QUEUED, State.HELD}:
        return
    if tenure.is_amnesty and entry.key.backend not in tenure.stock_spoolers:
        # More likely a late move of the owner before, which gave it to nobody.
        return
    _mark_foreign(tenure, entry)


def ended_by_another(tenure: Tenure, entry: Entry) -> None:
    """Another program has put a job among those that have ended; how it ended may be told a little later."""
    job = entry.job
    if job is None or job.is_terminal or job.holder is not None:
        return
    _mark_foreign(tenure, entry)
    tenure.unsaid.setdefault(entry.key, tenure.calls.monotonic())


def _mark_foreign(tenure: Tenure, entry: Entry) -> None:
    """Another program has a job that waited."""
    job = entry.job
    if job is not None and job.state in {State.QUEUED, State.HELD}:
        taken = followed(
            job,
            place=Place.RUNNING,
            status=None,
            result=None,
            now=tenure.clock(),
            policy=tenure.policy(job.key.backend),
        )
        tenure.index.put(entry, taken)
        tenure.write_later(entry, 0.0)


def spoil(tenure: Tenure, entry: Entry, message: str) -> None:
    """A waiting job can't be run: it ends, so that those behind it go on."""
    job = entry.job
    if job is None or job.state not in {State.QUEUED, State.HELD}:
        return
    tenure.index.put(entry, spoiled(job, message, tenure.clock(), tenure.policy(job.key.backend)))
    tenure.write_later(entry, 0.0)
