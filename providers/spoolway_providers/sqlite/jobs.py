"""Changing jobs: the claim, the compare-and-set, and the removal."""

from collections.abc import Sequence

import msgspec

from spoolway_providers import rules
from spoolway_providers.errors import Conflict, NotFound, ProviderError
from spoolway_providers.interface import Change, Claimed, Order
from spoolway_providers.model import Job, JobKey, Policy, State
from spoolway_providers.sqlite.blobs import drop_blobs, keep_blobs, keep_upload, too_large
from spoolway_providers.sqlite.documents import decode_job, decode_policy, job_row, to_microseconds
from spoolway_providers.sqlite.writer import Transaction

__all__ = ["Claiming", "Deletion", "claim", "commit", "delete"]

_UPDATE_JOB = """
    UPDATE jobs SET state = ?, rank = ?, revision = ?, change = ?, session = ?, due_at = ?, doc = ?
    WHERE seq = ? AND id = ? AND backend = ? AND revision = ?
"""


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
        " ORDER BY j.rank, j.seq LIMIT ?",
        (claiming.backend, len(orders)),
    ).fetchall()
    claimed = [
        Claimed(_take(decode_job(doc), order, transaction, policy), content)
        for (doc, content), order in zip(rows, orders, strict=False)
    ]
    for taken in claimed:
        _update(transaction, taken.job, taken.job.revision - 1)
    return claimed


def _policy_if_open(transaction: Transaction, backend: str) -> Policy | None:
    """The policy of a backend that exists and is not paused."""
    row = transaction.connection.execute("SELECT policy FROM backends WHERE name = ?", (backend,)).fetchone()
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
    return [[_commit(transaction, change) for change in changes] for changes in calls]


def _commit(transaction: Transaction, change: Change) -> Job | ProviderError:
    job = change.job
    if change.payload is not None and (refusal := too_large(change.payload)):
        return refusal
    if job.result is not None and change.payload is None:
        current = _current(transaction, job.key)
        is_new = isinstance(current, Job) and current.result != job.result
        if is_new and current.revision == change.expected_revision:
            refusal = keep_upload(transaction, job.result)
            if refusal is not None:
                return refusal
    if not _update(transaction, job, change.expected_revision):
        current = _current(transaction, job.key)
        if isinstance(current, ProviderError):
            return current
        return Conflict(f"{job.key} is at revision {current.revision} by now", current)
    if job.result is not None and change.payload is not None:
        keep_blobs(transaction, [(job.result.id, change.payload)])
    return job


def _current(transaction: Transaction, key: JobKey) -> Job | NotFound:
    row = transaction.connection.execute(
        "SELECT doc FROM jobs WHERE id = ? AND backend = ?", (key.id, key.backend)
    ).fetchone()
    return NotFound(f"there is no {key}") if row is None else decode_job(row[0])


def _update(transaction: Transaction, job: Job, expected_revision: int) -> bool:
    """Store a changed job, if its row is at the expected revision."""
    row = job_row(job, transaction.next_change())
    if job.state is State.QUEUED:
        transaction.queued.add(job.key.backend)
    seq, job_id, backend, _, *values = row
    return transaction.connection.execute(
        _UPDATE_JOB, (*values, seq, job_id, backend, expected_revision)
    ).rowcount == 1


def delete(transaction: Transaction, deletion: Deletion) -> None:
    """Remove a terminal job and its blobs, and leave a tombstone; see the interface."""
    key = deletion.key
    job = _current(transaction, key)
    if isinstance(job, NotFound):
        raise job
    if job.revision != deletion.revision or not job.is_terminal:
        raise Conflict(f"{key} is {job.state} at revision {job.revision}", job)
    transaction.connection.execute("DELETE FROM jobs WHERE seq = ?", (job.seq,))
    drop_blobs(transaction, [ref.id for ref in (job.content, job.result) if ref is not None])
    transaction.connection.execute(
        "INSERT INTO tombstones(change, backend, id, at) VALUES (?, ?, ?, ?)",
        (transaction.next_change(), key.backend, key.id, to_microseconds(transaction.now)),
    )
