"""All rules about jobs and sessions, as pure functions that know no storage.

`decide` is the state machine. A provider contains no transition of its own: it stores what `decide`
makes, by compare-and-set on the job's revision, so no two storages can drift apart.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from spoolway_providers.errors import Expired
from spoolway_providers.model import (
    ACTIVE_STATES,
    Attempt,
    BlobRef,
    Draft,
    Failure,
    Job,
    JobKey,
    Outcome,
    Policy,
    Reason,
    Session,
    SessionState,
    State,
    Transition,
)

__all__ = [
    "SPOOLER_REVOKED",
    "Accept",
    "Cancel",
    "Cancelled",
    "Claim",
    "Complete",
    "Due",
    "EndedByForeign",
    "Event",
    "Fail",
    "FailHeld",
    "Hold",
    "Imported",
    "Progress",
    "Refusal",
    "Release",
    "Resume",
    "Retry",
    "ReturnedByForeign",
    "SessionGone",
    "Spoiled",
    "TakenByForeign",
    "Unhold",
    "Withdraw",
    "admit",
    "bars",
    "decide",
    "late",
    "lost_timeout",
    "next_round",
    "retry_delay",
    "supersede",
]

MAX_RELEASES = 20
"""Releases a job; a further one is a failure, else a spooler could pass it round for ever."""
MAX_ATTEMPTS_KEPT = 50
MAX_TRANSITIONS_KEPT = 100
MAX_RETRY_DELAY = timedelta(seconds=60)
PRIORITY_STEP = timedelta(minutes=1)
"""What a step of priority is worth in waiting time: jobs age without a sweeper."""
NO_RETRY_LOST_TIMEOUT = timedelta(hours=24)
MAX_MESSAGE = 10_000
"""Characters kept of a failure's message."""
MAX_DETAIL = 1_000


class Claim(msgspec.Struct, frozen=True):
    """A dispatcher takes the job for a session; `token` is new and random."""

    token: str
    session: str
    spooler: str


class Accept(msgspec.Struct, frozen=True):
    """The spooler takes it; only then it runs."""

    token: str


class Progress(msgspec.Struct, frozen=True):
    """What the running job does; None leaves a field as it is."""

    token: str
    stage: str | None = None
    fraction: float | None = None
    detail: str | None = None


class Complete(msgspec.Struct, frozen=True):
    """It ended well; from CLAIMED it implies the accept."""

    token: str
    result: BlobRef


class Fail(msgspec.Struct, frozen=True):
    """The attempt went wrong; from CLAIMED it implies the accept."""

    token: str
    message: str
    retryable: bool = False
    retry_after: timedelta | None = None


class Release(msgspec.Struct, frozen=True):
    """The spooler gives it back unharmed."""

    token: str
    reason: str = ""


class Withdraw(msgspec.Struct, frozen=True):
    """The server takes back what was never accepted."""

    token: str
    reason: str = ""


class Cancelled(msgspec.Struct, frozen=True):
    """The spooler has stopped, as asked."""

    token: str


class SessionGone(msgspec.Struct, frozen=True):
    """The session that holds the job is closed."""

    session: str
    reason: str = ""


class Resume(msgspec.Struct, frozen=True):
    """The spooler still holds it, and names it in the hello of a new session."""

    token: str
    session: str


class Cancel(msgspec.Struct, frozen=True):
    """Its owner or an operator wants it to end."""

    by: str


class Due(msgspec.Struct, frozen=True):
    """`due_at` has come."""


class Hold(msgspec.Struct, frozen=True):
    """An operator keeps it from running."""

    by: str


class Unhold(msgspec.Struct, frozen=True):
    """An operator lets it run (again), sure that nobody runs it any more."""

    by: str


class FailHeld(msgspec.Struct, frozen=True):
    """An operator ends a job that is held, or that another program holds."""

    by: str
    message: str


class Retry(msgspec.Struct, frozen=True):
    """Its owner or an operator wants it to run anew."""

    by: str


class TakenByForeign(msgspec.Struct, frozen=True):
    """Another program has taken its document: it runs there, without a lease of ours."""

    token: str = ""
    """Of our own claim, if that came too late."""


