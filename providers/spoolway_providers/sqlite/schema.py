"""The file: how it is opened, what lies in it, and how an older one becomes today's.

One counter, `meta.change`, numbers every change in the order of commits, as there is one write
transaction at a time; a job's `seq` is the number of its submit, so that it is known before the row is
written and never used again. A job's document lies in `doc`; the other columns are what is searched.
"""

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

from spoolway_providers.errors import Corrupt, LoginRefused, Unavailable
from spoolway_providers.sqlite.faults import code_of, fault_of

__all__ = ["SCHEMA_VERSION", "connect", "prepare"]

APPLICATION_ID = 0x53706F6F
"""`Spoo`: tells `file` and us whose file it is."""

_PAUSE_S = 0.005
_CACHE_KIB = 2 * 1024
"""Of each of three connections. The system caches the file anyway; a large result would only fill ours."""
_CHECKPOINT_PAGES = 4_000
"""16 MB of log between checkpoints: each costs two syncs."""


def connect(path: Path, *, busy_timeout_s: float, read_only: bool) -> sqlite3.Connection:
    """A connection to a prepared file, in autocommit mode; one that writes does not wait for locks itself.

    Raises:
        sqlite3.Error: as SQLite says.
    """
    connection = sqlite3.connect(
        path,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA query_only = ON" if read_only else "PRAGMA busy_timeout = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(path: Path, *, busy_timeout_s: float) -> None:
    """Create the file, or check that it is ours and bring it to today's schema.

    Raises:
        Corrupt: it is no file of ours, or a newer version's.
        LoginRefused: this process may not use the path.
        Unavailable: the disk does not let us.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise LoginRefused(f"the path {path} can't be used: {error.strerror}") from error
    except OSError as error:
        raise Unavailable(f"the folder of {path} can't be made: {error.strerror}") from error
    except sqlite3.Error as error:
        if path.is_dir():
            raise LoginRefused(f"the path {path} is a folder; name a file in it") from error
        raise fault_of(error) from error
    deadline = monotonic() + busy_timeout_s
    try:
        while not _is_prepared(connection, path):
            if monotonic() > deadline:
                raise Unavailable(f"{path} is locked by another program")
            sleep(_PAUSE_S)
    except sqlite3.Error as error:
        raise fault_of(error) from error
    finally:
        connection.close()


def _is_prepared(connection: sqlite3.Connection, path: Path) -> bool:
    """Prepare the file; False if another process is about it: SQLite doesn't wait for all its locks."""
    try:
        _check_owner(connection, path)
        _use_log(connection)
        _migrate(connection, path)
    except sqlite3.OperationalError as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if code_of(error) != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    """Before anything is written: a file of another program stays as it is."""
    connection.execute("BEGIN")
    owner = _pragma(connection, "application_id")
    is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    connection.execute("COMMIT")
    if owner != APPLICATION_ID and not (owner == 0 and is_empty):
        raise Corrupt(f"{path} is an SQLite file, but not one of Spoolway's")


def _use_log(connection: sqlite3.Connection) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise Unavailable(f"SQLite can't keep a write-ahead log here (it says {mode!r})")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = _pragma(connection, "user_version")
    if version > SCHEMA_VERSION:
        raise Corrupt(
            f"{path} has schema version {version}, and this program knows up to {SCHEMA_VERSION}; "
            "use the newer program that wrote it"
        )
    while version < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        # Read again under the lock: another process may have taken the step meanwhile.
        version = _pragma(connection, "user_version")
        if version < SCHEMA_VERSION:
            _STEPS[version](connection)
            version += 1
            connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in _VERSION_1:
        connection.execute(statement)
    connection.execute(
        "INSERT INTO meta(change, ranked_at, swept, epoch) VALUES (0, 0, 0, ?)", (secrets.token_hex(4),)
    )


def _index_owners(connection: sqlite3.Connection) -> None:
    """Without it, listing the jobs of one owner read all jobs."""
    connection.execute("CREATE INDEX jobs_by_owner ON jobs(owner)")


def _keep_public_keys(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE public_keys(kid TEXT PRIMARY KEY, document BLOB NOT NULL)")


def _keep_rounds(connection: sqlite3.Connection) -> None:
    """For backends on which owners take turns."""
    connection.execute(
        "CREATE TABLE rounds(backend TEXT NOT NULL, owner TEXT NOT NULL, round INTEGER NOT NULL,"
        " PRIMARY KEY (backend, owner)) WITHOUT ROWID"
    )


_VERSION_1 = (
    """
    CREATE TABLE meta(
        change INTEGER NOT NULL,     -- the newest change's number
        ranked_at INTEGER NOT NULL,  -- microseconds; the latest time that ranked a job: never runs backwards
        swept INTEGER NOT NULL,      -- the newest tombstone's number that is gone: older cursors are too old
        epoch TEXT NOT NULL          -- tells this file's cursors from another's
    )
    """,
    """
    CREATE TABLE jobs(
        seq INTEGER PRIMARY KEY,     -- the number of the submit
        id TEXT NOT NULL,
        backend TEXT NOT NULL,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        rank INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        change INTEGER NOT NULL,     -- the number of the newest commit
        session TEXT,                -- who holds it; not null in CLAIMED, RUNNING, CANCELLING only
        due_at INTEGER,              -- microseconds since 1970
        doc TEXT NOT NULL,           -- the job as JSON
        UNIQUE (id, backend)
    )
    """,
    "CREATE INDEX jobs_waiting ON jobs(backend, state, rank) WHERE state IN ('QUEUED', 'HELD')",
    "CREATE INDEX jobs_held ON jobs(session) WHERE session IS NOT NULL",
    "CREATE INDEX jobs_due ON jobs(due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX jobs_by_change ON jobs(change)",
    """
    CREATE TABLE tombstones(
        change INTEGER PRIMARY KEY,
        backend TEXT NOT NULL,
        id TEXT NOT NULL,
        at INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE requests(
        owner TEXT NOT NULL,
        backend TEXT NOT NULL,
        request_id TEXT NOT NULL,
        fingerprint TEXT NOT NULL,   -- empty agrees with all
        id TEXT NOT NULL,            -- of the job
        at INTEGER NOT NULL,         -- rows lie in this order: the oldest are swept without a search
        UNIQUE (owner, backend, request_id)
    )
    """,
    "CREATE TABLE blobs(id TEXT PRIMARY KEY, data BLOB NOT NULL)",
    """
    CREATE TABLE uploads(
        id TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        written_at INTEGER NOT NULL,
        committed INTEGER NOT NULL   -- whether a job names it
    )
    """,
    "CREATE INDEX uploads_staged ON uploads(written_at) WHERE NOT committed",
    """
    CREATE TABLE chunks(
        upload TEXT NOT NULL,
        offset INTEGER NOT NULL,
        data BLOB NOT NULL,
        UNIQUE (upload, offset)
    )
    """,
    """
    CREATE TABLE sessions(
        id TEXT PRIMARY KEY,
        principal TEXT NOT NULL,
        spooler_id TEXT NOT NULL,
        state TEXT NOT NULL,
        beat INTEGER NOT NULL,
        detached INTEGER NOT NULL,
        reason TEXT NOT NULL,
        closed_at INTEGER,
        doc TEXT NOT NULL            -- as opened; the columns are newer
    )
    """,
    "CREATE INDEX sessions_live ON sessions(principal, spooler_id) WHERE state = 'LIVE'",
    """
    CREATE TABLE backends(
        name TEXT PRIMARY KEY,
        config BLOB NOT NULL,
        config_etag TEXT NOT NULL,
        policy TEXT,
        policy_etag TEXT NOT NULL
    )
    """,
    "CREATE TABLE probes(id TEXT PRIMARY KEY, revision INTEGER NOT NULL)",
)

_STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _create,
    _index_owners,
    _keep_public_keys,
    _keep_rounds,
)
"""The step at index n makes version n + 1 of version n."""

SCHEMA_VERSION = len(_STEPS)
