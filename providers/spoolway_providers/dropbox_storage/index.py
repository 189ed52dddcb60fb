"""All jobs in the owner's memory, by what is asked for: the storage itself is never searched."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import msgspec

from spoolway_providers.dropbox_storage.entries import Entry, QueuePlace
from spoolway_providers.dropbox_storage.feed import Feed
from spoolway_providers.dropbox_storage.sessions import Sessions
from spoolway_providers.errors import NotFound
from spoolway_providers.interface import Page, Query
from spoolway_providers.model import Job, JobKey, State

__all__ = ["Index"]

_WAITING = (State.QUEUED, State.HELD)
_EPOCH = datetime.fromtimestamp(0, UTC)
_Place = tuple[int, int, str, str]


class Index:
    """Jobs by key, state, session, due time and place in the queue."""

    def __init__(self, feed: Feed, sessions: Sessions) -> None:
        self.entries: dict[JobKey, Entry] = {}
        self.unread: set[JobKey] = set()
        """Jobs whose status has not been read yet."""
        self._feed = feed
        self._sessions = sessions
        self._by_state: dict[State, set[JobKey]] = {state: set() for state in State}
        self._by_session: dict[str, set[JobKey]] = {}
        self._waiting: Counter[str] = Counter()
        self._queues: dict[str, list[QueuePlace]] = {}
        self._due: list[tuple[datetime, int, JobKey]] = []

    # Changing

    def add(self, entry: Entry) -> None:
        """There is a job, of which nothing is known but its name and place."""
        self.entries[entry.key] = entry
        if entry.job is None:
            self.unread.add(entry.key)
        self.place(entry)

    def put(self, entry: Entry, job: Job) -> None:
        """This is what everybody reads of the job from now on."""
        known = self.entries.setdefault(entry.key, entry)
        before, known.job = known.job, job
        self.unread.discard(entry.key)
        if before == job:
            return
        self._forget_facts(before)
        self._by_state[job.state].add(job.key)
        self._waiting[job.key.backend] += job.state in _WAITING
        if job.holder is not None:
            self._by_session.setdefault(job.holder.session, set()).add(job.key)
        if job.due_at is not None:
            insort(self._due, (job.due_at, job.seq, job.key))
        self.place(known)
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
        self.unread.discard(entry.key)
        self._forget_facts(entry.job)
        entry.reserved = True
        self.place(entry)
        self._feed.note_deleted(entry.key)

    def _forget_facts(self, job: Job | None) -> None:
        if job is None:
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

    def reserve_heads(self, backend: str, number: int) -> list[Entry]:
        """Take the first jobs out of the queue, for whoever claims them."""
        heads = [self.entries[key] for _, _, key in self._queues.get(backend, [])[:number]]
        for entry in heads:
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
        unread = sum(1 for key in self.unread if key.backend == backend)
        return self._waiting[backend] + unread

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
            at = msgspec.json.decode(query.cursor, type=_Place)
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


def _by_seq(job: Job) -> _Place:
    return (job.seq, 0, job.key.backend, job.key.id)


def _by_due(job: Job) -> _Place:
    due = job.due_at or datetime.max.replace(tzinfo=UTC)
    return ((due - _EPOCH) // timedelta(microseconds=1), job.seq, job.key.backend, job.key.id)
