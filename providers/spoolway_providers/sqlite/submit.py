"""Submitting jobs: each atomic with its request id, many in one statement."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from spoolway_providers import digests, rules
from spoolway_providers.errors import NotFound, ProviderError, QueueFull, RequestIdReused
from spoolway_providers.model import BlobRef, Draft, Job, JobKey, content_blob_id, new_object_id
from spoolway_providers.sqlite.blobs import keep_blobs, keep_upload, too_large
from spoolway_providers.sqlite.documents import JOB_VALUES, decode_job, job_values, to_microseconds
from spoolway_providers.sqlite.writer import Operation, Transaction

__all__ = ["head_rank", "insert_jobs", "next_round", "submit", "submit_with"]

_INSERT_JOB = f"""
    INSERT INTO jobs(seq, id, backend, owner, {", ".join(JOB_VALUES)})
    VALUES (?, ?, ?, ?, {", ".join("?" * len(JOB_VALUES))})
"""  # noqa: S608 - names of our own columns

_MAX_LOOKED_UP = 256
"""Request ids in one query."""

Answer = Job | ProviderError


NewId = Callable[[Transaction, Draft], str]
"""The id of the job that a draft becomes; its `seq` will be `transaction.change + 1`."""


def submit_with(new_id: NewId) -> Operation[Sequence[Draft], list[Answer]]:
    """The operation that stores the jobs of all calls, with ids by `new_id`; see the interface."""

    def submit(transaction: Transaction, calls: list[Sequence[Draft]]) -> list[list[Answer]]:
        intake = _Intake(transaction, new_id)
        intake.look_up(draft for drafts in calls for draft in drafts)
        answers = [[intake.take(draft) for draft in drafts] for drafts in calls]
        intake.store()
        return answers

    return submit


submit = submit_with(lambda transaction, draft: new_object_id())
"""With ids as this storage makes them."""


class _Intake:
    """The submits of one batch: looked through one by one, stored together.

    A job that is still to be stored counts already: for its twin, and for the limit of waiting jobs.
    """

    def __init__(self, transaction: Transaction, new_id: NewId) -> None:
        self._transaction = transaction
        self._new_id = new_id
        self._ranked_at = transaction.rank_time()
        self._jobs: list[Job] = []
        self._contents: list[tuple[str, bytes]] = []
        self._requests: dict[tuple[str, str, str], tuple[str, Job]] = {}
        self._stored: dict[tuple[str, str, str], tuple[str, str, str | None]] = {}
        self._backends: dict[str, bool] = {}
        self._waiting: dict[str, int] = {}
        self._heads: dict[str, int | None] = {}

    def look_up(self, drafts: Iterable[Draft]) -> None:
        """Find what came before under the drafts' request ids: few queries for all of a batch."""
        asked: dict[tuple[str, str], list[str]] = {}
        for draft in drafts:
            if draft.request_id:
                asked.setdefault((draft.owner, draft.backend), []).append(draft.request_id)
        for (owner, backend), request_ids in asked.items():
            for first in range(0, len(request_ids), _MAX_LOOKED_UP):
                some = request_ids[first : first + _MAX_LOOKED_UP]
                places = 1 << (len(some) - 1).bit_length()
                padded = some + some[-1:] * (places - len(some))
                rows = self._transaction.connection.execute(_find_requests(places), (owner, backend, *padded))
                for request_id, *found in rows:
                    self._stored[owner, backend, request_id] = tuple(found)

    def take(self, draft: Draft) -> Answer:
        key = JobKey(draft.backend, self._new_id(self._transaction, draft))
        content = draft.content
        ref = digests.blob_ref(content_blob_id(key), content) if isinstance(content, bytes) else content
        fingerprint = digests.draft_fingerprint(draft, ref.sha256) if draft.request_id else ""
        answer = self._refuse_backend(draft) or self._repeat(draft, fingerprint) or self._refuse(draft, ref)
        if answer is not None:
            return answer
        transaction = self._transaction
        job = rules.admit(
            draft,
            key=key,
            content=ref,
            seq=transaction.next_change(),
            now=transaction.now,
            ranked_at=self._ranked_at,
            turn=self._next_round(draft) if draft.round_robin else None,
        )
        if isinstance(content, bytes):
            self._contents.append((ref.id, content))
        if draft.request_id:
            self._requests[draft.owner, draft.backend, draft.request_id] = (fingerprint, job)
        if draft.backend in self._waiting:
            self._waiting[draft.backend] += 1
        self._jobs.append(job)
        transaction.note(job.seq, job)
        return job

    def _next_round(self, draft: Draft) -> int:
        # The first jobs of this batch are not in their table yet, so the head is looked up once.
        if draft.backend not in self._heads:
            self._heads[draft.backend] = head_rank(self._transaction, draft.backend)
        turn = next_round(self._transaction, draft, self._heads[draft.backend])
        if self._heads[draft.backend] is None and not draft.not_before:
            self._heads[draft.backend] = turn
        return turn

    def store(self) -> None:
        connection = self._transaction.connection
        at = to_microseconds(self._transaction.now)
        insert_jobs(self._transaction, self._jobs)
        keep_blobs(self._transaction, self._contents)
        connection.executemany(
            "INSERT INTO requests(owner, backend, request_id, fingerprint, id, at) VALUES (?, ?, ?, ?, ?, ?)",
            ((*name, fingerprint, job.key.id, at) for name, (fingerprint, job) in self._requests.items()),
        )

    def _refuse_backend(self, draft: Draft) -> ProviderError | None:
        name = draft.backend
        if name not in self._backends:
            found = self._transaction.connection.execute(
                "SELECT 1 FROM backends WHERE name = ? AND config_etag <> ''", (name,)
            )
            self._backends[name] = found.fetchone() is not None
        return None if self._backends[name] else NotFound(f"there is no backend {name!r}")

    def _repeat(self, draft: Draft, fingerprint: str) -> Answer | None:
        """What a request id that came before stands for."""
        if not draft.request_id:
            return None
        name = (draft.owner, draft.backend, draft.request_id)
        if name in self._requests:
            known_fingerprint, twin = self._requests[name]
            return twin if fingerprint == known_fingerprint else _reused(draft)
        if name not in self._stored:
            return None
        known_fingerprint, job_id, doc = self._stored[name]
        if known_fingerprint not in {"", fingerprint}:
            return _reused(draft)
        if doc is None:
            key = JobKey(draft.backend, job_id)
            return NotFound(f"request id {draft.request_id!r} made {key}, which is deleted by now")
        return decode_job(doc)

    def _refuse(self, draft: Draft, ref: BlobRef) -> ProviderError | None:
        if late := rules.late(draft):
            return late
        if draft.max_queued and self._count_waiting(draft.backend, draft.max_queued) >= draft.max_queued:
            message = f"backend {draft.backend!r} has {draft.max_queued} waiting jobs"
            return QueueFull(message, draft.max_queued)
        if isinstance(draft.content, bytes):
            return too_large(draft.content)
        return keep_upload(self._transaction, ref)

    def _count_waiting(self, backend: str, limit: int) -> int:
        if backend not in self._waiting:
            self._waiting[backend] = self._transaction.connection.execute(
                "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE backend = ?"
                " AND state IN ('QUEUED', 'HELD') LIMIT ?)",
                (backend, limit),
            ).fetchone()[0]
        return self._waiting[backend]


