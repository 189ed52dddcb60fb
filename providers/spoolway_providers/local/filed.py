"""Blobs that are files by now: of which job, where, and how the index forgets their bytes."""

import sqlite3

import msgspec

from spoolway_providers.local.layout import Place
from spoolway_providers.local.tables import FileRow
from spoolway_providers.model import Job, JobKey
from spoolway_providers.sqlite.documents import decode_job
from spoolway_providers.sqlite.writer import Transaction, one_by_one

__all__ = ["Filed", "filed_uploads", "find_filed", "forget_chunks", "key_of"]

_CHUNKS_A_STEP = 16
"""Of an upload that is a file by now: a step of so many megabytes holds up nobody."""


class Filed(msgspec.Struct, frozen=True):
    """A blob that is a file."""

    job: Job
    files: FileRow
    is_result: bool


def filed_uploads(connection: sqlite3.Connection) -> list[str]:
    """The staged blobs that are files by now, and whose bytes the index has still: of a killed keeper."""
    rows = connection.execute(
        "SELECT id FROM uploads WHERE committed AND EXISTS (SELECT 1 FROM chunks WHERE upload = uploads.id)"
    ).fetchall()
    return [blob for (blob,) in rows if find_filed(connection, blob) is not None]


def find_filed(connection: sqlite3.Connection, blob_id: str) -> Filed | None:
    """Of which job a blob is the content or the result, and where its files lie; None if it is no file."""
    named = key_of(blob_id)
    found = connection.execute(
        "SELECT seq FROM local_uploads WHERE blob = ?1"
        " UNION ALL SELECT seq FROM local_files WHERE id = ?2 AND backend = ?3",
        (blob_id, named and named.id, named and named.backend),
    ).fetchone()
    row = connection.execute(
        "SELECT j.doc, f.user, f.place, f.has_result FROM local_files f JOIN jobs j ON j.seq = f.seq"
        " WHERE f.seq = ?",
        found or (None,),
    ).fetchone()
    if row is None:
        return None
    job, files = decode_job(row[0]), FileRow(row[1], Place(row[2]), bool(row[3]))
    if job.content.id == blob_id:
        return Filed(job, files, is_result=False)
    is_result = job.result is not None and job.result.id == blob_id and files.has_result
    return Filed(job, files, is_result=True) if is_result else None


def key_of(blob_id: str) -> JobKey | None:
    """The job that an id of a blob names; None: it was given by somebody else."""
    match blob_id.split("/"):
        case [backend, job_id, "content"] | [backend, job_id, "result", _]:
            return JobKey(backend, job_id)
    return None


@one_by_one
def forget_chunks(transaction: Transaction, blob: str) -> bool:
    """Forget some bytes of a staged blob that is a file by now; its row stays, so that repeats find it.

    Returns:
        Whether there are more.
    """
    deleted = transaction.connection.execute(
        "DELETE FROM chunks WHERE rowid IN (SELECT rowid FROM chunks WHERE upload = ? LIMIT ?)",
        (blob, _CHUNKS_A_STEP),
    ).rowcount
    return deleted == _CHUNKS_A_STEP
