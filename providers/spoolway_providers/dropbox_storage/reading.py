"""Reading jobs: of each its status, once, and for a job of another program what else there is to know."""

import asyncio
from collections.abc import Iterable

from spoolway_providers.digests import blob_ref
from spoolway_providers.dropbox_storage.adoption import (
    adopt,
    ended_silently,
    followed,
    is_foreign_end,
    set_aside,
)
from spoolway_providers.dropbox_storage.documents import SnapshotEntry, Status, decode_status
from spoolway_providers.dropbox_storage.entries import Entry, place_of
from spoolway_providers.dropbox_storage.names import Place, is_after, seq_of_id
from spoolway_providers.dropbox_storage.requests import digest_of
from spoolway_providers.dropbox_storage.tenure import Request, Tenure
from spoolway_providers.errors import Corrupt, ProviderError, Unavailable
from spoolway_providers.interface import RETENTION, Query
from spoolway_providers.model import (
    ACTIVE_STATES,
    TERMINAL_STATES,
    BlobRef,
    Job,
    JobKey,
    State,
    content_blob_id,
    result_blob_id,
)

__all__ = ["ENDED", "Reader"]

READERS = 8
"""Statuses that are read side by side; so there are threads left for what somebody waits for."""
TROUBLE_S = 5.0
"""Between two tries while Dropbox does not answer."""
ENDED = frozenset({Place.FINISHED, Place.DELETED})
"""The folders of jobs that have ended."""
IMPORTED = "imported"
"""Stands for the token in the id of a result that another program has made."""


