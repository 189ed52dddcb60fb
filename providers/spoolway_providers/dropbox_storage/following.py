"""What other programs do beside us: files they drop, move or remove, and documents they write."""

from spoolway_providers.dropbox_storage.adoption import followed, is_foreign_end
from spoolway_providers.dropbox_storage.backends import Backends
from spoolway_providers.dropbox_storage.client import FileInfo
from spoolway_providers.dropbox_storage.documents import Status
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.names import Found, Kind, Place
from spoolway_providers.dropbox_storage.placing import ended_by_another, follow_file, taken_by_another
from spoolway_providers.dropbox_storage.reading import ENDED, Reader
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.dropbox_storage.tree import Heed

__all__ = ["Follower"]


class Follower(Heed):
    """Lets jobs follow what happened to their files. A listing may be old news: so each is looked at."""

    def __init__(self, tenure: Tenure, reader: Reader, backends: Backends) -> None:
        self._tenure = tenure
        self._reader = reader
        self._backends = backends

    async def job_appeared(self, entry: Entry) -> None:
        """A file was dropped into the queue, or elsewhere: it is a job."""
        async with entry.lock:
            await self._reader.ensure(entry)

    async def file_moved(self, entry: Entry, info: FileInfo, place: Place) -> None:
        """A job's file was moved: by a spooler of today's systems, or by us and the answer was lost."""
        tenure = self._tenure
        async with entry.lock:
            there: FileInfo | None = await tenure.calls.read(tenure.calls.client.metadata, info.path)
            if there is None or not tenure.mirror.is_news(there):
                return
            tenure.mirror.set(there)
            if place is entry.place:
                if entry.job is not None:
                    tenure.contents.drop(entry.job.content.id)
                return
            entry.place, entry.job_path = place, there.path
            tenure.index.place(entry)
            if entry.job is None or entry.doubted:
                return
            if place is Place.RUNNING:
                taken_by_another(tenure, entry)
            else:
                await self._ended(entry)
            tenure.note_place(entry)

    async def document_changed(self, info: FileInfo, found: Found) -> None:
        """A document was written."""
        tenure = self._tenure
        match found.kind:
            case Kind.CONFIG:
                await self._backends.reread(found.backend)
            case Kind.STATUS if (entry := tenure.index.entries.get(found.key)) is not None:
                await self._status_changed(entry, info)
            case _:
                tenure.mirror.set(info)

    async def _status_changed(self, entry: Entry, info: FileInfo) -> None:
        tenure = self._tenure
        async with entry.lock:
            if not tenure.mirror.is_news(info):
                return
            if info.path.lower() != entry.status_path.lower():
                tenure.mirror.set(info)
                await self._end_told_elsewhere(entry)
                return
            known = tenure.mirror.get(entry.status_path)
            status = await self._reader.status(entry)
            if known is not None and tenure.mirror.get(entry.status_path) == known:
                return
            if entry.job is None or (status is not None and status.job is not None):
                entry.doubted = True
                await self._reader.ensure(entry)
            else:
                await self._follow(entry, status)

    async def _end_told_elsewhere(self, entry: Entry) -> bool:
        """Today's spoolers tell the end of a job in the folder of the user `None`; whether they have."""
        if entry.job is None or entry.job.is_terminal:
            return False
        end = await self._reader.told_end(entry, entry.job)
        if end is not None:
            await self._follow(entry, end)
        return end is not None

    async def _ended(self, entry: Entry) -> None:
        """A job's file was moved to those that have ended, or back; how it ended may be told later."""
        if await self._end_told_elsewhere(entry):
            return
        status, job = await self._reader.status(entry), entry.job
        waits_for_word = (
            job is not None and not job.is_terminal and job.holder is None and entry.place in ENDED
        )
        if not waits_for_word or is_foreign_end(status):
            await self._follow(entry, status)
            return
        ended_by_another(self._tenure, entry)

    async def _follow(self, entry: Entry, status: Status | None) -> None:
        """Take over what another program says of a job, and write our record beside its words."""
        tenure, job = self._tenure, entry.job
        if job is None:
            return
        if not job.is_terminal and job.holder is None:
            result = await self._reader.result(entry) if is_foreign_end(status) else None
            job = followed(
                job,
                place=entry.place,
                status=status,
                result=result,
                now=tenure.clock(),
                policy=tenure.policy(job.key.backend),
            )
            tenure.index.put(entry, job)
        if status is None or status.job != job:
            tenure.write_later(entry, 0.0)

    async def file_gone(self, path: str) -> None:
        """A file is said to be gone: a listing alone proves nothing."""
        tenure = self._tenure
        there = await tenure.calls.read(tenure.calls.client.metadata, path)
        if there is not None:
            tenure.mirror.set(there)
            return
        tenure.mirror.drop(path)
        found = tenure.layout.parse(path)
        entry = None if found is None else self._entry(path, found)
        if entry is None or found is None:
            return
        async with entry.lock:
            if found.kind is Kind.JOB and entry.job_path.lower() == path.lower():
                await follow_file(tenure, entry, by_another=True)
            elif found.kind is Kind.STATUS and entry.job is not None:
                tenure.write_later(entry, 0.0)

    def _entry(self, path: str, found: Found) -> Entry | None:
        """The job of a path, which may be known in lower case only."""
        entries = self._tenure.index.entries
        entry = entries.get(found.key)
        if entry is not None or found.id != found.id.lower():
            return entry
        low = path.lower()
        return next((e for e in entries.values() if low in {e.job_path.lower(), e.status_path.lower()}), None)
