"""The bytes of files, in GridFS's layout: pieces of 256 KiB, numbered from 0."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from bson.binary import Binary
from pymongo import UpdateOne

from spoolway_providers.errors import ProviderError
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import INLINE_LIMIT, Document
from spoolway_providers.mongodb.faults import is_duplicate

__all__ = ["CHUNK_BYTES", "once_more_if_twins_met", "read_file", "write_chunks"]

Answer = TypeVar("Answer")

CHUNK_BYTES = INLINE_LIMIT


async def write_chunks(connection: Connection, file_id: str, offset: int, data: bytes, size: int) -> None:
    """Lay the piece over the chunks that it touches."""
    first, last = offset // CHUNK_BYTES, (offset + len(data) - 1) // CHUNK_BYTES
    known = await _partly_overlaid(connection, file_id, (first, last), offset, len(data), size)
    writes = []
    for n in range(first, last + 1):
        start = n * CHUNK_BYTES
        piece = data[max(0, start - offset) : start + CHUNK_BYTES - offset]
        at = max(0, offset - start)
        old = known.get(n, b"")
        chunk = old[:at] + piece + old[at + len(piece) :]
        key = {"files_id": file_id, "n": n}
        writes.append(UpdateOne(key, {"$set": {"data": Binary(chunk)}}, upsert=True))

    async def write() -> None:
        with connection.writing():
            await connection["blobs.chunks"].bulk_write(writes, ordered=False)

    await once_more_if_twins_met(write)


async def _partly_overlaid(
    connection: Connection, file_id: str, span: tuple[int, int], offset: int, length: int, size: int
) -> dict[int, bytes]:
    """The present bytes of the first and the last chunk, where the piece does not replace all of them."""
    first, last = span
    ends_within = offset + length < min(size, (last + 1) * CHUNK_BYTES)
    wanted = {n for n, is_partly in ((first, offset % CHUNK_BYTES), (last, ends_within)) if is_partly}
    if not wanted:
        return {}
    with connection.reading():
        query = {"files_id": file_id, "n": {"$in": sorted(wanted)}}
        found = await connection.newest("blobs.chunks").find(query).to_list()
    return {chunk["n"]: bytes(chunk["data"]) for chunk in found}


async def read_file(connection: Connection, file: Document, offset: int, limit: int) -> bytes:
    """At most `limit` bytes of a file from `offset`."""
    end = min(offset + limit, int(file["length"]))
    if offset >= end:
        return b""
    first, last = offset // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
    with connection.reading():
        query = {"files_id": file["_id"], "n": {"$gte": first, "$lte": last}}
        chunks = await connection["blobs.chunks"].find(query).sort("n").to_list()
    start = first * CHUNK_BYTES
    return b"".join(chunk["data"] for chunk in chunks)[offset - start : end - start]


async def once_more_if_twins_met(write: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat an upsert that met its twin: the document is there by now."""
    try:
        return await write()
    except ProviderError as error:
        if not is_duplicate(error.__cause__):
            raise
    return await write()