class Reader:
    """Reads what the index knows by name only."""

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure
        self._places = asyncio.Semaphore(READERS)
        self._wanted = asyncio.Event()
        self.remembered: dict[JobKey, SnapshotEntry] = {}
        """What the index document knew of jobs whose status was written since."""

    async def ensure(self, entry: Entry) -> None:
        """Know the job; the caller holds the entry's lock. Raises Unavailable."""
        if entry.job is None or entry.doubted:
            await self._read(entry)

    async def ensure_for(self, query: Query) -> None:
        """Know enough to answer a query. Raises Unavailable: there is too much to read yet."""
        tenure = self._tenure
        until = tenure.calls.monotonic() + tenure.timings.patience_s
        while needed := self._needed(query):
            if tenure.calls.monotonic() > until:
                raise Unavailable(f"{len(tenure.index.unread)} jobs of the account are still to be read")
            await self.read_all(needed[: READERS * 4])

    async def ensure_requests(self) -> None:
        """Know all request ids of the last day. Raises Unavailable: there is too much to read yet."""
        tenure = self._tenure
        since = tenure.clock() - RETENTION
        until = tenure.calls.monotonic() + tenure.timings.patience_s
        entries = tenure.index.entries
        while recent := [key for key in tenure.index.unread if is_after(entries[key].seq, since)]:
            if tenure.calls.monotonic() > until:
                raise Unavailable(f"{len(recent)} jobs of the account are still to be read")
            await self.read_all(entries[key] for key in recent[: READERS * 4])
        while orphans := [key for key in tenure.orphans if is_after(seq_of_id(key.id, since), since)]:
            await asyncio.gather(*(self._read_orphan(key) for key in orphans[: READERS * 4]))

    async def _read_orphan(self, key: JobKey) -> None:
        """A status without a job's file: of a submit that broke off, as long as nobody repeats it."""
        tenure = self._tenure
        found = await tenure.calls.download(tenure.orphans[key])
        status = decode_status(found[1]) if found else None
        tenure.known_orphans[key] = tenure.orphans.pop(key)
        if status is not None and status.job is not None and status.job.request_id:
            self.know_request(status.job, status.fingerprint)

    def _needed(self, query: Query) -> list[Entry]:
        index = self._tenure.index
        if not index.unread or query.due_before is not None:
            return []
        unread = (index.entries[key] for key in list(index.unread))
        held_only = query.session is not None or query.orphaned
        if held_only or (query.states and set(query.states) <= ACTIVE_STATES):
            return [entry for entry in unread if entry.place is Place.RUNNING]
        if query.states and not set(query.states) & TERMINAL_STATES:
            return [entry for entry in unread if entry.place in {Place.RUNNING, Place.QUEUED}]
        return list(unread)

    async def read_all(self, entries: Iterable[Entry]) -> None:
        """Know these jobs; what can't be read now stays unread."""
        outcomes = await asyncio.gather(*(self._read_one(entry) for entry in entries), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def run(self) -> None:
        """Read what is unread, by and by: what runs first, then the queue, then what has ended."""
        index = self._tenure.index
        order = [Place.RUNNING, Place.QUEUED, Place.FINISHED, Place.DELETED]
        while index.unread:
            unread = [index.entries[key] for key in index.unread]
            unread.sort(key=lambda e: (order.index(e.place), e.seq if e.place in order[:2] else -e.seq))
            try:
                await self.read_all(unread[: READERS * 8])
            except ProviderError:
                await asyncio.sleep(TROUBLE_S)

    async def _read_one(self, entry: Entry) -> None:
        async with self._places, entry.lock:
            if entry.key in self._tenure.index.entries:
                await self.ensure(entry)

    async def _read(self, entry: Entry) -> None:
        before = entry.job
        try:
            status = await self.status(entry)
            if before is None:
                status = await self._fuller(entry, status)
        except Corrupt as error:
            if before is not None:
                raise
            self.take(entry, await self._set_aside(entry, str(error)), "")
            return
        fingerprint = entry.fingerprint
        if status is not None and status.job is not None and status.job.key == entry.key:
            job, fingerprint = status.job, status.fingerprint
            if before is None and self.is_at_odds(entry, job):
                job = await self._caught_up(entry, job)
        elif before is not None:
            job = await self._follow(entry, before, status)
        elif (ended := await self._overwritten(entry, status)) is not None:
            job, fingerprint = ended, self.remembered[entry.key].fingerprint
        else:
            job = await self._adopt(entry, status)
        self.take(entry, job, fingerprint)

    def take(self, entry: Entry, job: Job, fingerprint: str) -> None:
        """This is what a job's status says, or stands for."""
        tenure, before = self._tenure, entry.job
        entry.doubted = False
        entry.fingerprint = fingerprint
        if before is not None and entry.unwritten_until is not None and job.revision < before.revision:
            # What is to be written later is not there yet.
            job = before
        tenure.index.put(entry, job)
        tenure.note_place(entry)
        if before is None and entry.wanted_place is not entry.place:
            entry.half_done = True
        if job.holder is not None:
            tenure.sessions.remember_former(job.holder.session)
        if job.request_id:
            self.know_request(job, fingerprint)

    def know_request(self, job: Job, fingerprint: str) -> None:
        """A request id stands for this job, whether its file is there or not."""
        digest = digest_of(job.owner, job.key.backend, job.request_id)
        known = self._tenure.requests.get(digest)
        if known is None or known.at < job.created_at:
            self._tenure.requests[digest] = Request(job.created_at, job.key, fingerprint)

    async def status(self, entry: Entry) -> Status | None:
        """Read a job's status as it is now."""
        tenure = self._tenure
        found = await tenure.calls.download(entry.status_path)
        if found is None:
            tenure.mirror.drop(entry.status_path)
            return None
        info, data = found
        tenure.mirror.set(info)
        return decode_status(data)

    # What another program did while no server ran

    def is_at_odds(self, entry: Entry, job: Job) -> bool:
        """Whether a job that no session of ours holds may have gone on without us."""
        if job.is_terminal or job.holder is not None:
            return False
        return _is_elsewhere(entry, job) or self._has_other(entry)

    def _has_other(self, entry: Entry) -> bool:
        path = self._tenure.layout.status_of_nobody(entry.key)
        return path.lower() != entry.status_path.lower() and self._tenure.mirror.get(path) is not None

    async def _fuller(self, entry: Entry, status: Status | None) -> Status | None:
        """Of two statuses of a job the one that says more, if ours is not with the first."""
        if (status is not None and status.job is not None) or not self._has_other(entry):
            return status
        path = self._tenure.layout.status_of_nobody(entry.key)
        found = await self._tenure.calls.download(path)
        other = decode_status(found[1]) if found else None
        if other is not None and other.job is not None:
            entry.status_path = path
            return other
        return other if is_foreign_end(other) and not is_foreign_end(status) else status

    async def _caught_up(self, entry: Entry, job: Job) -> Job:
        """What became of a job meanwhile. A spooler of today's systems moves its file, then tells its end."""
        end = await self.told_end(entry, job)
        if end is not None and (ended := await self.ended(entry, job, end)).is_terminal:
            return self._late(entry, ended)
        if not _is_elsewhere(entry, job) or not self._is_taken(entry, job):
            return job
        if entry.place in ENDED:
            self._tenure.unsaid[entry.key] = self._tenure.calls.monotonic()
        now, policy = self._tenure.clock(), self._tenure.policy(entry.key.backend)
        taken = followed(job, place=Place.RUNNING, status=None, result=None, now=now, policy=policy)
        return self._late(entry, taken)

    async def _overwritten(self, entry: Entry, status: Status | None) -> Job | None:
        """A job whose end another program has written over our record, which the index document still has."""
        known = self.remembered.get(entry.key)
        if known is None or status is None or not is_foreign_end(status) or known.job.holder is not None:
            return None
        ended = await self.ended(entry, known.job, status)
        return self._late(entry, ended) if ended.is_terminal else None

    def _is_taken(self, entry: Entry, job: Job) -> bool:
        """Whether another program has moved its file: it was no step of ours that a crash broke off."""
        if entry.place is Place.QUEUED:
            return False
        if job.state is State.RUNNING or entry.place is Place.FINISHED:
            return True
        is_retried = any(change.state in TERMINAL_STATES for change in job.times)
        if entry.place is Place.DELETED and not is_retried:
            return True
        return self._tenure.may_be_foreign(entry.key.backend)

    def _late(self, entry: Entry, job: Job) -> Job:
        """Our record of it is still to be written."""
        self._tenure.write_later(entry, 0.0)
        return job

    async def told_end(self, entry: Entry, job: Job) -> Status | None:
        """The end of a job that a spooler of today's systems has told where only it looks."""
        path = self._tenure.layout.status_of_nobody(entry.key)
        if entry.place is Place.QUEUED or path.lower() == entry.status_path.lower():
            return None
        found = await self._tenure.calls.download(path)
        if found is None:
            return None
        info, data = found
        self._tenure.mirror.set(info)
        queued = [change.at for change in job.times if change.state is State.QUEUED]
        if len(queued) > 1 and info.server_modified < queued[-1]:
            # Of an earlier run: it was sent to run again since then.
            return None
        status = decode_status(data)
        return status if is_foreign_end(status) else None

    async def ended(self, entry: Entry, job: Job, end: Status) -> Job:
        """A job that another program has ended, as it says; unchanged while there is no result yet."""
        result, now = await self.result(entry), self._tenure.clock()
        policy = self._tenure.policy(entry.key.backend)
        return followed(job, place=entry.place, status=end, result=result, now=now, policy=policy)

    async def ended_at_last(self, entry: Entry, job: Job) -> Job:
        """A job whose file another program has moved to those that have ended, a while ago."""
        end = await self.told_end(entry, job)
        if end is not None and (ended := await self.ended(entry, job, end)).is_terminal:
            return ended
        result, now = await self.result(entry), self._tenure.clock()
        policy = self._tenure.policy(entry.key.backend)
        return ended_silently(job, place=entry.place, result=result, now=now, policy=policy)

    # Another program's documents

    async def _adopt(self, entry: Entry, status: Status | None) -> Job:
        tenure = self._tenure
        content = await self._blob(entry.job_path, content_blob_id(entry.key), keep=True)
        result = await self.result(entry) if is_foreign_end(status) else None
        return adopt(
            entry.key,
            seq=entry.seq,
            owner=tenure.user(entry),
            content=content,
            place=entry.place,
            status=status,
            result=result,
            now=tenure.clock(),
            policy=tenure.policy(entry.key.backend),
        )

    async def _set_aside(self, entry: Entry, why: str) -> Job:
        content = await self._blob(entry.job_path, content_blob_id(entry.key), keep=True)
        owner, now = self._tenure.user(entry), self._tenure.clock()
        return set_aside(
            entry.key,
            seq=entry.seq,
            owner=owner,
            content=content,
            place=entry.place,
            why=why,
            now=now,
            policy=self._tenure.policy(entry.key.backend),
        )

    async def _follow(self, entry: Entry, job: Job, status: Status | None) -> Job:
        if job.is_terminal:
            return job
        if job.holder is not None:
            if is_foreign_end(status):
                # Whoever holds it ends it: our record goes back over the other's words.
                self._tenure.write_later(entry, 0.0)
            return job
        result = await self.result(entry) if is_foreign_end(status) else None
        return followed(
            job,
            place=entry.place,
            status=status,
            result=result,
            now=self._tenure.clock(),
            policy=self._tenure.policy(job.key.backend),
        )

    async def result(self, entry: Entry) -> BlobRef | None:
        """The result that another program has made, if there is one."""
        path = self._tenure.result_path(entry)
        if self._tenure.mirror.get(path) is None and await self._tenure.calls.download(path) is None:
            return None
        return await self._blob(path, result_blob_id(entry.key, IMPORTED))

    async def _blob(self, path: str, blob_id: str, *, keep: bool = False) -> BlobRef:
        """The reference to a file that another program wrote."""
        found = await self._tenure.calls.download(path)
        data = found[1] if found else b""
        if found:
            self._tenure.mirror.set(found[0])
        if keep:
            self._tenure.contents.put(blob_id, data)
        return blob_ref(blob_id, data)


def _is_elsewhere(entry: Entry, job: Job) -> bool:
    """Whether a job's file lies where its state does not have it, or where only an ended job's does."""
    is_ended = job.state is State.RUNNING and entry.place in ENDED
    return is_ended or place_of(job, entry.place) is not entry.place