class EndedByForeign(msgspec.Struct, frozen=True):
    """The other program has ended it: well, with a result, or in error."""

    result: BlobRef | None = None
    message: str = ""


class ReturnedByForeign(msgspec.Struct, frozen=True):
    """Somebody has put its document back into the queue."""


class Imported(msgspec.Struct, frozen=True):
    """It was found running, and nobody knows where: an operator decides."""


class Spoiled(msgspec.Struct, frozen=True):
    """Its document was lost or changed by others, so that it can't be run."""

    reason: str
    """UPPER_SNAKE_CASE."""
    message: str
    token: str = ""
    """Of our own claim, if that came too late."""


Event = (
    Claim
    | Accept
    | Progress
    | Complete
    | Fail
    | Release
    | Withdraw
    | Cancelled
    | SessionGone
    | Resume
    | Cancel
    | Due
    | Hold
    | Unhold
    | FailHeld
    | Retry
    | TakenByForeign
    | EndedByForeign
    | ReturnedByForeign
    | Imported
    | Spoiled
)


class Refusal(msgspec.Struct, frozen=True):
    """The event does not apply; nothing is to be stored."""

    reason: str
    """LEASE_SUPERSEDED, LEASE_ENDED or WRONG_STATE."""
    message: str


def admit(
    draft: Draft,
    *,
    key: JobKey,
    content: BlobRef,
    seq: int,
    now: datetime,
    ranked_at: datetime | None = None,
    turn: int | None = None,
) -> Job:
    """The job that a submit commits: QUEUED, or HELD(DELAYED) with `not_before` in the future.

    `ranked_at` stands in for `now` in the rank: the storage gives one that never runs backwards, since
    else a clock that was set back would let later jobs pass. `turn` is the rank by `next_round`, for a
    draft that asks for it.
    """
    delayed = draft.not_before is not None and draft.not_before > now
    state, reason = (State.HELD, Reason.DELAYED) if delayed else (State.QUEUED, Reason.NONE)
    return Job(
        key=key,
        owner=draft.owner,
        content=content,
        seq=seq,
        rank=_rank(ranked_at or now, draft.priority) if turn is None else turn,
        request_id=draft.request_id,
        labels=draft.labels,
        trace=draft.trace,
        priority=draft.priority,
        max_attempts=draft.max_attempts,
        max_run_time=draft.max_run_time,
        expire_at=draft.expire_at,
        state=state,
        reason=reason,
        due_at=_earliest(draft.not_before, draft.expire_at) if delayed else draft.expire_at,
        times=(Transition(state, now, reason),),
    )


def late(draft: Draft) -> Expired | None:
    """Why a draft that is no repeat can't be admitted any more."""
    if not draft.is_late:
        return None
    return Expired(
        "expire_time has passed, and this request id has no job from before; submit with a later one"
    )


def decide(job: Job, event: Event, now: datetime, policy: Policy) -> Job | Refusal:
    """What `event` makes of `job`.

    Returns:
        The changed job, with the next revision, to be committed against the old one's revision; the
        same object if the event changes nothing, as when it is repeated; or why it does not apply.
    """
    changed: Job | Refusal = _RULES[type(event)](job, event, now, policy)  # type: ignore[operator]
    if isinstance(changed, Job) and changed.is_terminal and not job.is_terminal:
        # Fixed now, so that no job goes earlier than its owner could see.
        changed = replace(changed, due_at=None if policy.retention is None else now + policy.retention)
    if isinstance(changed, Job) and changed.revision > job.revision + 1:
        # An implied accept, or a return from LOST, is committed together with what it is implied by.
        return replace(changed, revision=job.revision + 1)
    return changed


def next_round(serving: int, last: int | None) -> int:
    """The rank of an owner's next job where owners take turns: a round that gives each of them one job.

    Kept by the storage in the submit's own commit. Rounds are numbers like other ranks, so that a backend
    can change from one order to the other.

    Args:
        serving: the round being served: the rank of the first QUEUED job; if there is none the last round
            that was given to anybody, and if there was none the time in ms.
        last: the last round given to this owner; None: none yet.
    """
    return serving if last is None else max(serving, last + 1)


