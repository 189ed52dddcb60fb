"""What the index knows of the files: rows of our own beside the engine's.

No row tells what is still to be written. Each commit gives the jobs that it changes the next numbers, in the
same transaction; `projected` is the number up to which the files are written and synced. What lies beyond
is to be (re)done: so nothing can be forgotten between a commit and its files, and submits and commits
write no more than on SQLite alone.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from spoolway_providers.errors import Corrupt, LoginRefused
from spoolway_providers.local.layout import Naming, Place
from spoolway_providers.model import Job, JobKey
from spoolway_providers.sqlite.documents import decode_job
from spoolway_providers.sqlite.writer import Transaction, one_by_one

__all__ = [
    "REBUILT_ALL",
    "REBUILT_QUEUE",
    "FileRow",
    "Gone",
    "Pending",
    "PendingPage",
    "Placed",
    "Projected",
    "acknowledge",
    "failed",
    "job_files",
    "open_tables",
    "pending",
    "projected",
    "rebuilt",
    "set_rebuilt",
]

SCHEMA = 1

_TABLES = (
    """
    CREATE TABLE IF NOT EXISTS local_meta(
        schema INTEGER NOT NULL,
        naming TEXT NOT NULL,
        projected INTEGER NOT NULL,  -- files of changes up to this number are written and synced
        rebuilt INTEGER NOT NULL     -- how far a new index has taken over what lay in the folders
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS local_files(
        seq INTEGER PRIMARY KEY,     -- of the job
        backend TEXT NOT NULL,
        id TEXT NOT NULL,
        user TEXT NOT NULL,          -- the folder of its owner, where the layout has one
        place TEXT NOT NULL,         -- where its file lies, or is about to
        has_result INTEGER NOT NULL, -- whether its result is a file by now
        UNIQUE (id, backend)
    )
    """,
    "CREATE INDEX IF NOT EXISTS local_files_queued ON local_files(backend, id) WHERE place = 'queued'",
    """
    CREATE TABLE IF NOT EXISTS local_uploads(
        blob TEXT PRIMARY KEY,       -- id of a staged blob that does not name its job and is a file by now
        seq INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS local_configs(
        backend TEXT PRIMARY KEY,
        etag TEXT NOT NULL           -- of the file when we last read or wrote it
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS local_failed(
        backend TEXT NOT NULL,
        id TEXT NOT NULL,            -- of a job whose files can't be written, while others' can
        PRIMARY KEY (id, backend)
    )
    """,
)

REBUILT_NOTHING, REBUILT_QUEUE, REBUILT_ALL = 0, 1, 2


class FileRow(msgspec.Struct, frozen=True):
    """What is known of a job's files."""

    user: str
    place: Place
    has_result: bool = False


class Pending(msgspec.Struct, frozen=True):
    """A job whose files are behind."""

    job: Job
    row: FileRow | None
    """None: it has no files yet."""
    change: int = 0
    """The number of its newest commit."""


class Gone(msgspec.Struct, frozen=True):
    """A deleted job whose files are there still."""

    key: JobKey
    row: FileRow | None


class PendingPage(msgspec.Struct, frozen=True):
    """What is behind, in the order of the commits."""

    jobs: list[Pending]
    gone: list[Gone]
    upto: int
    """Once these are done nothing is behind up to this number."""
    more: bool


class Placed(msgspec.Struct, frozen=True):
    """The files of a job, written and synced."""

    seq: int
    key: JobKey
    row: FileRow


class Projected(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and is on the disk."""

    upto: int
    files: Sequence[Placed] = ()
    blobs: Sequence[str] = ()
    """Ids of blobs that are files by now: the index may forget them."""
    uploads: Sequence[tuple[str, int]] = ()
    """Staged blobs that are files by now, each with the `seq` of its job."""
    gone: Sequence[JobKey] = ()
    failed: Sequence[JobKey] = ()
    mended: Sequence[JobKey] = ()


@one_by_one
def open_tables(transaction: Transaction, naming: Naming) -> None:
    """Make our tables, or check that they are of today and of this layout.

    Raises:
        Corrupt: a newer version's.
        LoginRefused: the folder has the other layout.
    """
    connection = transaction.connection
    for statement in _TABLES:
        connection.execute(statement)
    found = connection.execute("SELECT schema, naming FROM local_meta").fetchone()
    if found is None:
        row = (SCHEMA, naming.value, REBUILT_NOTHING)
        connection.execute("INSERT INTO local_meta VALUES (?, ?, 0, ?)", row)
        return
    schema, known = found
    if schema > SCHEMA:
        raise Corrupt(f"the folder's index has schema {schema}, and this program knows up to {SCHEMA}")
    if known != naming:
        raise LoginRefused(f"the folder was set up with layout = {known!r}, not {naming.value!r}")


def rebuilt(connection: sqlite3.Connection, _: None = None) -> int:
    """How far a new index has taken over what lay in the folders."""
    return int(connection.execute("SELECT rebuilt FROM local_meta").fetchone()[0])


@one_by_one
def set_rebuilt(transaction: Transaction, stage: int) -> None:
    """Note how far that is."""
    transaction.connection.execute("UPDATE local_meta SET rebuilt = ?", (stage,))


def projected(connection: sqlite3.Connection, _: None = None) -> tuple[int, int]:
    """Up to which number the files are written, and the newest number."""
    row = connection.execute("SELECT projected, (SELECT change FROM meta) FROM local_meta").fetchone()
    return int(row[0]), int(row[1])


def pending(connection: sqlite3.Connection, limit: int) -> PendingPage:
    """At most `limit` jobs of each kind whose files are behind, the oldest commit first."""
    after, upto = projected(connection)
    jobs = connection.execute(
        "SELECT j.change, j.doc, f.user, f.place, f.has_result"
        " FROM jobs j LEFT JOIN local_files f ON f.seq = j.seq WHERE j.change > ? ORDER BY j.change LIMIT ?",
        (after, limit),
    ).fetchall()
    gone = connection.execute(
        "SELECT t.change, t.backend, t.id, f.user, f.place, f.has_result FROM tombstones t"
        " LEFT JOIN local_files f ON f.id = t.id AND f.backend = t.backend"
        " WHERE t.change > ? ORDER BY t.change LIMIT ?",
        (after, limit),
    ).fetchall()
    full = [rows[-1][0] for rows in (jobs, gone) if len(rows) == limit]
    upto = min([upto, *full])
    return PendingPage(
        [Pending(decode_job(doc), _row(*row), change) for change, doc, *row in jobs if change <= upto],
        [Gone(JobKey(name, job_id), _row(*row)) for change, name, job_id, *row in gone if change <= upto],
        upto,
        more=bool(full),
    )


def failed(connection: sqlite3.Connection) -> PendingPage:
    """The jobs whose files could not be written, or removed, the last time."""
    rows = connection.execute(
        "SELECT l.backend, l.id, j.doc, f.user, f.place, f.has_result FROM local_failed l"
        " LEFT JOIN jobs j USING (id, backend) LEFT JOIN local_files f USING (id, backend)"
    ).fetchall()
    return PendingPage(
        [Pending(decode_job(doc), _row(*row)) for _, _, doc, *row in rows if doc is not None],
        [Gone(JobKey(name, job_id), _row(*row)) for name, job_id, doc, *row in rows if doc is None],
        upto=0,
        more=False,
    )


def job_files(connection: sqlite3.Connection, key: JobKey) -> tuple[Job, FileRow] | None:
    """A job that has files, and what is known of them."""
    row = connection.execute(
        "SELECT j.doc, f.user, f.place, f.has_result FROM jobs j JOIN local_files f ON f.seq = j.seq"
        " WHERE j.id = ? AND j.backend = ?",
        (key.id, key.backend),
    ).fetchone()
    if row is None:
        return None
    doc, user, place, has_result = row
    return decode_job(doc), FileRow(user, Place(place), bool(has_result))


def _row(user: str | None, place: str | None, has_result: int | None) -> FileRow | None:
    return None if user is None or place is None else FileRow(user, Place(place), bool(has_result))


@one_by_one
def acknowledge(transaction: Transaction, done: Projected) -> None:
    """The files are on the disk: note where, and forget their bytes."""
    connection = transaction.connection
    connection.executemany(
        "INSERT OR REPLACE INTO local_files(seq, backend, id, user, place, has_result)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (one.seq, one.key.backend, one.key.id, one.row.user, one.row.place.value, one.row.has_result)
            for one in done.files
        ],
    )
    connection.executemany("DELETE FROM blobs WHERE id = ?", [(blob,) for blob in done.blobs])
    connection.executemany("INSERT OR REPLACE INTO local_uploads(blob, seq) VALUES (?, ?)", done.uploads)
    if done.gone:
        _forget(connection, done.gone)
    connection.executemany(
        "INSERT OR IGNORE INTO local_failed(backend, id) VALUES (?, ?)", _pairs(done.failed)
    )
    connection.executemany("DELETE FROM local_failed WHERE backend = ? AND id = ?", _pairs(done.mended))
    connection.execute("UPDATE local_meta SET projected = max(projected, ?)", (done.upto,))


def _forget(connection: sqlite3.Connection, gone: Iterable[JobKey]) -> None:
    keys = _pairs(gone)
    connection.executemany(
        "DELETE FROM local_uploads WHERE seq IN (SELECT seq FROM local_files WHERE backend = ? AND id = ?)",
        keys,
    )
    connection.executemany("DELETE FROM local_files WHERE backend = ? AND id = ?", keys)
    connection.executemany("DELETE FROM local_failed WHERE backend = ? AND id = ?", keys)


def _pairs(keys: Iterable[JobKey]) -> list[tuple[str, str]]:
    return [(key.backend, key.id) for key in keys]
