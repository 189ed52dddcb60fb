"""Uploads: blobs that no job names yet, written piece by piece."""

from typing import Any

from pymongo import ReturnDocument

from spoolway_providers.errors import Conflict, NotFound
from spoolway_providers.mongodb.blobs import is_named
from spoolway_providers.mongodb.chunks import CHUNK_BYTES, once_more_if_twins_met, read_file, write_chunks
from spoolway_providers.mongodb.connection import Connection

__all__ = ["read_staged", "stage"]


async def stage(connection: Connection, blob_id: str, offset: int, data: bytes) -> int:
    """Write a piece of an upload; see the interface.

    The length is written last, so that it never promises bytes which are not there. Who sends a piece
    again while its blob is being committed writes the same bytes: an id is that of one upload.
    """
    with connection.reading():
        found = await connection.newest("blobs.files").find_one({"_id": blob_id})
    size = int(found["length"]) if found else 0
    if offset > size:
        raise Conflict(f"blob {blob_id!r} has {size} bytes so far, not {offset}", size)
    if found and found["metadata"].get("job") is not None:
        return _size_if_within(blob_id, size, offset, data)
    if not data:
        return size
    await write_chunks(connection, blob_id, offset, data, size)
    return await _lengthen(connection, blob_id, offset, data)


def _size_if_within(blob_id: str, size: int, offset: int, data: bytes) -> int:
    """The size of a committed blob, which a late repeat may write to but can't change."""
    if offset + len(data) > size:
        raise Conflict(f"blob {blob_id!r} is committed with {size} bytes", size)
    return size


async def read_staged(connection: Connection, blob_id: str, offset: int, limit: int) -> bytes:
    """Some bytes of an upload that no job names; see the interface."""
    with connection.reading():
        found = await connection.newest("blobs.files").find_one({"_id": blob_id})
    if found is None or found["metadata"]["committed"] or await is_named(connection, found):
        raise NotFound(f"no blob {blob_id!r} is staged")
    return await read_file(connection, found, offset, limit)


async def _lengthen(connection: Connection, blob_id: str, offset: int, data: bytes) -> int:
    end = offset + len(data)
    change = [
        {
            "$set": {
                "length": {"$max": ["$length", end]},
                "chunkSize": CHUNK_BYTES,
                "uploadDate": connection.numbers.now(),
                "filename": {"$literal": blob_id},
                "metadata": {"committed": False},
            }
        }
    ]

    async def write() -> Any:
        with connection.writing():
            found: Any = await connection["blobs.files"].find_one_and_update(
                {"_id": blob_id, "metadata.job": None},
                change,
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        return found

    return int((await once_more_if_twins_met(write))["length"])