def retry_delay(attempt: int) -> timedelta:
    """How long a job waits after its n-th attempt went wrong: min(60 s, 2^n s)."""
    return min(MAX_RETRY_DELAY, timedelta(seconds=2 ** min(attempt, 10)))


def lost_timeout(job: Job, policy: Policy) -> timedelta:
    """How long a lost job that may not run again waits for its spooler."""
    if policy.lost_timeout is not None:
        return policy.lost_timeout
    return NO_RETRY_LOST_TIMEOUT if job.max_attempts == 1 else timedelta(0)


SPOOLER_REVOKED = "SPOOLER_REVOKED"
"""Reason of a session that an operator has ended."""


def bars(old: Session, new: Session) -> bool:
    """Whether `new` may not be opened because of `old`: an operator has revoked this very instance."""
    return (
        old.state is SessionState.CLOSED
        and old.reason == SPOOLER_REVOKED
        and (old.principal, old.spooler_id, old.instance_id)
        == (new.principal, new.spooler_id, new.instance_id)
    )


def supersede(old: Session, new: Session, *, predecessor_dead: bool) -> Session:
    """What becomes of the live session `old` when the same spooler opens `new`.

    The same instance has told what it still holds, a dead or disconnected one holds nothing: its other
    leases return at once. A foreign instance keeps its leases until they run out.
    """
    gone = predecessor_dead or old.detached or old.instance_id == new.instance_id
    reason = "SESSION_RESUMED" if old.instance_id == new.instance_id else "SESSION_REPLACED"
    return replace(old, state=SessionState.CLOSED if gone else SessionState.REPLACED, reason=reason)


def _claim(job: Job, event: Claim, now: datetime, policy: Policy) -> Job | Refusal:
    if job.state is not State.QUEUED:
        return _wrong_state(job, "only a queued job can be claimed")
    number = job.claim_count + 1
    attempt = Attempt(number, event.token, event.session, event.spooler, now)
    kept = job.attempts[-(MAX_ATTEMPTS_KEPT - 1) :]
    return _enter(job, now, State.CLAIMED, attempts=(*kept, attempt), claim_count=number, due_at=None)


def _accept(job: Job, event: Accept, now: datetime, policy: Policy) -> Job | Refusal:
    attempt = job.attempt(event.token)
    if attempt is None or attempt.outcome is not Outcome.OPEN:
        return _no_lease(job, attempt)
    return _start(job, now) if job.state is State.CLAIMED else job


def _progress(job: Job, event: Progress, now: datetime, policy: Policy) -> Job | Refusal:
    attempt = job.attempt(event.token)
    if attempt is None or attempt.outcome is not Outcome.OPEN:
        return _no_lease(job, attempt)
    if job.state is State.CLAIMED:
        job = _start(job, now)
    changed = replace(
        job,
        stage=job.stage if event.stage is None else event.stage[:100],
        fraction=job.fraction if event.fraction is None else min(1.0, max(0.0, event.fraction)),
        detail=job.detail if event.detail is None else event.detail[:MAX_DETAIL],
    )
    return job if changed == job else replace(changed, revision=job.revision + 1)


def _complete(job: Job, event: Complete, now: datetime, policy: Policy) -> Job | Refusal:
    attempt = job.attempt(event.token)
    if attempt is not None and attempt.outcome is Outcome.DONE:
        return job
    job_or_refusal = _regain(job, attempt, now)
    if isinstance(job_or_refusal, Refusal):
        return job_or_refusal
    job = job_or_refusal
    return _enter(
        job,
        now,
        State.DONE,
        attempts=_end_attempt(job, now, Outcome.DONE),
        result=event.result,
        due_at=None,
        fraction=1.0,
    )


