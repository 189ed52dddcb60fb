"""The embedded catalog: one SQLite file, shared by the processes of one host."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import msgspec

from spoolway_server.catalog.interface import (
    AuditPage,
    AuditQuery,
    Catalog,
    CatalogConflict,
    CatalogCorrupt,
    CatalogUnavailable,
    R,
)
from spoolway_server.catalog.model import AuditEvent, Record, from_microseconds, to_microseconds

__all__ = ["IN_MEMORY", "SCHEMA_VERSION", "SqliteCatalog"]

Result = TypeVar("Result")

IN_MEMORY = ":memory:"
"""As a path: a catalog that ends with its process."""
APPLICATION_ID = 0x53706F43
"""`SpoC`: tells `file` and us whose file it is."""
_LOOK_EVERY_S = 0.5
"""How often who waits looks for the changes of other processes: one pragma, without a read of the disk."""
_TIME_LIMIT_S = 10.0
_BUSY_TIMEOUT_S = 5.0
_BUSY_PAUSE_S = 0.02


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE meta(version INTEGER NOT NULL)")
    connection.execute("INSERT INTO meta VALUES (1)")
    connection.execute(
        """
        CREATE TABLE records(
            kind TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, doc TEXT NOT NULL,
            PRIMARY KEY (kind, key)
        ) WITHOUT ROWID
        """
    )
    connection.execute(
        """
        CREATE TABLE audit(
            number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL,   -- microseconds, UTC
            who TEXT NOT NULL, what TEXT NOT NULL, subject TEXT NOT NULL, outcome TEXT NOT NULL,
            detail TEXT NOT NULL
        )
        """
    )


_STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (_create,)
"""The step at index n makes version n + 1 of version n."""

SCHEMA_VERSION = len(_STEPS)


class SqliteCatalog(Catalog):
    """One SQLite file. Every call runs in one thread of its own, none in the event loop."""

    def __init__(self, path: Path | str) -> None:
        """Make one for the file at `path`, which only its owner may read, or IN_MEMORY."""
        self._path = path
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._changed = asyncio.Event()

    async def open(self) -> None:
        """Create or migrate the file; see the interface."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="spoolway-catalog")
        await self._call(lambda connection: None)

    async def close(self) -> None:
        """See the interface."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.submit(self._disconnect)
            await asyncio.to_thread(thread.shutdown)
        self._changed.set()

    async def all(self, kind: type[R]) -> list[R]:
        """See the interface."""
        sql = "SELECT key, revision, doc FROM records WHERE kind = ? ORDER BY key"
        rows = await self._call(lambda connection: connection.execute(sql, (kind.kind,)).fetchall())
        return [_record(kind, *row) for row in rows]

    async def get(self, kind: type[R], key: str) -> R | None:
        """See the interface."""
        sql = "SELECT key, revision, doc FROM records WHERE kind = ? AND key = ?"
        row = await self._call(lambda connection: connection.execute(sql, (kind.kind, key)).fetchone())
        return None if row is None else _record(kind, *row)

    async def put(self, record: R) -> R:
        """See the interface."""
        stored: R = await self._call(lambda connection: _in_transaction(connection, _put, record))
        self._changed.set()
        return stored

    async def delete(self, record: Record) -> None:
        """See the interface."""
        await self._call(lambda connection: _in_transaction(connection, _delete, record))
        self._changed.set()

    async def note(self, event: AuditEvent) -> None:
        """See the interface."""
        sql = "INSERT INTO audit(at, who, what, subject, outcome, detail) VALUES (?, ?, ?, ?, ?, ?)"
        values = (
            to_microseconds(event.at),
            event.who,
            event.what,
            event.subject,
            event.outcome,
            event.detail,
        )
        await self._call(lambda connection: connection.execute(sql, values))

    async def events(self, query: AuditQuery) -> AuditPage:
        """See the interface."""
        return await self._call(lambda connection: _events(connection, query))

    async def version(self) -> int:
        """See the interface."""
        return await self._call(_version)

    async def wait(self, version: int, timeout: timedelta) -> int:
        """See the interface."""
        deadline = monotonic() + timeout.total_seconds()
        seen: object = None
        while True:
            self._changed.clear()
            token = await self._call(_data_version)
            if token != seen or self._path == IN_MEMORY:
                seen = token
                now = await self.version()
                if now != version:
                    return now
            left_s = deadline - monotonic()
            if left_s <= 0:
                return version
            look_in_s = left_s if self._path == IN_MEMORY else min(left_s, _LOOK_EVERY_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(look_in_s):
                    await self._changed.wait()
                    seen = None

    async def _call(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        if self._thread is None:
            raise CatalogUnavailable("it is not open")
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        try:
            async with asyncio.timeout(_TIME_LIMIT_S):
                return await running
        except TimeoutError:
            raise CatalogUnavailable(f"the disk has not answered for {_TIME_LIMIT_S:g} s") from None

    # In the thread

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            return work(self._connected())
        except sqlite3.DatabaseError as error:
            if self._path != IN_MEMORY:
                self._disconnect()
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            if isinstance(error, sqlite3.OperationalError):
                raise CatalogUnavailable(f"SQLite says: {error}, {name}") from error
            raise CatalogCorrupt(f"SQLite says: {error}, {name}; restore the file from a backup") from error
        except OSError as error:
            raise CatalogUnavailable(f"its file can't be used: {error.strerror}") from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._path != IN_MEMORY:
                _make_private(Path(self._path))
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _make_private(path: Path) -> None:
    """Create the file before SQLite does: nobody else may ever read it. Its log gets the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _use_log(connection: sqlite3.Connection) -> None:
    # SQLite does not wait, whatever its timeout, where another process is making the same change.
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(_BUSY_PAUSE_S)


