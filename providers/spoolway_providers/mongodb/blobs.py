"""Contents and results: short ones in the job's document, long or staged ones in GridFS's layout.

A blob in GridFS is visible once a job's document names it. Before that commit it is reserved for the job
(`metadata.job`), so that no other job can name it; after it, marked as committed. A crash between these
steps leaves a blob that `repair` marks or sweeps.
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TypeVar

from bson.binary import Binary
from pymongo import ReturnDocument, UpdateOne

from spoolway_providers.errors import Conflict, NotFound, ProviderError, TooLarge, Unavailable
from spoolway_providers.model import BlobRef, JobKey
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import CAPABILITIES, INLINE_LIMIT, Document
from spoolway_providers.mongodb.faults import is_duplicate

__all__ = [
    "is_named",
    "keep_large",
    "large_file_id",
    "mark_committed",
    "read_blob",
    "release",
    "remove",
    "remove_of_job",
    "reserve",
    "stage",
    "too_large",
]

Answer = TypeVar("Answer")

CHUNK_BYTES = INLINE_LIMIT
_RESERVED_FOR = timedelta(minutes=1)
"""After which the reservation of a submit that is not there is void: longer than any call lasts."""


def too_large(data: bytes) -> TooLarge | None:
    """Why `data` can't be stored in one call, if it can't."""
    limit = CAPABILITIES.max_document_bytes
    if len(data) <= limit:
        return None
    return TooLarge(f"{len(data)} bytes are more than {limit} in one document; stage them", limit)


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
    await _write_chunks(connection, blob_id, offset, data, size)
    return await _lengthen(connection, blob_id, offset, data)


def _size_if_within(blob_id: str, size: int, offset: int, data: bytes) -> int:
    """The size of a committed blob, which a late repeat may write to but can't change."""
    if offset + len(data) > size:
        raise Conflict(f"blob {blob_id!r} is committed with {size} bytes", size)
    return size


async def _write_chunks(connection: Connection, blob_id: str, offset: int, data: bytes, size: int) -> None:
    """Lay the piece over the chunks that it touches."""
    first, last = offset // CHUNK_BYTES, (offset + len(data) - 1) // CHUNK_BYTES
    known = await _partly_overlaid(connection, blob_id, (first, last), offset, len(data), size)
    writes = []
    for n in range(first, last + 1):
        start = n * CHUNK_BYTES
        piece = data[max(0, start - offset) : start + CHUNK_BYTES - offset]
        at = max(0, offset - start)
        old = known.get(n, b"")
        chunk = old[:at] + piece + old[at + len(piece) :]
        key = {"files_id": blob_id, "n": n}
        writes.append(UpdateOne(key, {"$set": {"data": Binary(chunk)}}, upsert=True))

    async def write() -> None:
        with connection.writing():
            await connection["blobs.chunks"].bulk_write(writes, ordered=False)

    await once_more_if_twins_met(write)