def _fail(job: Job, event: Fail, now: datetime, policy: Policy) -> Job | Refusal:
    attempt = job.attempt(event.token)
    if attempt is not None and attempt.outcome is Outcome.FAILED:
        return job
    job_or_refusal = _regain(job, attempt, now)
    if isinstance(job_or_refusal, Refusal):
        return job_or_refusal
    job = job_or_refusal
    if job.state is State.CANCELLING:
        return _end_cancelling(job, now)
    message = event.message[:MAX_MESSAGE]
    attempts = _end_attempt(job, now, Outcome.FAILED, message[:MAX_DETAIL])
    if not event.retryable:
        return _end_in_error(job, now, Reason.FAILED, message, attempts)
    if job.attempt_count >= job.max_attempts:
        return _end_in_error(job, now, Reason.ATTEMPTS_EXHAUSTED, message, attempts)
    return _delay(job, now, event.retry_after or retry_delay(job.attempt_count), attempts)


def _release(job: Job, event: Release, now: datetime, policy: Policy) -> Job | Refusal:
    attempt = job.attempt(event.token)
    if attempt is not None and attempt.outcome is Outcome.RELEASED:
        return job
    if attempt is None or attempt.outcome is not Outcome.OPEN:
        return _no_lease(job, attempt)
    if job.state is State.CANCELLING:
        return _end_cancelling(job, now)
    if job.releases >= MAX_RELEASES:
        message = f"released more than {MAX_RELEASES} times; the last reason: {event.reason}"
        return _fail(job, Fail(event.token, message, retryable=True), now, policy)
    started = job.state is State.RUNNING
    return _requeue(
        job,
        now,
        attempts=_end_attempt(job, now, Outcome.RELEASED, event.reason[:MAX_DETAIL]),
        attempt_count=job.attempt_count - started,
        releases=job.releases + 1,
    )


def _withdraw(job: Job, event: Withdraw, now: datetime, policy: Policy) -> Job | Refusal:
    attempt = job.attempt(event.token)
    if attempt is not None and attempt.outcome is Outcome.WITHDRAWN:
        return job
    if job.state is not State.CLAIMED or attempt is None or attempt.outcome is not Outcome.OPEN:
        return _no_lease(job, attempt)
    return _requeue(job, now, attempts=_end_attempt(job, now, Outcome.WITHDRAWN, event.reason[:MAX_DETAIL]))


def _cancelled(job: Job, event: Cancelled, now: datetime, policy: Policy) -> Job | Refusal:
    attempt = job.attempt(event.token)
    if attempt is not None and attempt.outcome is Outcome.CANCELLED:
        return job
    if attempt is None or attempt.outcome is not Outcome.OPEN:
        return _no_lease(job, attempt)
    if job.state is not State.CANCELLING:
        return _wrong_state(job, "nobody asked to cancel it; report a failure or release it")
    return _end_cancelling(job, now)


def _session_gone(job: Job, event: SessionGone, now: datetime, policy: Policy) -> Job | Refusal:
    holder = job.holder
    if holder is None or holder.session != event.session or job.state not in ACTIVE_STATES:
        return job
    if job.state is State.CANCELLING:
        return _end_cancelling(job, now)
    why = f"spooler {holder.spooler} was lost" + (f" ({event.reason})" if event.reason else "")
    attempts = _end_attempt(job, now, Outcome.LOST, why)
    if job.state is State.CLAIMED:
        crashes = job.crashes + 1
        if crashes < policy.max_crashes:
            return _requeue(job, now, attempts=attempts, crashes=crashes)
        message = f"{crashes} spoolers were lost with this job in hand before it ran"
        return _end_in_error(replace(job, crashes=crashes), now, Reason.POISON, message, attempts)
    if job.attempt_count < job.max_attempts:
        return _delay(job, now, retry_delay(job.attempt_count), attempts)
    patience = lost_timeout(job, policy)
    if patience > timedelta(0):
        return _enter(job, now, State.HELD, Reason.SPOOLER_LOST, attempts=attempts, due_at=now + patience)
    return _end_in_error(job, now, Reason.SPOOLER_LOST, why, attempts)


def _resume(job: Job, event: Resume, now: datetime, policy: Policy) -> Job | Refusal:
    attempt = job.attempt(event.token)
    if attempt is None:
        return _no_lease(job, attempt)
    if attempt.outcome is Outcome.OPEN:
        if attempt.session == event.session:
            return job
        moved = replace(attempt, session=event.session)
        return replace(job, attempts=(*job.attempts[:-1], moved), revision=job.revision + 1)
    resumed = _regain(job, attempt, now)
    if isinstance(resumed, Refusal):
        return resumed
    moved = replace(resumed.attempts[-1], session=event.session)
    return replace(resumed, attempts=(*resumed.attempts[:-1], moved), revision=job.revision + 1)


