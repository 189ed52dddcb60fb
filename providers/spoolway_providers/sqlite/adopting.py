"""Taking over jobs of another storage as they are."""

from collections.abc import Sequence

import msgspec

from spoolway_providers import digests
from spoolway_providers.errors import NotFound, ProviderError
from spoolway_providers.interface import RETENTION, Adoptee
from spoolway_providers.model import BlobRef, Job, State
from spoolway_providers.sqlite.blobs import keep_blobs, keep_upload, too_large
from spoolway_providers.sqlite.documents import decode_job, decode_policy, to_microseconds
from spoolway_providers.sqlite.jobs import update
from spoolway_providers.sqlite.submit import insert_jobs
from spoolway_providers.sqlite.writer import Transaction

__all__ = ["adopt"]

Answer = Job | ProviderError


def adopt(transaction: Transaction, calls: list[Sequence[Adoptee]]) -> list[list[Answer]]:
    """Store jobs as they are; see the interface."""
    return [[_adopt(transaction, adoptee) for adoptee in adoptees] for adoptees in calls]


def _adopt(transaction: Transaction, adoptee: Adoptee) -> Answer:
    job = adoptee.job
    connection = transaction.connection
    backend = connection.execute("SELECT policy FROM backends WHERE name = ?", (job.key.backend,)).fetchone()
    if backend is None:
        return NotFound(f"there is no backend {job.key.backend!r}")
    row = connection.execute(
        "SELECT doc FROM jobs WHERE id = ? AND backend = ?", (job.key.id, job.key.backend)
    ).fetchone()
    current = None if row is None else decode_job(row[0])
    if current is not None and current.revision >= job.revision:
        return current
    refusal = _keep(transaction, adoptee, current)
    if refusal is not None:
        return refusal
    _keep_request(transaction, job)
    if backend[0] is not None and decode_policy(backend[0]).round_robin:
        _keep_round(transaction, job)
    if current is not None:
        job = msgspec.structs.replace(job, seq=current.seq)
        update(transaction, [(job, current.revision)])
        return job
    job = msgspec.structs.replace(job, seq=transaction.next_change())
    insert_jobs(transaction, [job])
    transaction.note(job.seq, job)
    return job


def _keep(transaction: Transaction, adoptee: Adoptee, current: Job | None) -> ProviderError | None:
    """Store the bytes that are not there yet: all of them, or none and why."""
    job = adoptee.job
    pairs = [(job.content, adoptee.content, current and current.content)]
    if job.result is not None:
        pairs.append((job.result, adoptee.result, current and current.result))
    new = [(ref, data) for ref, data, known in pairs if ref != known]
    for ref, data in new:
        refusal = _not_there(transaction, ref) if data is None else too_large(data)
        if refusal is not None:
            return refusal
    for ref, data in new:
        if data is None:
            keep_upload(transaction, ref)
        else:
            keep_blobs(transaction, [(ref.id, data)])
    return None


def _not_there(transaction: Transaction, ref: BlobRef) -> ProviderError | None:
    row = transaction.connection.execute(
        "SELECT size FROM uploads WHERE id = ? AND NOT committed", (ref.id,)
    ).fetchone()
    if row is None:
        return NotFound(f"no blob {ref.id!r} is staged")
    if row[0] != ref.size:
        return NotFound(f"blob {ref.id!r} is staged with {row[0]} bytes, not {ref.size}")
    return None


def _keep_request(transaction: Transaction, job: Job) -> None:
    if job.request_id and transaction.now - job.created_at < RETENTION:
        transaction.connection.execute(
            "INSERT OR IGNORE INTO requests(owner, backend, request_id, fingerprint, id, at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                job.owner,
                job.key.backend,
                job.request_id,
                digests.job_fingerprint(job),
                job.key.id,
                to_microseconds(job.created_at),
            ),
        )


def _keep_round(transaction: Transaction, job: Job) -> None:
    """Its owner's next job has a later one."""
    if job.state in {State.QUEUED, State.HELD}:
        transaction.connection.execute(
            "INSERT INTO rounds(backend, owner, round) VALUES (?, ?, ?)"
            " ON CONFLICT (backend, owner) DO UPDATE SET round = max(round, excluded.round)",
            (job.key.backend, job.owner, job.rank),
        )
