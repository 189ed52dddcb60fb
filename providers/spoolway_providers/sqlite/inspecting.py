"""Finding what belongs to no job. No commit leaves such a thing; a program that edits the file may."""

import sqlite3

from spoolway_providers.sqlite.blobs import drop_blobs
from spoolway_providers.sqlite.writer import Transaction

__all__ = ["drop_lost_blobs", "lost_blobs"]

_LOST = """
    WITH named AS (
        SELECT id, substr(id, 1, instr(id, '/') - 1) AS backend, substr(id, instr(id, '/') + 1) AS rest
        FROM (SELECT id FROM blobs UNION ALL SELECT id FROM uploads WHERE committed)
        WHERE id LIKE '%/%/content' OR id LIKE '%/%/result/%'
    )
    SELECT id FROM named WHERE NOT EXISTS (
        SELECT 1 FROM jobs
        WHERE jobs.id = substr(rest, 1, instr(rest, '/') - 1) AND jobs.backend = named.backend
    ) ORDER BY id LIMIT ?
"""


def lost_blobs(connection: sqlite3.Connection, limit: int) -> list[str]:
    """Ids of contents and results whose job is not there."""
    return [blob for (blob,) in connection.execute(_LOST, (limit,))]


def drop_lost_blobs(transaction: Transaction, limit: int) -> list[str]:
    """Remove them, and tell which."""
    lost = lost_blobs(transaction.connection, limit)
    drop_blobs(transaction, lost)
    return lost