def _cancel(job: Job, event: Cancel, now: datetime, policy: Policy) -> Job | Refusal:
    if job.is_terminal or job.state is State.CANCELLING:
        return job
    if job.state is State.RUNNING and job.holder is not None:
        return _enter(job, now, State.CANCELLING, Reason.USER, due_at=now + policy.cancel_grace)
    attempts = job.attempts
    if job.state is State.CLAIMED:
        attempts = _end_attempt(job, now, Outcome.CANCELLED, f"cancelled by {event.by}")
    return _enter(job, now, State.CANCELLED, attempts=attempts, due_at=None)


def _due(job: Job, event: Due, now: datetime, policy: Policy) -> Job | Refusal:
    if job.due_at is None or now < job.due_at:
        return job
    expired = job.expire_at is not None and now >= job.expire_at
    match job.state, job.reason:
        case (State.HELD, Reason.SPOOLER_LOST):
            message = "its spooler was lost and did not come back in time"
            return _end_in_error(job, now, Reason.SPOOLER_LOST, message, job.attempts)
        case (State.QUEUED, _) | (State.HELD, Reason.DELAYED | Reason.OPERATOR) if expired:
            return _enter(job, now, State.EXPIRED, due_at=None)
        case (State.HELD, Reason.DELAYED | Reason.IMPORTED) | (State.RUNNING, Reason.FOREIGN):
            return _requeue(job, now)
        case (State.RUNNING, _):
            return _enter(job, now, State.CANCELLING, Reason.TIMEOUT, due_at=now + policy.cancel_grace)
        case (State.CANCELLING, _):
            return _end_cancelling(job, now)
        case _:
            return job


def _hold(job: Job, event: Hold, now: datetime, policy: Policy) -> Job | Refusal:
    if (job.state, job.reason) == (State.HELD, Reason.OPERATOR):
        return job
    if job.state is not State.QUEUED:
        return _wrong_state(job, "only a queued job can be held")
    return _enter(job, now, State.HELD, Reason.OPERATOR, due_at=job.expire_at)


def _unhold(job: Job, event: Unhold, now: datetime, policy: Policy) -> Job | Refusal:
    if job.state is State.QUEUED:
        return job
    if not _waits_for_decision(job):
        return _wrong_state(job, f"only a job held by {_DECIDERS} can be let go")
    # Whoever lets a lost job run again gives it that attempt back: it may have none left.
    given_back = job.reason is Reason.SPOOLER_LOST
    return _requeue(job, now, attempt_count=job.attempt_count - given_back)


_DECIDERS = "an operator, an import, a lost spooler or another program"


def _waits_for_decision(job: Job) -> bool:
    """Whether it stays as it is until somebody decides, who knows that nothing runs it."""
    return _is_foreign(job) or (job.state is State.HELD and job.reason is not Reason.DELAYED)


def _fail_held(job: Job, event: FailHeld, now: datetime, policy: Policy) -> Job | Refusal:
    if not _waits_for_decision(job):
        return _wrong_state(job, f"only a job held by {_DECIDERS} can be failed")
    return _end_in_error(job, now, Reason.OPERATOR, event.message[:MAX_MESSAGE], job.attempts)


def _retry(job: Job, event: Retry, now: datetime, policy: Policy) -> Job | Refusal:
    if job.state not in {State.ERROR, State.CANCELLED, State.EXPIRED}:
        return _wrong_state(job, "only a job that ended without a result can be retried")
    return _enter(
        job,
        now,
        State.QUEUED,
        # Among rounds the time of now would be the end of all queues: its turn had come, and comes again.
        rank=job.rank if policy.round_robin else _rank(now, job.priority),
        attempts=tuple(replace(a, token="") for a in job.attempts),
        attempt_count=0,
        crashes=0,
        releases=0,
        expire_at=None,
        due_at=None,
        error=None,
        stage="",
        fraction=0.0,
        detail="",
    )


