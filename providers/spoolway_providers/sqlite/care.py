"""Sweeping what is too old, and trying whether the storage works."""

import sqlite3
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import perf_counter

from spoolway_providers.errors import ProviderError
from spoolway_providers.interface import RETENTION, Finding, Step
from spoolway_providers.sqlite.blobs import drop_blobs
from spoolway_providers.sqlite.documents import to_microseconds
from spoolway_providers.sqlite.writer import Transaction

__all__ = ["ProbeSteps", "probe_read", "probe_remove", "probe_update", "probe_write", "repair"]


def repair(transaction: Transaction, limit: int) -> list[Finding]:
    """Sweep what is too old: a transaction is never half done, so there is nothing else to mend."""
    before = to_microseconds(transaction.now - RETENTION)
    connection = transaction.connection
    rows = connection.execute(
        "SELECT id FROM uploads WHERE NOT committed AND written_at < ? LIMIT ?", (before, limit)
    ).fetchall()
    uploads = [row[0] for row in rows]
    drop_blobs(transaction, uploads)
    connection.execute(
        "DELETE FROM sessions WHERE rowid IN (SELECT rowid FROM sessions WHERE closed_at < ? LIMIT ?)",
        (before, limit),
    )
    connection.execute(
        "DELETE FROM requests WHERE (owner, backend, request_id) IN"
        " (SELECT owner, backend, request_id FROM requests WHERE at < ? LIMIT ?)",
        (before, limit),
    )
    _sweep_tombstones(connection, before, limit)
    return [Finding("staged_blob", upload, "removed, since nobody named it for a day") for upload in uploads]


def _sweep_tombstones(connection: sqlite3.Connection, before: int, limit: int) -> None:
    """Cursors from before the newest that goes are too old from now on."""
    newest = connection.execute(
        "SELECT max(change) FROM (SELECT change FROM tombstones WHERE at < ? ORDER BY change LIMIT ?)",
        (before, limit),
    ).fetchone()[0]
    if newest is not None:
        connection.execute("DELETE FROM tombstones WHERE change <= ?", (newest,))
        connection.execute("UPDATE meta SET swept = ?", (newest,))
