"""What other programs did, as jobs: existing accounts are taken over in place, and beside us others go on.

These are no transitions of ours: a file that lies in a folder, or a status without our record, says what
has happened already.
"""

from datetime import datetime
from typing import Any

from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.dropbox_storage.documents import Status
from spoolway_providers.dropbox_storage.names import Place, rank_of, time_of
from spoolway_providers.model import (
    BlobRef,
    Draft,
    Failure,
    Job,
    JobKey,
    Outcome,
    Policy,
    Reason,
    State,
    Transition,
)

__all__ = ["adopt", "ended_silently", "followed", "is_foreign_end", "set_aside", "spoiled"]

_RESULT_MISSING = Failure("RESULT_MISSING", "it lies among the finished jobs, but has no result")
_NO_MESSAGE = "the program that ran it gave no reason"


def adopt(
    key: JobKey,
    *,
    seq: int,
    owner: str,
    content: BlobRef,
    place: Place,
    status: Status | None,
    result: BlobRef | None,
    now: datetime,
) -> Job:
    """The job that another program's files stand for."""
    draft = Draft(backend=key.backend, owner=owner, content=content, max_attempts=Policy().max_attempts)
    submitted_at = time_of(seq)
    job = rules.admit(draft, key=key, content=content, seq=seq, now=submitted_at, ranked_at=submitted_at)
    job = replace(job, rank=rank_of(seq))
    said = status.status if status else ""
    if said == "DONE" and result is not None:
        return _entered(job, now, State.DONE, result=result, fraction=1.0)
    if said == "ERROR" or place is Place.DELETED:
        message = (status.error_message if status else "") or _NO_MESSAGE
        return _entered(job, now, State.ERROR, Reason.FAILED, error=Failure("FAILED", message))
    match place:
        case Place.QUEUED:
            return job
        case Place.FINISHED:
            return _entered(job, now, State.ERROR, Reason.FAILED, error=_RESULT_MISSING)
        case _:
            return _entered(job, now, State.HELD, Reason.IMPORTED)


def set_aside(
    key: JobKey, *, seq: int, owner: str, content: BlobRef, place: Place, why: str, now: datetime
) -> Job:
    """A job whose status a newer program wrote: nothing happens to it but what an operator decides."""
    job = adopt(
        key, seq=seq, owner=owner, content=content, place=Place.QUEUED, status=None, result=None, now=now
    )
    match place:
        case Place.QUEUED:
            return _entered(job, now, State.HELD, Reason.OPERATOR)
        case Place.RUNNING:
            return _entered(job, now, State.HELD, Reason.IMPORTED)
    return _entered(job, now, State.ERROR, Reason.FAILED, error=Failure("DOCUMENT_CORRUPT", why))


def followed(job: Job, *, place: Place, status: Status | None, result: BlobRef | None, now: datetime) -> Job:
    """What became of a waiting job whose file another program has moved, or whose status it wrote."""
    said = status.status if status and status.job is None else ""
    if said == "DONE" and result is not None:
        return _entered(job, now, State.DONE, result=result, fraction=1.0, due_at=None)
    if said == "ERROR" or place is Place.DELETED:
        message = (status.error_message if status else "") or _NO_MESSAGE
        failure = Failure("FAILED", message)
        return _entered(job, now, State.ERROR, Reason.FAILED, error=failure, due_at=None)
    if place is Place.RUNNING and job.state in {State.QUEUED, State.HELD}:
        return _entered(job, now, State.RUNNING, Reason.FOREIGN, due_at=None)
    return job


def ended_silently(job: Job, *, place: Place, result: BlobRef | None, now: datetime) -> Job:
    """A job that another program has put among those that have ended, without a word of how."""
    if place is Place.FINISHED and result is not None:
        return _entered(job, now, State.DONE, result=result, fraction=1.0, due_at=None)
    failure = _RESULT_MISSING if place is Place.FINISHED else Failure("FAILED", _NO_MESSAGE)
    return _entered(job, now, State.ERROR, Reason.FAILED, error=failure, due_at=None)


def is_foreign_end(status: Status | None) -> bool:
    """Whether another program says that a job has ended."""
    return status is not None and status.job is None and status.status in {"DONE", "ERROR"}


def spoiled(job: Job, message: str, now: datetime) -> Job:
    """A waiting job with whose file something is wrong."""
    failure = Failure("FILE_LOST", message)
    return _entered(job, now, State.ERROR, Reason.FAILED, error=failure, due_at=None)


def _entered(job: Job, now: datetime, state: State, reason: Reason = Reason.NONE, **changes: Any) -> Job:
    times = (*job.times, Transition(state, now, reason))
    attempts = job.attempts
    if job.holder is not None:
        detail = "another program ended the job"
        attempts = (*attempts[:-1], replace(job.holder, outcome=Outcome.LOST, ended_at=now, detail=detail))
    revision = job.revision + 1
    return replace(
        job, state=state, reason=reason, times=times, attempts=attempts, revision=revision, **changes
    )
