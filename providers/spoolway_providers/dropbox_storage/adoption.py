"""What other programs did, as jobs: existing accounts are taken over in place, and beside us others go on.

A file that lies in a folder, or a status without our record, says what has happened: these are events for the
rules, like any others.
"""

from datetime import datetime

from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.dropbox_storage.documents import Status
from spoolway_providers.dropbox_storage.names import Place, rank_of, time_of
from spoolway_providers.model import BlobRef, Draft, Job, JobKey, Policy, State

__all__ = ["adopt", "ended_silently", "followed", "is_foreign_end", "set_aside", "spoiled"]


_RESULT_MISSING = rules.Spoiled("RESULT_MISSING", "it lies among the finished jobs, but has no result")


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
    policy: Policy,
) -> Job:
    """The job that another program's files stand for."""
    job = _admitted(key, seq=seq, owner=owner, content=content)
    event = _end_of(place, status, result)
    if event is None and place is Place.FINISHED:
        event = _RESULT_MISSING
    if event is None and place is not Place.QUEUED:
        event = rules.Imported()
    return job if event is None else _after(job, event, now, policy)


def set_aside(
    key: JobKey,
    *,
    seq: int,
    owner: str,
    content: BlobRef,
    place: Place,
    why: str,
    now: datetime,
    policy: Policy,
) -> Job:
    """A job whose status a newer program wrote: nothing happens to it but what an operator decides."""
    job = _admitted(key, seq=seq, owner=owner, content=content)
    events: dict[Place, rules.Event] = {
        Place.QUEUED: rules.Hold("its status was written by a newer program"),
        Place.RUNNING: rules.Imported(),
    }
    return _after(job, events.get(place, rules.Spoiled("DOCUMENT_CORRUPT", why)), now, policy)


def _admitted(key: JobKey, *, seq: int, owner: str, content: BlobRef) -> Job:
    draft = Draft(backend=key.backend, owner=owner, content=content, max_attempts=Policy().max_attempts)
    submitted_at = time_of(seq)
    job = rules.admit(draft, key=key, content=content, seq=seq, now=submitted_at, ranked_at=submitted_at)
    return replace(job, rank=rank_of(seq))


def followed(
    job: Job,
    *,
    place: Place,
    status: Status | None,
    result: BlobRef | None,
    now: datetime,
    policy: Policy,
) -> Job:
    """What became of a job whose file another program has moved, or whose status it wrote."""
    foreign = None if status is not None and status.job is not None else status
    event = _end_of(place, foreign, result)
    if event is None and place is Place.RUNNING and job.state in {State.QUEUED, State.HELD}:
        event = rules.TakenByForeign()
    return job if event is None else _after(job, event, now, policy)


def ended_silently(job: Job, *, place: Place, result: BlobRef | None, now: datetime, policy: Policy) -> Job:
    """A job that another program has put among those that have ended, without a word of how."""
    if place is Place.FINISHED and result is None:
        return _after(job, _RESULT_MISSING, now, policy)
    is_done = place is Place.FINISHED
    return _after(job, rules.EndedByForeign(result=result if is_done else None), now, policy)


def is_foreign_end(status: Status | None) -> bool:
    """Whether another program says that a job has ended."""
    return status is not None and status.job is None and status.status in {"DONE", "ERROR"}


def spoiled(job: Job, message: str, now: datetime, policy: Policy) -> Job:
    """A waiting job with whose file something is wrong."""
    return _after(job, rules.Spoiled("FILE_LOST", message), now, policy)


def _end_of(place: Place, status: Status | None, result: BlobRef | None) -> rules.Event | None:
    said = status.status if status else ""
    if said == "DONE" and result is not None:
        return rules.EndedByForeign(result=result)
    if said == "ERROR" or place is Place.DELETED:
        return rules.EndedByForeign(message=status.error_message if status else "")
    return None


def _after(job: Job, event: rules.Event, now: datetime, policy: Policy) -> Job:
    """The job after an event; as it is if that does not apply."""
    changed = rules.decide(job, event, now, policy)
    return changed if isinstance(changed, Job) else job
