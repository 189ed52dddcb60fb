"""All jobs in the owner's memory, by what is asked for: the storage itself is never searched."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import msgspec

from spoolway_providers.dropbox_storage.entries import Entry, QueuePlace
from spoolway_providers.dropbox_storage.feed import Feed
from spoolway_providers.dropbox_storage.names import Place
from spoolway_providers.dropbox_storage.sessions import Sessions
from spoolway_providers.errors import NotFound
from spoolway_providers.interface import Page, Query
from spoolway_providers.model import Job, JobKey, State

__all__ = ["Index", "cursor_after"]

_WAITING = (State.QUEUED, State.HELD)
_EPOCH = datetime.fromtimestamp(0, UTC)
_Cursor = tuple[int, int, str, str]


class Index:
    """Jobs by key, state, session, due time and place in the queue."""

    def __init__(self, feed: Feed, sessions: Sessions) -> None:
        self.entries: dict[JobKey, Entry] = {}
        self.unread: set[JobKey] = set()
        """Jobs whose status has not been read yet."""
        self.blobs: dict[str, JobKey] = {}
        """Which job names a blob, as its content or its result."""
        self._feed = feed
        self._sessions = sessions
        self._by_state: dict[State, set[JobKey]] = {state: set() for state in State}
        self._by_session: dict[str, set[JobKey]] = {}
        self._waiting: Counter[str] = Counter()
        self._backends: set[str] = set()
        self._queues: dict[str, list[QueuePlace]] = {}
        self._due: list[tuple[datetime, int, JobKey]] = []

    # Changing

    def add(self, entry: Entry) -> None:
        """There is a job, of which nothing is known but its name and place."""
        self.entries[entry.key] = entry
        self._backends.add(entry.key.backend)
        self.unread.add(entry.key)
        entry.counted_as_waiting = entry.place is Place.QUEUED
        self._waiting[entry.key.backend] += entry.counted_as_waiting
        self.place(entry)

    def put(self, entry: Entry, job: Job) -> None:
        """This is what everybody reads of the job from now on."""
        if entry.key not in self.entries:
            self.add(entry)
        before, entry.job = entry.job, job
        if before == job:
            return
        self._forget_facts(entry, before)
        self._by_state[job.state].add(job.key)
        self._waiting[job.key.backend] += job.state in _WAITING
        if job.holder is not None:
            self._by_session.setdefault(job.holder.session, set()).add(job.key)
        if job.due_at is not None:
            insort(self._due, (job.due_at, job.seq, job.key))
        for ref in (job.content, job.result):
            if ref is not None:
                self.blobs[ref.id] = job.key
        self.place(entry)
        self._feed.note(job.key)

    def place(self, entry: Entry) -> None:
        """Bring a job to its place in the queue, or out of it."""
        wanted = entry.wanted_queue_place
        if wanted == entry.queue_place:
            return
        queue = self._queues.setdefault(entry.key.backend, [])
        if entry.queue_place is not None:
            del queue[bisect_left(queue, entry.queue_place)]
        if wanted is not None:
            insort(queue, wanted)
            self._feed.hint_queued(entry.key.backend)
        entry.queue_place = wanted

    def remove(self, entry: Entry) -> None:
        """There is no such job any more."""
        del self.entries[entry.key]
        self._forget_facts(entry, entry.job)
        for ref in (entry.job.content, entry.job.result) if entry.job is not None else ():
            if ref is not None:
                self.blobs.pop(ref.id, None)
        entry.reserved = True
        self.place(entry)
        self._feed.note_deleted(entry.key)

    def _forget_facts(self, entry: Entry, job: Job | None) -> None:
        """Take out what was known by `job`; None: by the name alone."""
        if job is None:
            if entry.key in self.unread:
                self.unread.discard(entry.key)
                self._waiting[entry.key.backend] -= entry.counted_as_waiting
            return
        self._by_state[job.state].discard(job.key)
        self._waiting[job.key.backend] -= job.state in _WAITING
        if job.holder is not None:
            held = self._by_session[job.holder.session]
            held.discard(job.key)
            if not held:
                del self._by_session[job.holder.session]
        if job.due_at is not None:
            del self._due[bisect_left(self._due, (job.due_at, job.seq, job.key))]

    # Claiming

    def reserve_heads(self, backend: str, number: int, now: datetime) -> list[tuple[Entry, QueuePlace]]:
        """Take the first jobs out of the queue, for whoever claims them; with the places they had.

        One whose latest start has passed is the reaper's.
        """
        queue = ((self.entries[place[-1]], place) for place in self._queues.get(backend, []))
        heads = list(islice((head for head in queue if not head[0].is_past(now)), number))
        for entry, _ in heads:
            entry.reserved = True
            self.place(entry)
        return heads

    def release(self, entry: Entry) -> None:
        """Let a reserved job return to its place, if it is still to be had."""
        entry.reserved = False
        self.place(entry)

    # Reading

    def get(self, key: JobKey) -> Entry:
        """The entry of a job. Raises NotFound."""
        try:
            return self.entries[key]
        except KeyError:
            raise NotFound(f"there is no {key}") from None

    def waiting(self, backend: str) -> int:
        """How many jobs of a backend are QUEUED or HELD."""
        return self._waiting[backend]

    def waiting_of(self, query: Query) -> int | None:
        """The answer to a query for all waiting jobs of a backend, read or not; None: it is another query."""
        plain = Query(backend=query.backend, states=query.states, limit=query.limit)
        if query.backend is None or query != plain or set(query.states) != set(_WAITING):
            return None
        return self.waiting(query.backend)

    def held_by(self, session: str) -> list[Job]:
        """The jobs that a session holds."""
        return [job for key in self._by_session.get(session, ()) if (job := self.entries[key].job)]

    def position(self, job: Job, limit: int) -> int:
        """How many queued jobs come before this one."""
        queue = self._queues.get(job.key.backend, [])
        return min(limit, bisect_left(queue, (job.rank, job.seq, job.key)))

    def next_due(self) -> datetime | None:
        """The earliest due time of any job."""
        return self._due[0][0] if self._due else None

    def find(self, query: Query) -> Page:
        """Jobs by query, in pages."""
        place = _by_due if query.due_before is not None else _by_seq
        jobs = sorted(self._matches(query), key=place, reverse=query.newest_first)
        if query.cursor:
            at = msgspec.json.decode(query.cursor, type=_Cursor)
            jobs = [job for job in jobs if (place(job) < at if query.newest_first else place(job) > at)]
        page = jobs[: query.limit]
        more = len(jobs) > len(page) and page
        return Page(page, msgspec.json.encode(place(page[-1])).decode() if more else "")

    def count(self, query: Query) -> int:
        """How many jobs match, up to the limit."""
        return sum(1 for _ in islice(self._matches(query), query.limit))

    def _matches(self, query: Query) -> Iterator[Job]:
        for key in self._candidates(query):
            entry = self.entries.get(key)
            if entry is not None and entry.job is not None and self._is_match(entry.job, query):
                yield entry.job

    def _candidates(self, query: Query) -> Iterable[JobKey]:
        """The smallest known set of jobs in which all that match are."""
        if query.id is not None:
            return [JobKey(backend, query.id) for backend in self._backends]
        if query.session is not None:
            return self._by_session.get(query.session, ())
        if query.orphaned:
            lost = (keys for session, keys in self._by_session.items() if self._sessions.is_gone(session))
            return (key for keys in lost for key in keys)
        if query.due_before is not None:
            until = query.due_before + timedelta(microseconds=1)
            return (key for _, _, key in self._due[: bisect_left(self._due, (until,))])
        if query.states:
            return (key for state in set(query.states) for key in self._by_state[state])
        return self.entries

    def _is_match(self, job: Job, query: Query) -> bool:
        holder = job.holder
        return (
            (query.id is None or job.key.id == query.id)
            and (query.backend is None or job.key.backend == query.backend)
            and (query.owner is None or job.owner == query.owner)
            and (not query.states or job.state in query.states)
            and all(job.labels.get(name) == value for name, value in query.labels.items())
            and (query.session is None or (holder is not None and holder.session == query.session))
            and (query.due_before is None or (job.due_at is not None and job.due_at <= query.due_before))
            and (not query.orphaned or (holder is not None and self._sessions.is_gone(holder.session)))
        )


def cursor_after(job: Job) -> str:
    """The cursor after a job in the order of `seq`."""
    return msgspec.json.encode(_by_seq(job)).decode()


def _by_seq(job: Job) -> _Cursor:
    return (job.seq, 0, job.key.backend, job.key.id)


def _by_due(job: Job) -> _Cursor:
    due = job.due_at or datetime.max.replace(tzinfo=UTC)
    return ((due - _EPOCH) // timedelta(microseconds=1), job.seq, job.key.backend, job.key.id)
