"""Ending jobs whose rows hold documents that can't be read."""

import logging

from spoolway_providers import digests
from spoolway_providers.model import Job, JobKey, Policy, content_blob_id, unreadable_blob_id
from spoolway_providers.sqlite.documents import decode_job, decode_policy
from spoolway_providers.sqlite.jobs import update
from spoolway_providers.sqlite.writer import Transaction, one_by_one
from spoolway_providers.unreadable import UnreadableJob, ended

__all__ = ["end_unreadable"]

_log = logging.getLogger(__name__)

_MOST_AT_ONCE = 100

_Row = tuple[int, str, str, str, int, int, str]


@one_by_one
def end_unreadable(transaction: Transaction, document: object) -> int:
    """End the jobs with this document, and those whose documents are no JSON; how many that were.

    What could not be read is kept as the blob `BACKEND/ID/unreadable`, for who wants to mend it by hand.
    """
    rows = transaction.connection.execute(
        "SELECT seq, id, backend, owner, rank, revision, doc FROM jobs"
        " WHERE doc = ? OR NOT json_valid(doc) LIMIT ?",
        (document, _MOST_AT_ONCE),
    ).fetchall()
    unreadable = [row for row in rows if not _is_readable(row[-1])]
    for row in unreadable:
        _end(transaction, row)
    return len(unreadable)


def _is_readable(document: str) -> bool:
    try:
        decode_job(document)
    except UnreadableJob:
        return False
    return True


def _end(transaction: Transaction, row: _Row) -> None:
    seq, job_id, backend, owner, rank, revision, document = row
    key = JobKey(backend, job_id)
    connection = transaction.connection
    content = connection.execute("SELECT data FROM blobs WHERE id = ?", (content_blob_id(key),)).fetchone()
    request = connection.execute(
        "SELECT request_id FROM requests WHERE owner = ? AND backend = ? AND id = ?", (owner, backend, job_id)
    ).fetchone()
    job: Job = ended(
        key,
        owner=owner,
        content=digests.blob_ref(content_blob_id(key), content[0] if content else b""),
        request_id=request[0] if request else "",
        seq=seq,
        rank=rank,
        revision=revision,
        now=transaction.now,
        policy=_policy(transaction, backend),
    )
    update(transaction, [(job, revision)])
    kept = document.encode() if isinstance(document, str) else bytes(document)
    connection.execute(
        "INSERT OR REPLACE INTO blobs(id, data) VALUES (?, ?)", (unreadable_blob_id(key), kept)
    )
    _log.error("the document of %s can't be read: the job has ended, and what was there is kept", key)


def _policy(transaction: Transaction, backend: str) -> Policy:
    row = transaction.connection.execute("SELECT policy FROM backends WHERE name = ?", (backend,)).fetchone()
    return decode_policy(row[0]) if row and row[0] is not None else Policy()
