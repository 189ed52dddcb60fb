"""The account's tree: listed once, and then followed by its cursor. A longpoll says when to look."""

import asyncio
import logging
from collections.abc import Iterable

from spoolway_providers.dropbox_storage.client import FileInfo, Page
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.faults import CallFailed, CursorReset, PathMissing
from spoolway_providers.dropbox_storage.names import Found, Kind, Layout, Place, seq_of_id, user_of_id
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.errors import ProviderError
from spoolway_providers.model import JobKey

__all__ = ["Heed", "Tree"]

_log = logging.getLogger(__name__)

RETRY_S = 10.0
"""After a longpoll that broke off."""


class Tree:
    """Lists the account into the tenure's mirror and index, and tells what other programs changed."""

    def __init__(self, tenure: Tenure, heed: "Heed") -> None:
        self._tenure = tenure
        self._heed = heed
        self._cursor = ""
        self._synced_at = 0.0
        self._started_then = 0

    # Listing

    async def read_all(self) -> None:
        """Know all files, and all jobs by name."""
        tenure = self._tenure
        files, _ = await asyncio.gather(
            self._list_all(tenure.layout.files), self._list_all(tenure.layout.own)
        )
        self._cursor = files
        self._synced_at = tenure.calls.monotonic()
        self._started_then = tenure.writer.started
        self._add_jobs()

    async def _list_all(self, path: str) -> str:
        """List a folder with all below it, made if it is not there; the cursor to go on from."""
        read, client = self._tenure.calls.read, self._tenure.calls.client
        try:
            page: Page = await read(client.list_folder, path)
        except PathMissing:
            await self._tenure.calls.write(client.make_folder, path)
            page = await read(client.list_folder, path)
        while True:
            for info in page.files:
                self._tenure.mirror.set(info)
            if not page.more:
                return page.cursor
            page = await read(client.list_continue, page.cursor)

    def _add_jobs(self) -> None:
        tenure = self._tenure
        known: list[tuple[FileInfo, Found]] = []
        for info in tenure.mirror.below(tenure.layout.files):
            found = tenure.layout.parse(info.path)
            if found is not None:
                known.append((info, found))
        statuses = _statuses(known)
        for info, found in known:
            if found.kind is Kind.JOB:
                self._add_job(info, found, statuses)
        tenure.orphans = {key: path for key, path in statuses.items() if key not in tenure.index.entries}

    def _add_job(self, info: FileInfo, found: Found, statuses: dict[JobKey, str]) -> Entry | None:
        tenure = self._tenure
        key = found.key if found.backend else _key_by_id(found.id, statuses)
        if key is None or found.place is None:
            return None
        known = tenure.index.entries.get(key)
        if known is not None:
            return known
        seq = seq_of_id(key.id, info.client_modified)
        entry = Entry(
            key,
            seq,
            place=found.place,
            job_path=info.path,
            status_path=statuses.get(key) or _new_status_path(tenure.layout, key, found.user),
        )
        tenure.index.add(entry)
        return entry

    # Following

    async def follow(self) -> None:
        """Look whenever Dropbox says that something changed; for ever."""
        while True:
            try:
                wait_s = await self._look()
            except (CallFailed, ProviderError):
                wait_s = RETRY_S
            except Exception:  # noqa: BLE001 - whatever it was, the owner goes on
                _log.exception("following the account failed")
                wait_s = RETRY_S
            await asyncio.sleep(wait_s)

    async def _look(self) -> float:
        tenure = self._tenure
        try:
            changes, backoff_s = await tenure.calls.longpoll(self._cursor)
        except CursorReset:
            changes, backoff_s = True, 0.0
        if changes:
            # Our own writes wake us too: then once in a while is enough.
            busy = tenure.writer.started != self._started_then
            due_in_s = self._synced_at + tenure.timings.sync_every_s - tenure.calls.monotonic()
            if busy and due_in_s > 0:
                await asyncio.sleep(due_in_s)
            await self.sync()
        return backoff_s

    async def sync(self) -> None:
        """Take in what has changed since the last look. No write is under way meanwhile."""
        tenure = self._tenure
        async with tenure.writer.turn:
            files, deleted = await self._changes()
            self._synced_at = tenure.calls.monotonic()
            self._started_then = tenure.writer.started
            news = [info for info in files if tenure.mirror.is_news(info)]
            gone = [path for path in deleted if tenure.mirror.get(path) is not None]
        # A status comes before its job, wherever the listing has them.
        for info in sorted(news, key=lambda info: "/job-" in info.path):
            await self._take_in(info)
        for path in gone:
            await self._heed.file_gone(path)

    async def _changes(self) -> tuple[list[FileInfo], list[str]]:
        """Files that changed, and paths that are gone with all below them."""
        tenure = self._tenure
        # Once only: nobody writes meanwhile.
        read, client = tenure.calls.once, tenure.calls.client
        files: list[FileInfo] = []
        deleted: list[str] = []
        try:
            page: Page = await read(client.list_continue, self._cursor)
        except CursorReset:
            return await self._list_afresh()
        while True:
            files += page.files
            deleted += page.deleted
            self._cursor = page.cursor
            if not page.more:
                below = [i.path for path in deleted for i in tenure.mirror.below(path)]
                return files, [*deleted, *below]
            page = await read(client.list_continue, page.cursor)

    async def _list_afresh(self) -> tuple[list[FileInfo], list[str]]:
        """All files, and what is not listed any more: which proves nothing, so it will be looked at."""
        tenure = self._tenure
        read, client = tenure.calls.once, tenure.calls.client
        files: list[FileInfo] = []
        page: Page = await read(client.list_folder, tenure.layout.files)
        while True:
            files += page.files
            if not page.more:
                break
            page = await read(client.list_continue, page.cursor)
        self._cursor = page.cursor
        listed = {info.path.lower() for info in files}
        known = tenure.mirror.below(tenure.layout.files)
        return files, [info.path for info in known if info.path.lower() not in listed]

    async def _take_in(self, info: FileInfo) -> None:
        tenure = self._tenure
        found = tenure.layout.parse(info.path)
        if found is None:
            return
        if found.kind is not Kind.JOB:
            await self._heed.document_changed(info, found)
            return
        statuses = _statuses_of(tenure, found)
        key = found.key if found.backend else _key_by_id(found.id, statuses)
        known = None if key is None else tenure.index.entries.get(key)
        if known is not None and found.place is not None:
            await self._heed.file_moved(known, info, found.place)
            return
        tenure.mirror.set(info)
        entry = self._add_job(info, found, statuses)
        if entry is not None:
            await self._heed.job_appeared(entry)