def _prepare(connection: sqlite3.Connection) -> None:
    _use_log(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")
    if _number(connection, "user_version") != SCHEMA_VERSION:
        _in_transaction(connection, _migrate, None)
    if _number(connection, "application_id") != APPLICATION_ID:
        raise CatalogCorrupt("its file is another program's; name another one as catalog.path")


def _migrate(connection: sqlite3.Connection, _nothing: None) -> None:
    # Under the write lock: another process may have done it meanwhile.
    version = _number(connection, "user_version")
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise CatalogCorrupt("its file is another program's; name another one as catalog.path")
    if version > SCHEMA_VERSION:
        raise CatalogCorrupt(
            f"it has schema version {version}, and this server knows {SCHEMA_VERSION}; install a newer server"
        )
    for step in _STEPS[version:]:
        step(connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    found: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return found


def _in_transaction(
    connection: sqlite3.Connection, work: Callable[[sqlite3.Connection, Any], Result], argument: Any
) -> Result:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection, argument)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return result


def _next_version(connection: sqlite3.Connection) -> int:
    connection.execute("UPDATE meta SET version = version + 1")
    return _version(connection)


def _version(connection: sqlite3.Connection) -> int:
    found: int = connection.execute("SELECT version FROM meta").fetchone()[0]
    return found


def _data_version(connection: sqlite3.Connection) -> int:
    """Another number after a commit of another connection."""
    return _number(connection, "data_version")


def _put(connection: sqlite3.Connection, record: R) -> R:
    _expect(connection, record)
    stored = msgspec.structs.replace(record, revision=_next_version(connection))
    connection.execute(
        "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)",
        (stored.kind, stored.key, stored.revision, msgspec.json.encode(stored).decode()),
    )
    return stored


def _delete(connection: sqlite3.Connection, record: Record) -> None:
    _expect(connection, record)
    connection.execute("DELETE FROM records WHERE kind = ? AND key = ?", (record.kind, record.key))
    _next_version(connection)


def _expect(connection: sqlite3.Connection, record: Record) -> None:
    row = connection.execute(
        "SELECT revision FROM records WHERE kind = ? AND key = ?", (record.kind, record.key)
    ).fetchone()
    if record.revision != (row[0] if row else 0):
        raise CatalogConflict(record)


def _record(kind: type[R], key: str, revision: int, doc: str) -> R:
    try:
        record = msgspec.json.decode(doc, type=kind)
    except msgspec.MsgspecError as error:
        raise CatalogCorrupt(f"{kind.kind} {key} can't be read: {error}") from error
    return msgspec.structs.replace(record, revision=revision)


def _events(connection: sqlite3.Connection, query: AuditQuery) -> AuditPage:
    wanted: dict[str, object] = {
        "who = ?": query.who,
        "what = ?": query.what,
        "subject = ?": query.subject,
        "at >= ?": to_microseconds(query.since) if query.since else None,
        "number < ?": query.before,
    }
    conditions = {condition: value for condition, value in wanted.items() if value}
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    with closing(
        connection.execute(
            f"SELECT * FROM audit {where} ORDER BY number DESC LIMIT ?",  # noqa: S608  # conditions are ours
            (*conditions.values(), query.limit + 1),
        )
    ) as rows:
        events = [_event(*row) for row in rows]
    page = events[: query.limit]
    return AuditPage(page, page[-1].number if len(events) > query.limit else 0)


def _event(number: int, at: int, who: str, what: str, subject: str, outcome: str, detail: str) -> AuditEvent:
    return AuditEvent(
        number=number,
        at=from_microseconds(at),
        who=who,
        what=what,
        subject=subject,
        outcome=outcome,
        detail=detail,
    )