def head_rank(transaction: Transaction, backend: str) -> int | None:
    """The rank of the first job in a queue; None if it is empty."""
    row = transaction.connection.execute(
        "SELECT rank FROM jobs WHERE backend = ? AND state = 'QUEUED' AND state IN ('QUEUED', 'HELD')"
        " ORDER BY rank LIMIT 1",
        (backend,),
    ).fetchone()
    return None if row is None else int(row[0])


def next_round(transaction: Transaction, draft: Draft, head: int | None) -> int:
    """The round of a draft on a backend on which owners take turns; kept with the transaction."""
    connection = transaction.connection
    last, newest = connection.execute(
        "SELECT (SELECT round FROM rounds WHERE backend = ?1 AND owner = ?2),"
        " (SELECT max(round) FROM rounds WHERE backend = ?1)",
        (draft.backend, draft.owner),
    ).fetchone()
    serving = newest if head is None else head
    if serving is None:
        serving = int(transaction.rank_time().timestamp() * 1000)
    turn = rules.next_round(serving, last)
    connection.execute(
        "INSERT INTO rounds(backend, owner, round) VALUES (?, ?, ?)"
        " ON CONFLICT (backend, owner) DO UPDATE SET round = excluded.round",
        (draft.backend, draft.owner, turn),
    )
    return turn


@lru_cache
def _find_requests(places: int) -> str:
    """The query for so many request ids of one owner and backend; of few sizes, so that it stays prepared."""
    return f"""
        SELECT r.request_id, r.fingerprint, r.id, j.doc FROM requests r LEFT JOIN jobs j USING (id, backend)
        WHERE r.owner = ? AND r.backend = ? AND r.request_id IN ({", ".join("?" * places)})
    """  # noqa: S608 - places for values


def insert_jobs(transaction: Transaction, jobs: Iterable[Job]) -> None:
    """Store the rows of new jobs, each under the number of its `seq`."""
    transaction.connection.executemany(
        _INSERT_JOB,
        [(job.seq, job.key.id, job.key.backend, job.owner, *job_values(job, job.seq)) for job in jobs],
    )


def _reused(draft: Draft) -> RequestIdReused:
    return RequestIdReused(f"request id {draft.request_id!r} came before, with another content")