async def _partly_overlaid(
    connection: Connection, blob_id: str, span: tuple[int, int], offset: int, length: int, size: int
) -> dict[int, bytes]:
    """The present bytes of the first and the last chunk, where the piece does not replace all of them."""
    first, last = span
    ends_within = offset + length < min(size, (last + 1) * CHUNK_BYTES)
    wanted = {n for n, is_partly in ((first, offset % CHUNK_BYTES), (last, ends_within)) if is_partly}
    if not wanted:
        return {}
    with connection.reading():
        query = {"files_id": blob_id, "n": {"$in": sorted(wanted)}}
        found = await connection.newest("blobs.chunks").find(query).to_list()
    return {chunk["n"]: bytes(chunk["data"]) for chunk in found}


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

    async def write() -> Document:
        with connection.writing():
            found: Document = await connection["blobs.files"].find_one_and_update(
                {"_id": blob_id, "metadata.job": None},
                change,
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        return found

    return int((await once_more_if_twins_met(write))["length"])


def large_file_id(ref: BlobRef) -> str:
    """The file of a long content or result that came in one call; by its bytes, so that none overwrites it."""
    return f"{ref.id}#{ref.sha256}"


async def keep_large(connection: Connection, ref: BlobRef, data: bytes, key: JobKey) -> None:
    """Store the bytes of a long content or result that came in one call, for `key` alone."""
    file_id = large_file_id(ref)
    await _write_chunks(connection, file_id, 0, data, 0)
    document: Document = {
        "_id": file_id,
        "length": ref.size,
        "chunkSize": CHUNK_BYTES,
        "filename": ref.id,
        "metadata": {"committed": False, "job": key.id, "backend": key.backend},
    }
    kept = {"$cond": [{"$eq": [{"$type": "$length"}, "missing"]}, _with_date(connection, document), "$$ROOT"]}
    with connection.writing():
        await connection["blobs.files"].update_one({"_id": file_id}, [{"$replaceWith": kept}], upsert=True)


def _with_date(connection: Connection, document: Document) -> Document:
    return {"$mergeObjects": [{"$literal": document}, {"uploadDate": connection.numbers.now()}]}


async def reserve(connection: Connection, ref: BlobRef, key: JobKey) -> ProviderError | None:
    """Keep a staged blob for `key`, whose commit will name it; or say why that can't be."""
    files = connection["blobs.files"]
    free = {"$or": [{"metadata.job": None}, {"metadata.job": key.id, "metadata.backend": key.backend}]}
    change = [
        {
            "$set": {
                "metadata.job": {"$literal": key.id},
                "metadata.backend": {"$literal": key.backend},
                "metadata.reserved_at": connection.numbers.now(),
            }
        }
    ]
    whole = {"_id": ref.id, "length": ref.size}
    with connection.writing():
        if (await files.update_one({**whole, **free}, change)).matched_count:
            return None
    with connection.reading():
        found = await connection.newest("blobs.files").find_one({"_id": ref.id})
    if found is None:
        return NotFound(f"no blob {ref.id!r} is staged")
    if found["length"] != ref.size:
        return NotFound(f"blob {ref.id!r} is staged with {found['length']} bytes, not {ref.size}")
    if await is_named(connection, found, ref.id):
        return NotFound(f"blob {ref.id!r} belongs to another job")
    return await _take_over(connection, whole, found, change)


async def _take_over(
    connection: Connection, whole: Document, found: Document, change: list[Document]
) -> ProviderError | None:
    """Reserve what was reserved for a job that never came to be."""
    long_ago = {
        "$lt": ["$metadata.reserved_at", {"$subtract": [connection.numbers.now(), _ms(_RESERVED_FOR)]}]
    }
    void = {**whole, "metadata.job": found["metadata"]["job"], "$expr": long_ago}
    with connection.writing():
        if (await connection["blobs.files"].update_one(void, change)).matched_count:
            return None
    return Unavailable(f"blob {whole['_id']!r} is just being committed; try again", _RESERVED_FOR)


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


async def release(connection: Connection, blob_id: str, key: JobKey) -> None:
    """Give back what was reserved for a job that was refused."""
    mine = {"_id": blob_id, "metadata.job": key.id, "metadata.committed": False}
    with connection.writing():
        await connection["blobs.files"].update_one(
            mine, {"$unset": {"metadata.job": "", "metadata.backend": "", "metadata.reserved_at": ""}}
        )


async def mark_committed(connection: Connection, blob_ids: Iterable[str]) -> None:
    """Note that jobs name these blobs; only saves `repair` and readers a look."""
    writes = [
        UpdateOne({"_id": blob_id}, {"$set": {"metadata.committed": True}}) for blob_id in sorted(blob_ids)
    ]
    if writes:
        with connection.writing():
            await connection["blobs.files"].bulk_write(writes, ordered=False)


async def remove(connection: Connection, file_ids: Iterable[str]) -> None:
    """Remove files; the chunks first, so that a crash leaves a file that is found again."""
    ids = sorted(file_ids)
    if not ids:
        return
    with connection.writing():
        await connection["blobs.chunks"].delete_many({"files_id": {"$in": ids}})
        await connection["blobs.files"].delete_many({"_id": {"$in": ids}})


async def remove_of_job(connection: Connection, key: JobKey) -> None:
    """Remove all files that were kept for a job."""
    with connection.reading():
        query = {"metadata.job": key.id, "metadata.backend": key.backend}
        found = await connection.newest("blobs.files").find(query, {"_id": 1}).to_list()
    await remove(connection, (file["_id"] for file in found))


async def read_blob(connection: Connection, ref: BlobRef, offset: int, limit: int) -> bytes:
    """Some bytes of a committed blob; see the interface."""
    field = "content" if ref.id.endswith("/content") else "result"
    key = _key_in(ref.id)
    if key is not None and ref.size <= INLINE_LIMIT:
        with connection.reading():
            found = await connection["jobs"].find_one(
                {"_id": key.id, "backend": key.backend, f"job.{field}.id": ref.id}, {field: 1}
            )
        if found is not None and field in found:
            return bytes(found[field][offset : offset + limit])
    return await _read_file(connection, await _visible_file(connection, ref), offset, limit)


def _key_in(blob_id: str) -> JobKey | None:
    """The job in an id that we make for what lies inline; whether it is one of that job's, the job says."""
    parts = blob_id.split("/")
    return JobKey(parts[0], parts[1]) if len(parts) in {3, 4} else None


async def _visible_file(connection: Connection, ref: BlobRef) -> Document:
    with connection.reading():
        names = [ref.id, large_file_id(ref)]
        found = await connection["blobs.files"].find({"_id": {"$in": names}}).to_list()
    for file in found:
        if file["metadata"].get("committed") or await is_named(connection, file, ref.id):
            return file
    raise NotFound(f"there is no blob {ref.id!r}")


async def _read_file(connection: Connection, file: Document, offset: int, limit: int) -> bytes:
    end = min(offset + limit, int(file["length"]))
    if offset >= end:
        return b""
    first, last = offset // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
    with connection.reading():
        query = {"files_id": file["_id"], "n": {"$gte": first, "$lte": last}}
        chunks = await connection["blobs.chunks"].find(query).sort("n").to_list()
    start = first * CHUNK_BYTES
    return b"".join(chunk["data"] for chunk in chunks)[offset - start : end - start]


async def is_named(connection: Connection, file: Document, blob_id: str) -> bool:
    """Whether the job that a file is kept for names it."""
    metadata = file["metadata"]
    if metadata.get("job") is None:
        return False
    named = {"$or": [{"job.content.id": blob_id}, {"job.result.id": blob_id}]}
    job = {"_id": metadata["job"], "backend": metadata["backend"], **named}
    with connection.reading():
        return await connection["jobs"].find_one(job, {"_id": 1}) is not None


async def once_more_if_twins_met(write: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat an upsert that met its twin: the document is there by now."""
    try:
        return await write()
    except ProviderError as error:
        if not is_duplicate(error.__cause__):
            raise
    return await write()
