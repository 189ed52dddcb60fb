"""Redoing what a crash left half done, and sweeping what is too old."""

import asyncio
from datetime import UTC, datetime, timedelta

from spoolway_providers.dropbox_storage.documents import decode_status
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.names import Place
from spoolway_providers.dropbox_storage.placing import bring
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.interface import RETENTION, Finding
from spoolway_providers.model import JobKey

__all__ = ["repair"]

ORPHANS_AT_ONCE = 50
"""Statuses without a job that are looked at in one repair."""


async def repair(tenure: Tenure, limit: int) -> list[Finding]:
    """See the interface."""
    tenure.ownership.check()
    findings = await _mend_places(tenure, limit)
    findings += await _mend_orphans(tenure, min(limit, ORPHANS_AT_ONCE))
    now = tenure.clock()
    before = now - RETENTION
    for blob_id in tenure.staging.sweep(before, limit):
        findings.append(Finding("staged_blob", blob_id, "removed, since nobody named it for a day"))
    tenure.sessions.sweep(before)
    tenure.feed.sweep(before)
    for digest in [digest for digest, request in tenure.requests.items() if request.at <= before]:
        if tenure.requests[digest].arriving is None:
            del tenure.requests[digest]
    await _remove_old_tombstones(tenure, before)
    return findings


async def _mend_places(tenure: Tenure, limit: int) -> list[Finding]:
    """Finish the moves that a crash broke off."""
    half_done = [entry for entry in tenure.index.entries.values() if entry.half_done and not entry.doubted][
        :limit
    ]
    outcomes = await asyncio.gather(*(_mend_place(tenure, entry) for entry in half_done))
    return [finding for finding in outcomes if finding is not None]


async def _mend_place(tenure: Tenure, entry: Entry) -> Finding | None:
    async with entry.lock:
        place, entry.half_done = entry.wanted_place, False
        if place is entry.place:
            return None
        was = entry.place
        await bring(tenure, entry, place)
        action = "returned to the queue" if place is Place.QUEUED else f"moved to {place}"
        return Finding("job_in_wrong_place", str(entry.key), f"{action} from {was}")


async def _mend_orphans(tenure: Tenure, limit: int) -> list[Finding]:
    """Finish removals that a crash broke off, and forget submits that never made a job."""
    some = list({**tenure.known_orphans, **tenure.orphans}.items())[:limit]
    outcomes = await asyncio.gather(*(_mend_orphan(tenure, key, path) for key, path in some))
    return [finding for finding in outcomes if finding is not None]


async def _mend_orphan(tenure: Tenure, key: JobKey, path: str) -> Finding | None:
    found = await tenure.calls.download(path)
    status = decode_status(found[1]) if found else None
    if found is None or status is None or status.job is None or key in tenure.index.entries:
        # Another program's, or gone: it is none of our business.
        _forget(tenure, key)
        return None
    is_old = status.job.created_at + RETENTION < tenure.clock()
    if not (status.job.is_terminal or is_old) or await _has_file(tenure, key, path):
        return None
    _forget(tenure, key)
    tenure.mirror.set(found[0])
    await tenure.writer.delete(path, found[0].rev)
    result = path.replace("/Status/", "/Result/").replace("/status-", "/result-")
    if tenure.mirror.get(result) is not None:
        await tenure.writer.delete(result)
    kind = "half_removed_job" if status.job.is_terminal else "half_submitted_job"
    return Finding(kind, str(key), "the rest of it was removed")


def _forget(tenure: Tenure, key: JobKey) -> None:
    tenure.orphans.pop(key, None)
    tenure.known_orphans.pop(key, None)


async def _has_file(tenure: Tenure, key: JobKey, status_path: str) -> bool:
    """Whether the job's file is there after all: a listing may lag behind."""
    found = tenure.layout.parse(status_path)
    user = found.user if found else ""
    paths = [tenure.layout.job(key, place, user) for place in Place]
    read, metadata = tenure.calls.read, tenure.calls.client.metadata
    return any(info is not None for info in await asyncio.gather(*(read(metadata, p) for p in paths)))


async def _remove_old_tombstones(tenure: Tenure, before: datetime) -> None:
    """Remove what is left of requests of whole days that are over for long enough, one call a day."""
    folders = {info.path.rsplit("/", 1)[0] for info in tenure.mirror.below(tenure.layout.requests)}
    for folder in folders:
        try:
            day = datetime.strptime(folder.rsplit("/", 1)[1], "%Y%m%d").replace(tzinfo=UTC)
        except ValueError:
            continue
        if day + timedelta(days=1) < before:
            await tenure.writer.delete(folder)
            for info in tenure.mirror.below(folder):
                tenure.mirror.drop(info.path)
