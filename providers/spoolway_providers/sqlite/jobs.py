"""Changing jobs: the claim, the compare-and-set, and the removal."""

from collections.abc import Iterable, Sequence

import msgspec

from spoolway_providers import rules
from spoolway_providers.errors import Conflict, NotFound, ProviderError
from spoolway_providers.interface import Change, Claimed, Order
from spoolway_providers.model import BlobRef, Job, JobKey, Policy, unreadable_blob_id
from spoolway_providers.sqlite.blobs import drop_blobs, keep_blobs, keep_upload, too_large
from spoolway_providers.sqlite.documents import (
    JOB_VALUES,
    decode_job,
    decode_policy,
    job_values,
    to_microseconds,
)
from spoolway_providers.sqlite.writer import Transaction

__all__ = ["Claiming", "Deletion", "claim", "commit", "delete", "update"]

_UPDATE_JOB = f"""
    UPDATE jobs SET {", ".join(f"{name} = ?" for name in JOB_VALUES)}
    WHERE seq = ? AND id = ? AND backend = ? AND revision = ?
"""  # noqa: S608 - names of our own columns


class Claiming(msgspec.Struct, frozen=True):
    """Free places for jobs of a backend."""

    backend: str
    orders: Sequence[Order]


class Deletion(msgspec.Struct, frozen=True):
    """Which job, at which revision."""

    key: JobKey
    revision: int


def claim(transaction: Transaction, claiming: Claiming) -> list[Claimed]:
    """Take the first jobs by (rank, seq); see the interface.

    The database's write lock is ours from the BEGIN IMMEDIATE on: what the first statement finds QUEUED,
    LIVE and not paused is still so when the last one takes it, whichever process asks. So selecting,
    deciding and updating is as safe as one UPDATE ... RETURNING, and the rule stays in `rules`.
    """
    policy = _policy_if_open(transaction, claiming.backend)
    orders = _live(transaction, claiming.orders)
    if policy is None or not orders:
        return []
    rows = transaction.connection.execute(
        "SELECT j.doc, b.data FROM jobs j"
        " LEFT JOIN blobs b ON b.id = j.backend || '/' || j.id || '/content'"
        " WHERE j.backend = ? AND j.state = 'QUEUED' AND j.state IN ('QUEUED', 'HELD')"
        # A job whose latest start has passed is the reaper's.
        " AND (j.due_at IS NULL OR j.due_at > ?)"
        " ORDER BY j.rank, j.seq LIMIT ?",
        (claiming.backend, to_microseconds(transaction.now), len(orders)),
    ).fetchall()
    claimed = [
        Claimed(_take(decode_job(doc), order, transaction, policy), content)
        for (doc, content), order in zip(rows, orders, strict=False)
    ]
    update(transaction, ((taken.job, taken.job.revision - 1) for taken in claimed))
    return claimed


def _policy_if_open(transaction: Transaction, backend: str) -> Policy | None:
    """The policy of a backend that is registered and not paused."""
    row = transaction.connection.execute(
        "SELECT policy FROM backends WHERE name = ? AND config_etag <> ''", (backend,)
    ).fetchone()
    if row is None:
        return None
    policy = Policy() if row[0] is None else decode_policy(row[0])
    return None if policy.paused else policy


def _live(transaction: Transaction, orders: Sequence[Order]) -> list[Order]:
    """The orders of sessions that are LIVE."""
    live = {
        session
        for session in {order.session for order in orders}
        if transaction.connection.execute(
            "SELECT 1 FROM sessions WHERE id = ? AND state = 'LIVE'", (session,)
        ).fetchone()
    }
    return [order for order in orders if order.session in live]


def _take(job: Job, order: Order, transaction: Transaction, policy: Policy) -> Job:
    event = rules.Claim(order.token, order.session, order.spooler)
    taken = rules.decide(job, event, transaction.now, policy)
    if isinstance(taken, rules.Refusal):
        raise AssertionError(f"a queued job can always be claimed: {taken.message}")
    return taken