def _taken_by_foreign(job: Job, event: TakenByForeign, now: datetime, policy: Policy) -> Job | Refusal:
    if _is_foreign(job):
        return job
    attempts = _attempts_let_go(job, event.token, now, "another program was first to take it")
    if attempts is None:
        return _wrong_state(job, "only a waiting job can be taken by another program")
    due_at = _foreign_due(now, policy)
    return _enter(job, now, State.RUNNING, Reason.FOREIGN, attempts=attempts, due_at=due_at)


def _ended_by_foreign(job: Job, event: EndedByForeign, now: datetime, policy: Policy) -> Job | Refusal:
    if job.is_terminal:
        return job
    if not (_is_foreign(job) or job.state in {State.QUEUED, State.HELD}):
        return _wrong_state(job, "another program can't end what a session of ours holds")
    if event.result is not None:
        return _enter(job, now, State.DONE, result=event.result, due_at=None, fraction=1.0)
    message = event.message[:MAX_MESSAGE] or "the program that ran it gave no reason"
    return _end_in_error(job, now, Reason.FAILED, message, job.attempts)


def _returned_by_foreign(job: Job, event: ReturnedByForeign, now: datetime, policy: Policy) -> Job | Refusal:
    if job.state is State.QUEUED:
        return job
    if not _is_foreign(job) and (job.state, job.reason) != (State.HELD, Reason.IMPORTED):
        return _wrong_state(job, "only what another program holds can be put back by it")
    return _requeue(job, now)


def _imported(job: Job, event: Imported, now: datetime, policy: Policy) -> Job | Refusal:
    if job.state is not State.QUEUED:
        return _wrong_state(job, "only a job that was just adopted can be marked as imported")
    return _enter(job, now, State.HELD, Reason.IMPORTED, due_at=_foreign_due(now, policy))


def _spoiled(job: Job, event: Spoiled, now: datetime, policy: Policy) -> Job | Refusal:
    if job.is_terminal:
        return job
    attempts = _attempts_let_go(job, event.token, now, "its document was lost")
    if attempts is None and not _is_foreign(job):
        return _wrong_state(job, "whoever holds it has its document")
    error = Failure(event.reason, event.message[:MAX_MESSAGE])
    kept = job.attempts if attempts is None else attempts
    return _enter(job, now, State.ERROR, Reason.FAILED, attempts=kept, error=error, due_at=None)


def _foreign_due(now: datetime, policy: Policy) -> datetime | None:
    """When a job that no lease of ours names is taken back; without the policy's word never."""
    return None if policy.foreign_claim_timeout is None else now + policy.foreign_claim_timeout


def _is_foreign(job: Job) -> bool:
    """Whether another program runs it."""
    return (job.state, job.reason) == (State.RUNNING, Reason.FOREIGN)


def _attempts_let_go(job: Job, token: str, now: datetime, detail: str) -> tuple[Attempt, ...] | None:
    """The attempts of a job that nobody of ours works on, the claim of `token` withdrawn; else None."""
    if job.state in {State.QUEUED, State.HELD}:
        return job.attempts
    holder = job.holder
    if job.state is State.CLAIMED and holder is not None and holder.token == token:
        return _end_attempt(job, now, Outcome.WITHDRAWN, detail)
    return None


_RULES = {
    Claim: _claim,
    Accept: _accept,
    Progress: _progress,
    Complete: _complete,
    Fail: _fail,
    Release: _release,
    Withdraw: _withdraw,
    Cancelled: _cancelled,
    SessionGone: _session_gone,
    Resume: _resume,
    Cancel: _cancel,
    Due: _due,
    Hold: _hold,
    Unhold: _unhold,
    FailHeld: _fail_held,
    Retry: _retry,
    TakenByForeign: _taken_by_foreign,
    EndedByForeign: _ended_by_foreign,
    ReturnedByForeign: _returned_by_foreign,
    Imported: _imported,
    Spoiled: _spoiled,
}


