"""Redoing what a crash left half done, sweeping what is too old."""

from datetime import UTC, datetime
from typing import Any

from spoolway_providers.interface import RETENTION, Finding
from spoolway_providers.model import SessionState
from spoolway_providers.mongodb import blobs
from spoolway_providers.mongodb.commits import remove_files
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import Document, key_of, to_microseconds
from spoolway_providers.mongodb.journal import Journal

__all__ = ["inspect", "repair", "server_time"]


async def repair(connection: Connection, journal: Journal, limit: int) -> list[Finding]:
    """Mend and sweep, at most `limit` of each kind; each step can be repeated, by any process."""
    before = await server_time(connection) - RETENTION
    findings = await _finish_deletions(connection, limit)
    findings += await _settle_files(connection, before, limit)
    await _sweep_sessions(connection, before, limit)
    await _sweep_requests(connection, before, limit)
    await _sweep_tombstones(connection, journal, before, limit)
    return findings


async def server_time(connection: Connection) -> datetime:
    """The server's clock, which dated what is swept: a wrong clock here must not sweep anything."""
    known = connection.numbers.known_now()
    if known is not None:
        return known
    with connection.reading():
        hello = await connection.database.command("hello")
    local_time: datetime = hello["localTime"]
    return local_time.replace(tzinfo=UTC)


async def _finish_deletions(connection: Connection, limit: int) -> list[Finding]:
    """Remove the files of deleted jobs, where the deleting process did not come to it."""
    with connection.reading():
        query = {"deleted_at": {"$exists": True}, "has_files": True}
        found = await connection["jobs"].find(query).limit(limit).to_list()
    for document in found:
        await remove_files(connection, key_of(document))
    return [Finding("deletion", str(key_of(d)), "its files are removed too") for d in found]


async def _settle_files(connection: Connection, before: datetime, limit: int) -> list[Finding]:
    """Files that nobody marked as committed: mark those that a job names, sweep the others after a day."""
    files = connection["blobs.files"]
    before_ms = to_microseconds(before) // 1000
    is_old = {
        "metadata.committed": False,
        "uploadDate": {"$lt": before},
        # Not one that is just being committed.
        "$or": [{"metadata.void_ms": None}, {"metadata.void_ms": {"$lt": before_ms}}],
    }
    with connection.reading():
        found = await files.find(is_old).limit(limit).to_list()
    named = [file["_id"] for file in found if await blobs.is_named(connection, file)]
    await blobs.mark_committed(connection, named)
    unnamed = [file["_id"] for file in found if file["_id"] not in named]
    if not unnamed:
        return []
    # Kept for nobody first: from then on no job can name it.
    kept = blobs.kept_for(connection, "", "")
    with connection.writing():
        await files.update_many({"_id": {"$in": unnamed}, **is_old}, [{"$set": kept}])
    ours = await _ids(connection, "blobs.files", {"_id": {"$in": unnamed}, "metadata.job": ""}, limit)
    await blobs.remove(connection, ours)
    return [Finding("staged_blob", name, "removed, since nobody named it for a day") for name in ours]


async def _sweep_sessions(connection: Connection, before: datetime, limit: int) -> None:
    await _delete_some(
        connection,
        "sessions",
        {"state": SessionState.CLOSED.value, "closed_at": {"$lt": before}},
        limit,
    )


async def _sweep_requests(connection: Connection, before: datetime, limit: int) -> None:
    """Let request ids be used anew. The record in the job keeps its own."""
    query = {"request": {"$exists": True}, "requested_at": {"$lt": before}}
    ids = await _ids(connection, "jobs", query, limit)
    if ids:
        with connection.writing():
            await connection["jobs"].update_many(
                {"_id": {"$in": ids}, **query}, {"$unset": {"request": "", "fingerprint": ""}}
            )


async def _sweep_tombstones(connection: Connection, journal: Journal, before: datetime, limit: int) -> None:
    """Cursors from before the newest that goes are too old from now on: said first, then done."""
    query = {"deleted_at": {"$lt": before}, "has_files": {"$ne": True}}
    with connection.reading():
        found = await connection["jobs"].find(query, {"change": 1}).limit(limit).to_list()
    if not found:
        return
    newest = max(int(document["change"]) for document in found)
    with connection.writing():
        await connection["meta"].update_one({"_id": "swept"}, {"$max": {"change": newest}}, upsert=True)
    journal.swept = max(journal.swept, newest)
    with connection.writing():
        await connection["jobs"].delete_many({"_id": {"$in": [d["_id"] for d in found]}, **query})


async def _delete_some(connection: Connection, name: str, query: Document, limit: int) -> None:
    ids = await _ids(connection, name, query, limit)
    if ids:
        with connection.writing():
            await connection[name].delete_many({"_id": {"$in": ids}, **query})


async def _ids(connection: Connection, name: str, query: Document, limit: int) -> list[Any]:
    with connection.reading():
        found = await connection[name].find(query, {"_id": 1}).limit(limit).to_list()
    return [document["_id"] for document in found]


_INSPECTED_AT_ONCE = 500


async def inspect(connection: Connection, *, repair: bool, limit: int) -> list[Finding]:
    """Files that are marked as committed, and that no job names."""
    lost: list[str] = []
    last: str | None = None
    while len(lost) < limit:
        query: Document = {"metadata.committed": True}
        if last is not None:
            query["_id"] = {"$gt": last}
        with connection.reading():
            page = await connection["blobs.files"].find(query).sort("_id").limit(_INSPECTED_AT_ONCE).to_list()
        lost += [file["_id"] for file in page if not await blobs.is_named(connection, file)]
        if len(page) < _INSPECTED_AT_ONCE:
            break
        last = page[-1]["_id"]
    lost = lost[:limit]
    if repair:
        await blobs.remove(connection, lost)
    action = "removed" if repair else "no job names it: nobody can read it"
    return [Finding("blob_without_job", name, action) for name in lost]