def commit(transaction: Transaction, calls: list[Sequence[Change]]) -> list[list[Job | ProviderError]]:
    """Store each changed job at its expected revision; see the interface."""
    if _commit_all(transaction, [change for changes in calls for change in changes]):
        return [[change.job for change in changes] for changes in calls]
    return [[_commit(transaction, change) for change in changes] for changes in calls]


def _commit_all(transaction: Transaction, changes: list[Change]) -> bool:
    """Store all at once, which is the usual case; or nothing, if any of them needs a closer look."""
    payloads: list[tuple[str, bytes]] = []
    for change in changes:
        result, payload = change.job.result, change.payload
        if result is not None:
            if payload is None or too_large(payload):
                return False
            payloads.append((result.id, payload))
    transaction.connection.execute("SAVEPOINT all_changes")
    stored = update(transaction, [(change.job, change.expected_revision) for change in changes])
    if stored == len(changes):
        keep_blobs(transaction, payloads)
    else:
        transaction.connection.execute("ROLLBACK TO all_changes")
    transaction.connection.execute("RELEASE all_changes")
    return stored == len(changes)


def _commit(transaction: Transaction, change: Change) -> Job | ProviderError:
    job = change.job
    if change.payload is not None and (refusal := too_large(change.payload)):
        return refusal
    if job.result is not None and change.payload is None:
        refusal = _keep_staged_result(transaction, job, job.result, change.expected_revision)
        if refusal is not None:
            return refusal
    if not update(transaction, [(job, change.expected_revision)]):
        current = _current(transaction, job.key)
        if isinstance(current, NotFound):
            return current
        return Conflict(f"{job.key} is at revision {current.revision} by now", current)
    if job.result is not None and change.payload is not None:
        keep_blobs(transaction, [(job.result.id, change.payload)])
    return job


def _keep_staged_result(
    transaction: Transaction, job: Job, result: BlobRef, expected_revision: int
) -> ProviderError | None:
    """Make a staged result visible if the change that names it will be stored."""
    current = _current(transaction, job.key)
    if isinstance(current, NotFound) or current.revision != expected_revision or current.result == result:
        return None
    return keep_upload(transaction, result)


def _current(transaction: Transaction, key: JobKey) -> Job | NotFound:
    row = transaction.connection.execute(
        "SELECT doc FROM jobs WHERE id = ? AND backend = ?", (key.id, key.backend)
    ).fetchone()
    return NotFound(f"there is no {key}") if row is None else decode_job(row[0])


def update(transaction: Transaction, changed: Iterable[tuple[Job, int]]) -> int:
    """Store each changed job whose row is at its expected revision; how many that are.

    Whoever stored less than all undoes the rest, or has asked for one only.
    """
    rows = []
    noted = len(transaction.changed)
    for job, expected_revision in changed:
        change = transaction.next_change()
        transaction.note(change, job)
        rows.append((*job_values(job, change), job.seq, job.key.id, job.key.backend, expected_revision))
    stored = transaction.connection.executemany(_UPDATE_JOB, rows).rowcount if rows else 0
    if stored < len(rows):
        del transaction.changed[noted:]
    return stored


def delete(transaction: Transaction, deletion: Deletion) -> None:
    """Remove a terminal job and its blobs, and leave a tombstone; see the interface."""
    key = deletion.key
    job = _current(transaction, key)
    if isinstance(job, NotFound):
        raise job
    if job.revision != deletion.revision or not job.is_terminal:
        raise Conflict(f"{key} is {job.state} at revision {job.revision}", job)
    transaction.connection.execute("DELETE FROM jobs WHERE seq = ?", (job.seq,))
    blobs = [ref.id for ref in (job.content, job.result) if ref is not None]
    drop_blobs(transaction, [*blobs, unreadable_blob_id(key)])
    change = transaction.next_change()
    transaction.changed.append((change, key, None))
    transaction.connection.execute(
        "INSERT INTO tombstones(change, backend, id, at) VALUES (?, ?, ?, ?)",
        (change, key.backend, key.id, to_microseconds(transaction.now)),
    )