def _regain(job: Job, attempt: Attempt | None, now: datetime) -> Job | Refusal:
    """The job, held by `attempt` and started: as it is, by an implied accept, or back from LOST."""
    if attempt is None:
        return _no_lease(job, attempt)
    if attempt.outcome is Outcome.OPEN:
        return _start(job, now) if job.state is State.CLAIMED else job
    waits = job.state is State.QUEUED or (
        job.state is State.HELD and job.reason in {Reason.DELAYED, Reason.SPOOLER_LOST}
    )
    if attempt.outcome is not Outcome.LOST or attempt is not job.attempts[-1] or not waits:
        return _no_lease(job, attempt)
    reopened = replace(
        attempt, outcome=Outcome.OPEN, ended_at=None, detail="", accepted_at=attempt.accepted_at or now
    )
    return _enter(
        job,
        now,
        State.RUNNING,
        attempts=(*job.attempts[:-1], reopened),
        # At least 1: an operator may have given this attempt back meanwhile.
        attempt_count=max(1, job.attempt_count + (attempt.accepted_at is None)),
        due_at=now + job.max_run_time if job.max_run_time else None,
    )


def _start(job: Job, now: datetime) -> Job:
    accepted = replace(job.attempts[-1], accepted_at=now)
    return _enter(
        job,
        now,
        State.RUNNING,
        attempts=(*job.attempts[:-1], accepted),
        attempt_count=job.attempt_count + 1,
        due_at=now + job.max_run_time if job.max_run_time else None,
        stage="",
        fraction=0.0,
    )


def _requeue(job: Job, now: datetime, **changes: Any) -> Job:
    """Back to its own place: same rank, same seq."""
    return _enter(job, now, State.QUEUED, due_at=job.expire_at, **changes)


def _delay(job: Job, now: datetime, delay: timedelta, attempts: tuple[Attempt, ...]) -> Job:
    due_at = _earliest(now + delay, job.expire_at)
    return _enter(job, now, State.HELD, Reason.DELAYED, attempts=attempts, due_at=due_at)


def _end_cancelling(job: Job, now: datetime) -> Job:
    attempts = _end_attempt(job, now, Outcome.CANCELLED)
    if job.reason is Reason.TIMEOUT:
        return _end_in_error(job, now, Reason.TIMEOUT, f"it ran longer than {job.max_run_time}", attempts)
    return _enter(job, now, State.CANCELLED, attempts=attempts, due_at=None)


def _end_in_error(
    job: Job, now: datetime, reason: Reason, message: str, attempts: tuple[Attempt, ...]
) -> Job:
    error = Failure(str(reason), message)
    return _enter(job, now, State.ERROR, reason, attempts=attempts, error=error, due_at=None)


def _end_attempt(job: Job, now: datetime, outcome: Outcome, detail: str = "") -> tuple[Attempt, ...]:
    return (*job.attempts[:-1], replace(job.attempts[-1], ended_at=now, outcome=outcome, detail=detail))


def _enter(job: Job, now: datetime, state: State, reason: Reason = Reason.NONE, **changes: Any) -> Job:
    times = job.times
    if len(times) >= MAX_TRANSITIONS_KEPT:
        times = (times[0], *times[-(MAX_TRANSITIONS_KEPT - 2) :])
    changes["times"] = (*times, Transition(state, now, reason))
    return replace(job, state=state, reason=reason, revision=job.revision + 1, **changes)


def _no_lease(job: Job, attempt: Attempt | None) -> Refusal:
    if attempt is None:
        return Refusal("LEASE_SUPERSEDED", f"the lease token does not belong to {job.key}")
    if attempt.outcome is Outcome.LOST:
        return Refusal("LEASE_SUPERSEDED", f"the lease ran out, and {job.key} is {job.state} by now")
    return Refusal("LEASE_ENDED", f"this attempt at {job.key} has ended: {attempt.outcome}")


def _wrong_state(job: Job, message: str) -> Refusal:
    return Refusal("WRONG_STATE", f"{job.key} is {job.state}: {message}")


def _rank(now: datetime, priority: int) -> int:
    return int(now.timestamp() * 1000) - priority * int(PRIORITY_STEP.total_seconds() * 1000)


def _earliest(*times: datetime | None) -> datetime | None:
    return min((t for t in times if t is not None), default=None)
