"""Reading jobs. Each function sees one snapshot of the file."""

import sqlite3
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from spoolway_providers.errors import CursorTooOld, NotFound
from spoolway_providers.interface import Changes, Page, Query
from spoolway_providers.model import ACTIVE_STATES, Job, JobKey, State
from spoolway_providers.sqlite.documents import decode_job, from_microseconds, to_microseconds

__all__ = [
    "ChangesAsked",
    "PositionAsked",
    "changes",
    "count",
    "cursor_of",
    "find",
    "get",
    "next_due",
    "numbering",
    "position",
]

_WAITING_STATES = frozenset({State.QUEUED, State.HELD})


class PositionAsked(msgspec.Struct, frozen=True):
    """Whose place in the queue, up to which number."""

    job: Job
    limit: int


class ChangesAsked(msgspec.Struct, frozen=True):
    """Changes after which number, and how many."""

    after: int
    limit: int


class Numbering(msgspec.Struct, frozen=True):
    """How far the numbers of changes have come."""

    newest: int
    swept: int
    """The newest tombstone's number that is gone: what lies before is not known any more."""
    epoch: str
    """Tells this file's cursors from another's."""

    def cursor(self, number: int) -> str:
        """A cursor from which what comes after `number` is to be seen."""
        return f"{self.epoch}-{number}"

    def number(self, cursor: str) -> int:
        """The number in a cursor. Raises CursorTooOld if it can't be gone on from."""
        epoch, _, digits = cursor.partition("-")
        number = int(digits) if digits.isdecimal() else -1
        if epoch != self.epoch or not self.swept <= number <= self.newest:
            raise CursorTooOld(f"the changes since {cursor!r} are not known any more")
        return number


def get(connection: sqlite3.Connection, key: JobKey) -> Job:
    """The committed job."""
    row = connection.execute(
        "SELECT doc FROM jobs WHERE id = ? AND backend = ?", (key.id, key.backend)
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no {key}")
    return decode_job(row[0])


def find(connection: sqlite3.Connection, query: Query) -> Page:
    """A page of the jobs that match; one row more tells whether there is another page."""
    source, where, values = _conditions(query)
    place = "due_at, seq" if query.due_before is not None else "seq"
    order, beyond = ("DESC", "<") if query.newest_first else ("ASC", ">")
    if query.cursor:
        at = [int(part) for part in query.cursor.split(":")]
        where += f" AND ({place}) {beyond} ({', '.join('?' * len(at))})"
        values += at
    order_by = ", ".join(f"{column} {order}" for column in place.split(", "))
    rows = connection.execute(
        f"SELECT doc, {place} FROM {source} WHERE {where} ORDER BY {order_by} LIMIT ?",  # noqa: S608
        (*values, query.limit + 1),
    ).fetchall()
    page = rows[: query.limit]
    cursor = cursor_of(page[-1][1:]) if len(rows) > len(page) and page else ""
    return Page([decode_job(row[0]) for row in page], cursor)


def cursor_of(place: Iterable[int]) -> str:
    """The cursor after a job at this place in the order of `find`."""
    return ":".join(map(str, place))


def count(connection: sqlite3.Connection, query: Query) -> int:
    """How many match, up to the query's limit."""
    source, where, values = _conditions(query)
    row = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {source} WHERE {where} LIMIT ?)",  # noqa: S608
        (*values, query.limit),
    ).fetchone()
    return int(row[0])


def _conditions(query: Query) -> tuple[str, str, list[Any]]:
    """The query in SQL: where to look, fixed words, and all that a user gave as values."""
    terms: list[tuple[str, list[Any]]] = [("1", [])]
    if query.id is not None:
        terms.append(("id = ?", [query.id]))
    if query.backend is not None:
        terms.append(("backend = ?", [query.backend]))
    if query.owner is not None:
        terms.append(("owner = ?", [query.owner]))
    if query.states:
        marks = ", ".join("?" * len(query.states))
        terms.append((f"state IN ({marks})", [state.value for state in query.states]))
    for name, value in query.labels.items():
        exists = "EXISTS (SELECT 1 FROM json_each(jobs.doc, '$.labels') AS l WHERE l.key = ? AND l.value = ?)"
        terms.append((exists, [name, value]))
    if query.session is not None:
        terms.append(("session = ?", [query.session]))
    if query.due_before is not None:
        terms.append(("due_at <= ?", [to_microseconds(query.due_before)]))
    if query.orphaned:
        open_sessions = "SELECT id FROM sessions WHERE state <> 'CLOSED'"
        terms.append((f"session <> '' AND session NOT IN ({open_sessions})", []))
    source, term = _source(query)
    terms.append((term, []))
    return source, " AND ".join(t for t, _ in terms), [value for _, values in terms for value in values]


def _source(query: Query) -> tuple[str, str]:
    """The table, by the index of the few jobs that may match; and what is true of them, in its words.

    Left to itself SQLite would rather walk through all jobs in order than sort a few.
    """
    if query.due_before is not None or query.id is not None:
        return "jobs", "1"
    is_active = bool(query.states) and ACTIVE_STATES.issuperset(query.states)
    if query.session is not None or query.orphaned or is_active:
        return "jobs INDEXED BY jobs_held", "session IS NOT NULL"
    if query.states and _WAITING_STATES.issuperset(query.states):
        return "jobs", "state IN ('QUEUED', 'HELD')"
    return "jobs", "1"


def position(connection: sqlite3.Connection, asked: PositionAsked) -> int:
    """How many come before."""
    job = asked.job
    row = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE backend = ? AND state = 'QUEUED'"
        " AND state IN ('QUEUED', 'HELD') AND rank <= ? AND (rank < ? OR seq < ?) LIMIT ?)",
        (job.key.backend, job.rank, job.rank, job.seq, asked.limit),
    ).fetchone()
    return int(row[0])


def next_due(connection: sqlite3.Connection, _: None) -> datetime | None:
    """The earliest due time."""
    row = connection.execute("SELECT min(due_at) FROM jobs WHERE due_at IS NOT NULL").fetchone()
    return None if row[0] is None else from_microseconds(row[0])


def numbering(connection: sqlite3.Connection, _: None) -> Numbering:
    """How far the numbers of changes have come."""
    return Numbering(*connection.execute("SELECT change, swept, epoch FROM meta").fetchone())


def changes(connection: sqlite3.Connection, asked: ChangesAsked) -> Changes:
    """What was committed after the number `after`, by number."""
    now = numbering(connection, None)
    rows = connection.execute(
        "SELECT * FROM (SELECT change, doc, NULL, NULL FROM jobs WHERE change > ?1 ORDER BY change LIMIT ?2)"
        " UNION ALL"
        " SELECT * FROM"
        " (SELECT change, NULL, backend, id FROM tombstones WHERE change > ?1 ORDER BY change LIMIT ?2)"
        " ORDER BY 1 LIMIT ?2",
        (asked.after, asked.limit + 1),
    ).fetchall()
    page = rows[: asked.limit]
    more = len(rows) > len(page)
    return Changes(
        [decode_job(doc) for _, doc, _, _ in page if doc is not None],
        [JobKey(backend, job_id) for _, doc, backend, job_id in page if doc is None],
        now.cursor(page[-1][0] if more else now.newest),
        more,
    )
