"""Ending jobs whose documents can't be read."""

import logging
from typing import Any

from spoolway_providers import digests
from spoolway_providers.model import Job, Policy, content_blob_id
from spoolway_providers.mongodb.care import server_time
from spoolway_providers.mongodb.changes import write_of
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import Document, key_of, policy_of
from spoolway_providers.unreadable import ended

__all__ = ["end_unreadable"]

_log = logging.getLogger(__name__)


async def end_unreadable(connection: Connection, document: Any) -> Job | None:
    """End the job that was read as this document; None if it has changed meanwhile.

    What could not be read is kept in its field `unreadable`, for who wants to mend it by hand.
    """
    key = key_of(document)
    with connection.reading():
        content = await connection["jobs"].find_one({"_id": key.id}, {"content": 1})
        backend = await connection["backends"].find_one({"_id": key.backend}, {"policy": 1})
    job = ended(
        key,
        owner=_text(document.get("owner")),
        content=digests.blob_ref(content_blob_id(key), bytes((content or {}).get("content") or b"")),
        request_id=_text(document.get("request_id")),
        seq=_number(document.get("seq")),
        rank=_number(document.get("rank")),
        revision=_number(document.get("rev")),
        now=await server_time(connection),
        policy=(backend and policy_of(backend)) or Policy(),
    )
    write = write_of(job, job.revision - 1, connection.numbers)
    top = {"owner": job.owner, "request_id": job.request_id, "seq": job.seq, "labels": []}
    whole = {name: {"$literal": value} for name, value in top.items()}
    kept = {"$set": {"unreadable": {"$ifNull": ["$unreadable", {"$literal": _without_old(document)}]}}}
    expected = {**write.expected, "rev": document.get("rev")}
    with connection.writing():
        done = await connection["jobs"].update_one(expected, [kept, {"$set": whole}, *write.change])
    if not done.matched_count:
        return None
    _log.error("the document of %s can't be read: the job has ended, and what was there is kept", key)
    return job


def _without_old(document: Document) -> Document:
    return {name: value for name, value in document.items() if name != "unreadable"}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 1
