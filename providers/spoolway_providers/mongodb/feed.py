"""`changes`: cursors, and what lies behind them.

A cursor is one of two kinds: `j<epoch>.<process>.<number>.<position>` is a position in the journal of the
process that gave it, and to all others the number from which to read. While such a reading goes on it is
`r<epoch>.<process>.<position>.<number>.<id>`: read on after this number and id, then at this position.
"""

import re
from collections.abc import Sequence

import msgspec

from spoolway_providers.errors import CursorTooOld
from spoolway_providers.interface import Changes
from spoolway_providers.model import new_token
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import JOB_FIELDS, Document, job_of, key_of
from spoolway_providers.mongodb.journal import DEEP_OVERLAP, Journal

__all__ = ["Feed"]

_JOURNAL_CURSOR = re.compile(r"j([0-9a-f]+)\.([0-9a-f]+)\.(\d{1,18})\.(\d{1,18})")
_READING_CURSOR = re.compile(r"r([0-9a-f]+)\.([0-9a-f]+)\.(\d{1,18})\.(\d{1,18})\.(.*)", re.DOTALL)


class _Reading(msgspec.Struct, frozen=True):
    """A reading by numbers, and the place in the journal where it ends."""

    number: int
    after_id: str
    position: int


class Feed:
    """Answers `changes` for one process."""

    def __init__(self, connection: Connection, journal: Journal) -> None:
        self._connection = connection
        self._journal = journal
        self._process = new_token()[:12]

    async def changes(self, cursor: str, limit: int) -> Changes:
        """See the interface."""
        journal = self._journal
        await journal.look()
        if not cursor:
            return Changes([], [], self._at(journal.position, journal.number), more=False)
        place = await self._place(cursor)
        if isinstance(place, int):
            return await self._from_journal(place, limit)
        return await self._by_number(place, limit)

    async def _place(self, cursor: str) -> int | _Reading:
        """Where a cursor points to."""
        if found := _JOURNAL_CURSOR.fullmatch(cursor):
            epoch, process, number, position = found[1], found[2], int(found[3]), int(found[4])
            reading = _Reading(number - DEEP_OVERLAP, "", self._journal.position)
        elif found := _READING_CURSOR.fullmatch(cursor):
            epoch, process, number, position = found[1], found[2], int(found[4]), -1
            is_ours = process == self._process
            reading = (
                _Reading(number, found[5], int(found[3]))
                if is_ours
                else (_Reading(number - DEEP_OVERLAP, "", self._journal.position))
            )
        else:
            raise _too_old(cursor)
        if epoch != self._connection.epoch or number < self._journal.swept:
            raise _too_old(cursor)
        if process == self._process and position >= self._journal.forgotten:
            if position > self._journal.position:
                raise _too_old(cursor)
            return position
        await self._check_not_swept(cursor, number)
        return reading

    async def _check_not_swept(self, cursor: str, number: int) -> None:
        """Refuse a cursor from before a deletion that is forgotten, or from a future that was never."""
        with self._connection.reading():
            found = await self._connection["meta"].find_one({"_id": "swept"})
        swept = int(found["change"]) if found else 0
        if not swept <= number <= self._journal.number:
            raise _too_old(cursor)

    async def _from_journal(self, position: int, limit: int) -> Changes:
        """What the journal has after a position."""
        entries = self._journal.after(position)
        page, rest = entries[:limit], entries[limit:]
        if page:
            position = page[-1].position
        cursor = self._at(position, rest[0].after if rest else self._journal.number)
        documents = await self._documents([entry.key.id for entry in page])
        found = {document["_id"] for document in documents}
        changes = _sorted_out(documents, cursor, more=bool(rest))
        # Deleted, and the tombstone swept meanwhile.
        changes.deleted.extend(entry.key for entry in page if entry.key.id not in found)
        return changes

    async def _documents(self, ids: Sequence[str]) -> list[Document]:
        if not ids:
            return []
        with self._connection.reading():
            return await self._connection["jobs"].find({"_id": {"$in": ids}}, JOB_FIELDS).to_list()

    async def _by_number(self, reading: _Reading, limit: int) -> Changes:
        """What has a number after the reading's; then all that the journal learned since it began."""
        beyond = [{"change": {"$gt": reading.number}}]
        if reading.after_id:
            beyond.append({"change": reading.number, "_id": {"$gt": reading.after_id}})  # type: ignore[dict-item]
        order = [("change", 1), ("_id", 1)]
        with self._connection.reading():
            found = self._connection["jobs"].find({"$or": beyond}, JOB_FIELDS).sort(order)
            documents = await found.limit(limit + 1).to_list()
        page = documents[:limit]
        if len(documents) == len(page):
            # At least what the journal had when the reading began was read.
            return _sorted_out(page, self._at(reading.position, self._journal.number), more=False)
        last = page[-1]
        number, job_id = int(last["change"]), last["_id"]
        cursor = f"r{self._connection.epoch}.{self._process}.{reading.position}.{number}.{job_id}"
        return _sorted_out(page, cursor, more=True)

    def _at(self, position: int, number: int) -> str:
        return f"j{self._connection.epoch}.{self._process}.{number}.{position}"


def _sorted_out(documents: Sequence[Document], cursor: str, *, more: bool) -> Changes:
    jobs = [job_of(document) for document in documents if "seq" in document]
    deleted = [key_of(document) for document in documents if "seq" not in document]
    return Changes(jobs, deleted, cursor, more)


def _too_old(cursor: str) -> CursorTooOld:
    return CursorTooOld(f"the changes since {cursor!r} are not known any more")
