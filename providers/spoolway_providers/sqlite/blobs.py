"""Contents and results: short ones in one row, staged ones in chunks."""

import sqlite3
from collections.abc import Iterable

import msgspec

from spoolway_providers.errors import Conflict, NotFound, ProviderError, TooLarge
from spoolway_providers.model import BlobRef
from spoolway_providers.sqlite.documents import CAPABILITIES, to_microseconds
from spoolway_providers.sqlite.writer import Transaction

__all__ = [
    "Piece",
    "Reading",
    "StagedReading",
    "drop_blobs",
    "keep_blobs",
    "keep_upload",
    "read_blob",
    "read_staged",
    "stage",
    "too_large",
]


class Piece(msgspec.Struct, frozen=True):
    """Some bytes of an upload."""

    blob_id: str
    offset: int
    data: bytes


class Reading(msgspec.Struct, frozen=True):
    """Which bytes of which blob."""

    ref: BlobRef
    offset: int
    limit: int


class StagedReading(msgspec.Struct, frozen=True):
    """Which bytes of which staged blob."""

    blob_id: str
    offset: int
    limit: int


def too_large(data: bytes) -> ProviderError | None:
    """Why `data` can't be stored in one row, if it can't."""
    limit = CAPABILITIES.max_document_bytes
    if len(data) <= limit:
        return None
    return TooLarge(f"{len(data)} bytes are more than {limit} in one document; stage them", limit)


def keep_blobs(transaction: Transaction, blobs: Iterable[tuple[str, bytes]]) -> None:
    """Store short blobs by id."""
    transaction.connection.executemany("INSERT INTO blobs(id, data) VALUES (?, ?)", blobs)


def keep_upload(transaction: Transaction, ref: BlobRef) -> ProviderError | None:
    """Make a staged blob visible, or say why it can't be."""
    row = transaction.connection.execute(
        "SELECT size FROM uploads WHERE id = ? AND NOT committed", (ref.id,)
    ).fetchone()
    if row is None:
        return NotFound(f"no blob {ref.id!r} is staged")
    if row[0] != ref.size:
        return NotFound(f"blob {ref.id!r} is staged with {row[0]} bytes, not {ref.size}")
    transaction.connection.execute("UPDATE uploads SET committed = 1 WHERE id = ?", (ref.id,))
    return None


def drop_blobs(transaction: Transaction, blob_ids: Iterable[str]) -> None:
    """Remove blobs, however they are stored."""
    ids = [(blob_id,) for blob_id in blob_ids]
    transaction.connection.executemany("DELETE FROM blobs WHERE id = ?", ids)
    transaction.connection.executemany("DELETE FROM chunks WHERE upload = ?", ids)
    transaction.connection.executemany("DELETE FROM uploads WHERE id = ?", ids)


def stage(transaction: Transaction, piece: Piece) -> int:
    """Write a piece of an upload; see the interface."""
    connection = transaction.connection
    row = connection.execute(
        "SELECT size, committed FROM uploads WHERE id = ?"
        " UNION ALL SELECT length(data), 1 FROM blobs WHERE id = ?",
        (piece.blob_id, piece.blob_id),
    ).fetchone()
    size, is_committed = row or (0, 0)
    end = piece.offset + len(piece.data)
    if piece.offset > size:
        raise Conflict(f"blob {piece.blob_id!r} has {size} bytes so far, not {piece.offset}", size)
    if is_committed and end > size:
        raise Conflict(f"blob {piece.blob_id!r} is committed with {size} bytes", size)
    if is_committed or not piece.data:
        return int(size)
    connection.execute(
        "INSERT INTO uploads(id, size, written_at, committed) VALUES (?, ?, ?, 0)"
        " ON CONFLICT (id) DO UPDATE SET size = excluded.size, written_at = excluded.written_at",
        (piece.blob_id, max(size, end), to_microseconds(transaction.now)),
    )
    _write_chunk(connection, piece, size)
    return int(max(size, end))


def _write_chunk(connection: sqlite3.Connection, piece: Piece, size: int) -> None:
    """Append the piece, or lay it over the chunks that it overlaps."""
    offset, data = piece.offset, piece.data
    if offset < size:
        overlapped = _chunks(connection, piece.blob_id, offset, offset + len(data))
        first = overlapped[0][0]
        merged = bytearray().join(chunk for _, chunk in overlapped)
        merged[offset - first : offset - first + len(data)] = data
        connection.executemany(
            "DELETE FROM chunks WHERE upload = ? AND offset = ?",
            [(piece.blob_id, at) for at, _ in overlapped],
        )
        offset, data = first, bytes(merged)
    connection.execute(
        "INSERT INTO chunks(upload, offset, data) VALUES (?, ?, ?)", (piece.blob_id, offset, data)
    )


def _chunks(connection: sqlite3.Connection, upload: str, start: int, end: int) -> list[tuple[int, bytes]]:
    """The chunks that hold the bytes from `start` to `end`, in order."""
    return connection.execute(
        "SELECT offset, data FROM chunks WHERE upload = ?1 AND offset < ?3 AND offset >="
        " coalesce((SELECT max(offset) FROM chunks WHERE upload = ?1 AND offset <= ?2), 0)"
        " ORDER BY offset",
        (upload, start, end),
    ).fetchall()


def read_blob(connection: sqlite3.Connection, reading: Reading) -> bytes:
    """Some bytes of a committed blob; see the interface."""
    blob_id, start, limit = reading.ref.id, reading.offset, reading.limit
    row = connection.execute(
        "SELECT substr(data, ?, ?) FROM blobs WHERE id = ?", (start + 1, limit, blob_id)
    ).fetchone()
    if row is not None:
        return bytes(row[0])
    row = connection.execute("SELECT 1 FROM uploads WHERE id = ? AND committed", (blob_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no blob {blob_id!r}")
    return _read_chunks(connection, blob_id, start, limit)


def read_staged(connection: sqlite3.Connection, reading: StagedReading) -> bytes:
    """Some bytes of a staged blob; see the interface."""
    row = connection.execute(
        "SELECT 1 FROM uploads WHERE id = ? AND NOT committed", (reading.blob_id,)
    ).fetchone()
    if row is None:
        raise NotFound(f"no blob {reading.blob_id!r} is staged")
    return _read_chunks(connection, reading.blob_id, reading.offset, reading.limit)


def _read_chunks(connection: sqlite3.Connection, upload: str, start: int, limit: int) -> bytes:
    chunks = _chunks(connection, upload, start, start + limit)
    first = chunks[0][0] if chunks else 0
    return b"".join(chunk for _, chunk in chunks)[start - first : start - first + limit]
