"""Commits about files of others: those that the index does not know become jobs, the others are followed."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.local.documents import Record
from spoolway_providers.local.layout import Place
from spoolway_providers.model import BlobRef, Draft, Job, JobKey, Policy, Reason, State
from spoolway_providers.sqlite.documents import decode_job, decode_policy
from spoolway_providers.sqlite.jobs import update
from spoolway_providers.sqlite.submit import head_rank, insert_jobs, next_round
from spoolway_providers.sqlite.writer import Transaction, one_by_one

__all__ = ["Following", "Found", "adopt", "follow", "is_taken"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is to become a job."""

    key: JobKey
    owner: str
    user: str
    """The folder of its owner."""
    content: BlobRef
    place: Place
    at: datetime
    """When it was written."""
    record: Record = Record()
    """What its submit said, if we have taken it once."""
    events: tuple[rules.Event, ...] = ()
    """What has happened to it by now."""
    has_result: bool = False


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """What others have done to a job."""

    key: JobKey
    revision: int
    """Of the document that this was seen of; a newer one is left alone."""
    events: tuple[rules.Event, ...]
    place: Place | None = None
    """Where its file lies now; None: as before."""
    has_result: bool = False


@one_by_one
def adopt(transaction: Transaction, found: list[Found]) -> list[Job]:
    """Store jobs for files, in this order; of those that are known by now, or have no backend, none."""
    ranked_at = transaction.rank_time()
    policies: dict[str, Policy | None] = {}
    jobs: dict[JobKey, Job] = {}
    files: list[tuple[object, ...]] = []
    for one in found:
        backend = one.key.backend
        if backend not in policies:
            policies[backend] = _policy(transaction, backend)
        policy = policies[backend]
        if policy is None or one.key in jobs or _is_known(transaction, one.key):
            continue
        if one.place is Place.QUEUED and is_taken(transaction.connection, one.key):
            continue
        job = _job_of(one, transaction, policy, ranked_at)
        jobs[one.key] = job
        transaction.note(job.seq, job)
        files.append((job.seq, backend, one.key.id, one.user, one.place.value, one.has_result))
    insert_jobs(transaction, jobs.values())
    transaction.connection.executemany(
        "INSERT INTO local_files(seq, backend, id, user, place, has_result) VALUES (?, ?, ?, ?, ?, ?)", files
    )
    return list(jobs.values())


def is_taken(connection: sqlite3.Connection, key: JobKey) -> bool:
    """Whether a job of another backend has this id: where jobs run, the files of all lie together."""
    row = connection.execute(
        "SELECT 1 FROM jobs WHERE id = ? AND backend <> ? LIMIT 1", (key.id, key.backend)
    )
    return row.fetchone() is not None


def _policy(transaction: Transaction, backend: str) -> Policy | None:
    """The policy of a backend; None if there is no such backend."""
    row = transaction.connection.execute(
        "SELECT policy FROM backends WHERE name = ? AND config_etag <> ''", (backend,)
    ).fetchone()
    if row is None:
        return None
    return Policy() if row[0] is None else decode_policy(row[0])


def _is_known(transaction: Transaction, key: JobKey) -> bool:
    """Whether there is such a job, or was one whose files are still to be removed."""
    row = transaction.connection.execute(
        "SELECT 1 FROM jobs WHERE id = ?1 AND backend = ?2"
        " UNION ALL SELECT 1 FROM local_files WHERE id = ?1 AND backend = ?2 LIMIT 1",
        (key.id, key.backend),
    ).fetchone()
    return row is not None


def _job_of(one: Found, transaction: Transaction, policy: Policy, ranked_at: datetime) -> Job:
    record = one.record
    is_delayed = (record.state, record.reason) == (State.HELD, Reason.DELAYED)
    draft = Draft(
        backend=one.key.backend,
        owner=one.owner,
        content=one.content,
        max_attempts=record.max_attempts or policy.max_attempts,
        labels=record.labels,
        priority=record.priority,
        not_before=record.due_at if is_delayed else None,
        expire_at=record.expire_at,
        max_run_time=record.max_run_time,
        round_robin=policy.round_robin,
    )
    turn = None
    if draft.round_robin:
        turn = next_round(transaction, draft, head_rank(transaction, draft.backend))
    job = rules.admit(
        draft,
        key=one.key,
        content=one.content,
        seq=transaction.next_change(),
        now=min(one.at, transaction.now),
        ranked_at=ranked_at,
        turn=turn,
    )
    return _after(job, one.events, transaction.now, policy)


@one_by_one
def follow(transaction: Transaction, following: Following) -> Job | None:
    """Let a job follow what others have done to it; None if it has changed meanwhile, or can't."""
    key = following.key
    row = transaction.connection.execute(
        "SELECT j.doc, b.policy FROM jobs j JOIN backends b ON b.name = j.backend"
        " WHERE j.id = ? AND j.backend = ?",
        (key.id, key.backend),
    ).fetchone()
    job = None if row is None else decode_job(row[0])
    if job is None or job.revision != following.revision:
        return None
    policy = Policy() if row[1] is None else decode_policy(row[1])
    changed = _after(job, following.events, transaction.now, policy)
    if following.place is not None:
        transaction.connection.execute(
            "UPDATE local_files SET place = ?, has_result = max(has_result, ?) WHERE seq = ?",
            (following.place.value, following.has_result, job.seq),
        )
    if changed is not job:
        update(transaction, [(changed, job.revision)])
    return changed


def _after(job: Job, events: Sequence[rules.Event], now: datetime, policy: Policy) -> Job:
    """The job after all these events, as one change; what does not apply is passed over."""
    changed = job
    for event in events:
        decided = rules.decide(changed, event, now, policy)
        if isinstance(decided, Job):
            changed = decided
    return changed if changed is job else replace(changed, revision=job.revision + 1)
