"""Contents and results: short ones in the job's document, long or staged ones in GridFS's layout.

A blob in GridFS is visible once a job's document names it. Before that commit it is reserved for the job
(`metadata.job`), so that no other job can name it; after it, marked as committed. A crash between these
steps leaves a blob that `repair` marks or sweeps.
"""

from collections.abc import Iterable

from pymongo import UpdateOne

from spoolway_providers.errors import NotFound, ProviderError, TooLarge, Unavailable
from spoolway_providers.model import BlobRef, JobKey
from spoolway_providers.mongodb.chunks import CHUNK_BYTES, read_file, write_chunks
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import CAPABILITIES, INLINE_LIMIT, Document

__all__ = [
    "is_named",
    "keep_large",
    "kept_for",
    "large_file_id",
    "mark_committed",
    "read_blob",
    "release",
    "remove",
    "remove_of_job",
    "reserve",
    "too_large",
]

_SLACK_MS = 1000


def too_large(data: bytes) -> TooLarge | None:
    """Why `data` can't be stored in one call, if it can't."""
    limit = CAPABILITIES.max_document_bytes
    if len(data) <= limit:
        return None
    return TooLarge(f"{len(data)} bytes are more than {limit} in one document; stage them", limit)


def large_file_id(ref: BlobRef) -> str:
    """The file of a long content or result that came in one call: named by its bytes, never overwritten."""
    return f"{ref.id}#{ref.sha256}"


async def keep_large(connection: Connection, ref: BlobRef, data: bytes, key: JobKey) -> None:
    """Store the bytes of a long content or result that came in one call, for `key` alone."""
    file_id = large_file_id(ref)
    await write_chunks(connection, file_id, 0, data, 0)
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
    change = [{"$set": kept_for(connection, key.id, key.backend)}]
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
    if await is_named(connection, found):
        return NotFound(f"blob {ref.id!r} belongs to another job")
    # It was kept for a job that did not come to be, or not yet.
    is_void = {"$expr": {"$lt": ["$metadata.void_ms", connection.numbers.now_ms()]}}
    with connection.writing():
        if (
            await files.update_one({**whole, "metadata.job": found["metadata"]["job"], **is_void}, change)
        ).matched_count:
            return None
    return Unavailable(f"blob {ref.id!r} is just being committed; try again")


def kept_for(connection: Connection, job_id: str, backend: str) -> Document:
    """What keeps a file for a job; void once the call that wants it has ended, at the server too."""
    patience_ms = round(2000 * connection.time_limit_s) + _SLACK_MS
    return {
        "metadata.job": {"$literal": job_id},
        "metadata.backend": {"$literal": backend},
        "metadata.void_ms": {"$add": [connection.numbers.now_ms(), patience_ms]},
    }


async def release(connection: Connection, blob_id: str, key: JobKey) -> None:
    """Give back what was reserved for a job that was refused."""
    mine = {"_id": blob_id, "metadata.job": key.id, "metadata.committed": False}
    with connection.writing():
        await connection["blobs.files"].update_one(
            mine, {"$unset": {"metadata.job": "", "metadata.backend": "", "metadata.void_ms": ""}}
        )


async def mark_committed(connection: Connection, blob_ids: Iterable[str]) -> None:
    """Note that jobs name these blobs; only saves `repair` a look."""
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
    return await read_file(connection, await _visible_file(connection, ref), offset, limit)


def _key_in(blob_id: str) -> JobKey | None:
    """The job in an id that we make for what lies inline; whether it is one of that job's, the job says."""
    parts = blob_id.split("/")
    return JobKey(parts[0], parts[1]) if len(parts) in {3, 4} else None


async def _visible_file(connection: Connection, ref: BlobRef) -> Document:
    with connection.reading():
        names = [ref.id, large_file_id(ref)]
        found = await connection["blobs.files"].find({"_id": {"$in": names}}).to_list()
    for file in found:
        # Asked each time: the file of a deleted job may still be there.
        if await is_named(connection, file):
            return file
    raise NotFound(f"there is no blob {ref.id!r}")


async def is_named(connection: Connection, file: Document) -> bool:
    """Whether the job that a file is kept for names it."""
    metadata = file["metadata"]
    if metadata.get("job") is None:
        return False
    named = {"$or": [{"content_file": file["_id"]}, {"result_file": file["_id"]}]}
    job = {"_id": metadata["job"], "backend": metadata["backend"], **named}
    with connection.reading():
        return await connection["jobs"].find_one(job, {"_id": 1}) is not None
