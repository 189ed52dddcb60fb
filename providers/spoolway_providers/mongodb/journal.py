"""What has changed, as this process found out: by its own writes, by the change stream, and by looking.

MongoDB has no number that follows the order of commits: a change's number is made when its write begins,
so a write that was slow becomes visible after higher numbers were read. Therefore a look begins some time
before the newest number known, and what it finds is compared with the revisions known already; a change
stream names those that came still later. What is new gets a position of its own in this process's log,
and a cursor of this process is a position. To other processes and after a restart the number in the
cursor counts: they read from well before it, so some changes come twice, but none is left out.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from datetime import timedelta
from itertools import takewhile
from time import monotonic

import msgspec

from spoolway_providers.model import JobKey, State
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import Document
from spoolway_providers.mongodb.numbers import number_span

__all__ = ["Entry", "Journal", "News"]

_OVERLAP = number_span(timedelta(seconds=1))
"""A look begins so far before the newest number: a write takes milliseconds from its number to its end."""
DEEP_OVERLAP = number_span(timedelta(seconds=30))
"""Now and then, and for others' cursors, a look begins so far back: longer than any write may last."""
_DEEP_EVERY_S = 5.0
_DEEP_WHILE_S = 60.0
_LONGEST_LOG = 20_000
_PAGE = 5_000


class Entry(msgspec.Struct, frozen=True):
    """The newest change of a job, as this process learned of it."""

    position: int
    key: JobKey
    revision: int
    after: int
    """The newest number of the look before: another process that reads from there on finds it too."""


class News(msgspec.Struct, frozen=True):
    """A change that was not known before."""

    key: JobKey
    is_queued: bool


class Journal:
    """The log of one process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()
        self._log: OrderedDict[str, Entry] = OrderedDict()
        self._late: set[str] = set()
        self._advanced_at = self._looked_deep_at = 0.0
        self.position = 0
        """Of the newest entry."""
        self.forgotten = 0
        """The newest position that is gone: cursors from before are of no use."""
        self.number = 0
        """The newest number that a look has found."""
        self.swept = 0
        """The newest tombstone's number that this process knows to be gone."""

    def note(self, key: JobKey, revision: int) -> bool:
        """Remember a change that was committed; whether that is news."""
        known = self._log.get(key.id)
        if known is not None and known.revision >= revision:
            return False
        self.position += 1
        self._log[key.id] = Entry(self.position, key, revision, self.number)
        self._log.move_to_end(key.id)
        if len(self._log) > _LONGEST_LOG:
            _, oldest = self._log.popitem(last=False)
            self.forgotten = oldest.position
        return True

    def after(self, position: int) -> list[Entry]:
        """Of each job that has changed since, the newest change; the oldest first."""
        newest_first = takewhile(lambda entry: entry.position > position, reversed(self._log.values()))
        return list(newest_first)[::-1]

    def note_late(self, job_id: str, number: int) -> None:
        """A change stream has a change with this number: if no look will find it, look for it by its id."""
        if number <= self.number - _OVERLAP:
            self._late.add(job_id)

    async def begin(self) -> None:
        """Start at the newest change there is."""
        with self._connection.reading():
            newest = await self._connection["jobs"].find_one({}, {"change": 1}, sort=[("change", -1)])
        number = int(newest["change"]) if newest else 0
        if number > self.number:
            self.number = number
            self._connection.numbers.learn(number)
        async with self._lock:
            await self._look(DEEP_OVERLAP)

    async def look(self) -> list[News]:
        """Find what is new in the storage."""
        async with self._lock:
            return await self._look(self._overlap())

    def _overlap(self) -> int:
        """Look back far now and then, for a while after something has happened."""
        now = monotonic()
        is_quiet = now - self._advanced_at > _DEEP_WHILE_S
        if is_quiet or now - self._looked_deep_at < _DEEP_EVERY_S:
            return _OVERLAP
        self._looked_deep_at = now
        return DEEP_OVERLAP

    async def _look(self, overlap: int) -> list[News]:
        late = sorted(self._late)
        query: Document = {"change": {"$gt": self.number - overlap}}
        if late:
            query = {"$or": [query, {"_id": {"$in": late}}]}
        fields = {"backend": 1, "rev": 1, "change": 1, "state": 1}
        with self._connection.reading():
            found = self._connection["jobs"].find(query, fields, batch_size=_PAGE).sort("change")
            documents = await found.to_list()
        self._late.difference_update(late)
        return self._take(documents)

    def _take(self, documents: Iterable[Document]) -> list[News]:
        news = []
        number = self.number
        for document in documents:
            key = JobKey(document["backend"], document["_id"])
            if self.note(key, document["rev"]):
                news.append(News(key, document.get("state") == State.QUEUED))
            number = max(number, int(document["change"]))
        if number > self.number:
            self._connection.numbers.learn(number)
            self.number = number
            self._advanced_at = monotonic()
        return news
