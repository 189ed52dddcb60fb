"""Sweeping what is too old, and trying whether the storage works."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import perf_counter
from typing import Any

from spoolway_providers.errors import Conflict, NotFound, ProviderError
from spoolway_providers.interface import RETENTION, Finding, Step
from spoolway_providers.model import new_token
from spoolway_providers.sqlite.blobs import drop_blobs
from spoolway_providers.sqlite.documents import to_microseconds
from spoolway_providers.sqlite.writer import Transaction, one_by_one

__all__ = ["Ask", "probe", "repair"]

Ask = Callable[[Callable[..., Any], Any], Awaitable[Any]]
"""Has an operation served, with its argument."""


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
    # Rows of these two lie in the order of their times: a look at the oldest is enough.
    connection.execute(
        "DELETE FROM requests WHERE at < ? AND rowid IN (SELECT rowid FROM requests ORDER BY rowid LIMIT ?)",
        (before, limit),
    )
    _sweep_tombstones(connection, before, limit)
    return [Finding("staged_blob", upload, "removed, since nobody named it for a day") for upload in uploads]


def _sweep_tombstones(connection: sqlite3.Connection, before: int, limit: int) -> None:
    """Cursors from before the newest that goes are too old from now on."""
    oldest = "SELECT change, at FROM tombstones ORDER BY change LIMIT ?"
    newest = connection.execute(
        f"SELECT max(change) FROM ({oldest}) WHERE at < ?",  # noqa: S608 - our own words
        (limit, before),
    ).fetchone()[0]
    if newest is not None:
        connection.execute("DELETE FROM tombstones WHERE change <= ?", (newest,))
        connection.execute("UPDATE meta SET swept = ?", (newest,))


async def probe(write: Ask, read: Ask) -> list[Step]:
    """Write, read back, race and remove one row; see the interface."""
    probe_id = new_token()

    async def race() -> None:
        answers = await asyncio.gather(
            write(_move_probe, probe_id), write(_move_probe, probe_id), return_exceptions=True
        )
        losers = [answer for answer in answers if isinstance(answer, Conflict)]
        if len(losers) != 1:
            raise Conflict(f"of two conditional writes {2 - len(losers)} won")

    tries: list[tuple[str, Callable[[], Awaitable[Any]], str]] = [
        ("write", lambda: write(_write_probe, probe_id), "is the disk full, or read-only?"),
        ("read_back", lambda: read(_read_probe, probe_id), "is the file on a network file system?"),
        ("conditional_write_race", race, "is the file on a network file system?"),
        ("delete", lambda: write(_remove_probe, probe_id), "is the disk full, or read-only?"),
    ]
    steps: list[Step] = []
    for name, attempt, advice in tries:
        steps.append(await _try(name, attempt, advice))
        if not steps[-1].ok:
            break
    return steps


async def _try(name: str, attempt: Callable[[], Awaitable[Any]], advice: str) -> Step:
    started_at = perf_counter()
    try:
        await attempt()
    except ProviderError as error:
        return Step(name, ok=False, elapsed=_since(started_at), advice=f"{error}; {advice}")
    return Step(name, ok=True, elapsed=_since(started_at))


def _since(started_at: float) -> timedelta:
    return timedelta(seconds=perf_counter() - started_at)


@one_by_one
def _write_probe(transaction: Transaction, probe_id: str) -> None:
    transaction.connection.execute("DELETE FROM probes")
    transaction.connection.execute("INSERT INTO probes(id, revision) VALUES (?, 1)", (probe_id,))


@one_by_one
def _move_probe(transaction: Transaction, probe_id: str) -> None:
    moved = transaction.connection.execute(
        "UPDATE probes SET revision = 2 WHERE id = ? AND revision = 1", (probe_id,)
    ).rowcount
    if not moved:
        raise Conflict("somebody else was first")


@one_by_one
def _remove_probe(transaction: Transaction, probe_id: str) -> None:
    transaction.connection.execute("DELETE FROM probes WHERE id = ?", (probe_id,))


def _read_probe(connection: sqlite3.Connection, probe_id: str) -> None:
    if connection.execute("SELECT 1 FROM probes WHERE id = ?", (probe_id,)).fetchone() is None:
        raise NotFound("what was written is not there")