class Heed:
    """What becomes of changes by other programs."""

    async def job_appeared(self, entry: Entry) -> None:
        """There is a job that we did not know."""
        raise NotImplementedError

    async def file_moved(self, entry: Entry, info: FileInfo, place: Place) -> None:
        """A job's file lies elsewhere, or is another revision."""
        raise NotImplementedError

    async def document_changed(self, info: FileInfo, found: Found) -> None:
        """A status, result or config is another than we know."""
        raise NotImplementedError

    async def file_gone(self, path: str) -> None:
        """A file that we know is said to be gone."""
        raise NotImplementedError


def _statuses(known: Iterable[tuple[FileInfo, Found]]) -> dict[JobKey, str]:
    """The status of each job: of two, in the folders of its user and of `None`, the user's."""
    statuses: dict[JobKey, str] = {}
    for info, found in known:
        if found.kind is Kind.STATUS and (found.user.lower() != "none" or found.key not in statuses):
            statuses[found.key] = info.path
    return statuses


def _statuses_of(tenure: Tenure, job: Found) -> dict[JobKey, str]:
    """The status of one job."""
    if job.backend:
        users = (user_of_id(job.id), job.user, "None")
        paths = [tenure.layout.status(job.key, user) for user in users if user]
        infos = [info for path in paths if (info := tenure.mirror.get(path))]
    else:
        name = f"/status-{job.id}.json".lower()
        below = tenure.mirror.below(f"{tenure.layout.files}/Status")
        infos = [info for info in below if info.path.lower().endswith(name)]
    return _statuses((info, found) for info in infos if (found := tenure.layout.parse(info.path)))


def _key_by_id(job_id: str, statuses: Iterable[JobKey]) -> JobKey | None:
    """The job with an id that does not name its backend; its status lies in a folder that does."""
    return next((key for key in statuses if key.id == job_id), None)


def _new_status_path(layout: Layout, key: JobKey, user: str) -> str:
    return layout.status(key, user_of_id(key.id) or user or "None")
