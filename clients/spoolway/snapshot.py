"""What is known about a job at one moment, and its translation from the contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_pb2 as pb
from spoolway.v1 import job_service_pb2

__all__ = [
    "Attempt",
    "AttemptOutcome",
    "Explanation",
    "ExplanationCause",
    "JobFailure",
    "JobSnapshot",
    "JobState",
    "LateResult",
    "StateReason",
    "Transition",
    "explanation_from_proto",
    "snapshot_from_proto",
    "state_to_proto",
]


class JobState(StrEnum):
    """Where a job stands. DONE, ERROR, CANCELLED and EXPIRED are its ends."""

    UNSPECIFIED = "UNSPECIFIED"
    """A state that this client is too old to know."""
    QUEUED = "QUEUED"
    """Waits for a spooler."""
    HELD = "HELD"
    """Waits for something else; the reason says for what."""
    CLAIMED = "CLAIMED"
    """Given to a spooler that has not accepted it yet."""
    RUNNING = "RUNNING"
    """Accepted by a spooler."""
    CANCELLING = "CANCELLING"
    """Its spooler has been asked to stop."""
    DONE = "DONE"
    """Ended well; there is a result."""
    ERROR = "ERROR"
    """Ended with an error."""
    CANCELLED = "CANCELLED"
    """Ended by a cancel."""
    EXPIRED = "EXPIRED"
    """Was not started before its expire_time."""


class StateReason(StrEnum):
    """Why a job is in its state, where the state alone does not tell."""

    UNSPECIFIED = "UNSPECIFIED"
    """The state says it all, or the reason is one that this client is too old to know."""
    DELAYED = "DELAYED"
    """HELD until due_time."""
    OPERATOR = "OPERATOR"
    """HELD by an operator."""
    IMPORTED = "IMPORTED"
    """HELD: found running in an imported storage."""
    SPOOLER_LOST = "SPOOLER_LOST"
    """The spooler that ran it is gone."""
    FOREIGN = "FOREIGN"
    """RUNNING in a program that is not a spooler of Spoolway."""
    USER = "USER"
    """CANCELLING because somebody asked for it."""
    TIMEOUT = "TIMEOUT"
    """Its max_run_time passed."""
    POISON = "POISON"
    """Spooler after spooler broke with this job in hand."""
    ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"
    """It failed in each of its attempts."""
    FAILED = "FAILED"
    """Its spooler reported a failure that a retry would not mend."""


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    UNSPECIFIED = "UNSPECIFIED"
    """One that this client is too old to know."""
    OPEN = "OPEN"
    """It has not ended."""
    LOST = "LOST"
    """Its spooler broke off; it may come back."""
    WITHDRAWN = "WITHDRAWN"
    """Taken back before it started."""
    RELEASED = "RELEASED"
    """Given back by the spooler."""
    FAILED = "FAILED"
    """The spooler reported a failure."""
    CANCELLED = "CANCELLED"
    """Stopped as asked."""
    DONE = "DONE"
    """Completed with a result."""


class ExplanationCause(StrEnum):
    """What keeps a job where it is."""

    UNSPECIFIED = "UNSPECIFIED"
    """One that this client is too old to know; the message says it."""
    NO_SPOOLER = "NO_SPOOLER"
    """No spooler of its backend is connected."""
    NO_CREDIT = "NO_CREDIT"
    """The spoolers take no further job now."""
    BACKEND_PAUSED = "BACKEND_PAUSED"
    """An operator has paused its backend."""
    STORAGE_INACTIVE = "STORAGE_INACTIVE"
    """Its storage hands out no jobs."""
    BEHIND_OTHERS = "BEHIND_OTHERS"
    """Other jobs come first."""
    NEXT = "NEXT"
    """Nothing is in its way."""
    DELAYED = "DELAYED"
    """HELD until a time."""
    HELD_BY_OPERATOR = "HELD_BY_OPERATOR"
    """HELD by an operator."""
    IMPORTED = "IMPORTED"
    """HELD: found running in an imported storage."""
    SPOOLER_LOST = "SPOOLER_LOST"
    """HELD: its spooler is lost, and it may not run again by itself."""
    FOREIGN = "FOREIGN"
    """RUNNING in a program that is not a spooler of Spoolway."""
    IN_HAND = "IN_HAND"
    """A spooler has it."""
    ENDED = "ENDED"
    """It has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One reason why a job stands where it stands."""

    cause: ExplanationCause
    """For programs."""
    message: str
    """What is the case."""
    advice: str
    """What may be done about it, and by whom; empty if nothing need be done."""
    until: datetime | None
    """When it passes by itself; None if that is not known."""
    jobs_before: int
    """For BEHIND_OTHERS: jobs before it; 1,001 says "over 1,000"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateResult:
    """A result that came when its lease had been superseded; it does not count, and is kept for a day."""

    attempt: int
    """Number of the attempt that delivered it."""
    spooler: str
    """Who delivered it."""
    size_bytes: int
    """Its length; of an upload that broke off, what came of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One claim of a job by a spooler."""

    number: int
    """Counts the claims of the job from 1."""
    spooler: str
    """The spooler_id."""
    outcome: AttemptOutcome
    """How it ended."""
    detail: str
    """What is known about its end."""
    claim_time: datetime | None
    """When it was claimed."""
    accept_time: datetime | None
    """When it was accepted; None if it never was."""
    end_time: datetime | None
    """When it ended; None while it is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A moment at which a job entered a state."""

    state: JobState
    """The state entered."""
    reason: StateReason
    """Why."""
    time: datetime | None
    """When."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailure:
    """Why a job ended with an error."""

    code: int
    """A google.rpc.Code number."""
    reason: str
    """Machine-readable, UPPER_SNAKE_CASE."""
    message: str
    """For people."""
    metadata: Mapping[str, str]
    """Facts about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSnapshot:
    """A job at one moment. Times are UTC, by the storage's clock."""

    name: str
    """backends/{backend}/jobs/{id}."""
    id: str
    """The id alone."""
    backend: str
    """Short name of the backend."""
    owner: str
    """Who submitted it."""
    state: JobState
    """Where it stands."""
    reason: StateReason
    """Why it stands there."""
    status: str
    """The state in the words of existing installations: INITIALIZING, QUEUED, DONE or ERROR."""
    detail: str
    """Grows as the job goes, beginning with "Got your json."."""
    error_message: str
    """"None", or the error."""
    stage: str
    """What its spooler says it is doing."""
    fraction: float
    """How far it is, 0 to 1."""
    queue_position: int | None
    """Jobs before it: 0 is next; 1,001 says "over 1,000". None unless QUEUED and asked for by `status`."""
    labels: Mapping[str, str]
    """As given at submit."""
    priority: int
    """As given at submit."""
    attempt_count: int
    """Attempts that were accepted so far."""
    max_attempts: int
    """Attempts allowed."""
    attempts: tuple[Attempt, ...]
    """Every claim, oldest first; at most the newest 50."""
    transitions: tuple[Transition, ...]
    """Every state it was in, oldest first; at most the first and the newest 99."""
    error: JobFailure | None
    """Why it ended, if state is ERROR."""
    content_bytes: int
    """Length of the content."""
    result_bytes: int
    """Length of the result; 0 until DONE."""
    result_sha256: str
    """Of the result, in hex; empty until DONE."""
    create_time: datetime | None
    """When it was submitted."""
    update_time: datetime | None
    """When it last changed."""
    start_time: datetime | None
    """When its latest attempt was accepted."""
    end_time: datetime | None
    """When it ended."""
    due_time: datetime | None
    """When the server acts by itself next, such as at the end of a delay."""
    purge_time: datetime | None
    """When it may be deleted, once it has ended; None: never."""
    revision: int
    """Counts the job's changes from 1; a newer snapshot has a greater one."""
    etag: str
    """Changes with every change; compare for equality only."""

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self.state in _TERMINAL


_TERMINAL = frozenset({JobState.DONE, JobState.ERROR, JobState.CANCELLED, JobState.EXPIRED})


def snapshot_from_proto(job: pb.Job, queue_position: int | None = None) -> JobSnapshot:
    """Translate the contract's Job."""
    return JobSnapshot(
        name=job.name,
        id=job.id,
        backend=job.backend,
        owner=job.owner,
        state=_state(job.state),
        reason=_reason(job.reason),
        status=job.status.status,
        detail=job.status.detail,
        error_message=job.status.error_message,
        stage=job.stage,
        fraction=job.fraction,
        queue_position=queue_position,
        labels=dict(job.labels),
        priority=job.priority,
        attempt_count=job.attempt_count,
        max_attempts=job.max_attempts,
        attempts=tuple(map(_attempt, job.attempts)),
        transitions=tuple(map(_transition, job.transitions)),
        error=_failure(job.error) if job.HasField("error") else None,
        content_bytes=job.content_bytes,
        result_bytes=job.result_bytes,
        result_sha256=job.result_sha256,
        create_time=_time(job.create_time),
        update_time=_time(job.update_time),
        start_time=_time(job.start_time),
        end_time=_time(job.end_time),
        due_time=_time(job.due_time),
        purge_time=_time(job.purge_time),
        revision=job.revision,
        etag=job.etag,
    )


def explanation_from_proto(message: job_service_pb2.Explanation) -> Explanation:
    """Translate the contract's Explanation."""
    return Explanation(
        cause=ExplanationCause(_CAUSES.get(message.cause, ExplanationCause.UNSPECIFIED)),
        message=message.message,
        advice=message.advice,
        until=_time(message.until),
        jobs_before=message.jobs_before,
    )


def state_to_proto(state: JobState | str) -> pb.JobState.ValueType:
    """Translate a state; ValueError names an unknown one."""
    return pb.JobState.Value(f"JOB_STATE_{JobState(state)}")


_STATES: dict[int, str] = {number: name.removeprefix("JOB_STATE_") for name, number in pb.JobState.items()}
_REASONS: dict[int, str] = {
    number: name.removeprefix("STATE_REASON_") for name, number in pb.StateReason.items()
}
_OUTCOMES: dict[int, str] = {
    number: name.removeprefix("ATTEMPT_OUTCOME_") for name, number in pb.AttemptOutcome.items()
}
_CAUSES: dict[int, str] = {
    number: name.removeprefix("EXPLANATION_CAUSE_")
    for name, number in job_service_pb2.ExplanationCause.items()
}


def _state(number: int) -> JobState:
    return JobState(_STATES.get(number, JobState.UNSPECIFIED))


def _reason(number: int) -> StateReason:
    return StateReason(_REASONS.get(number, StateReason.UNSPECIFIED))


def _attempt(attempt: pb.Attempt) -> Attempt:
    return Attempt(
        number=attempt.number,
        spooler=attempt.spooler,
        outcome=AttemptOutcome(_OUTCOMES.get(attempt.outcome, AttemptOutcome.UNSPECIFIED)),
        detail=attempt.detail,
        claim_time=_time(attempt.claim_time),
        accept_time=_time(attempt.accept_time),
        end_time=_time(attempt.end_time),
    )


def _transition(transition: pb.Transition) -> Transition:
    return Transition(
        state=_state(transition.state),
        reason=_reason(transition.reason),
        time=_time(transition.time),
    )


def _failure(error: pb.JobError) -> JobFailure:
    return JobFailure(
        code=error.code, reason=error.reason, message=error.message, metadata=dict(error.metadata)
    )


def _time(timestamp: Timestamp) -> datetime | None:
    """None where it is unset: no job of ours is from 1970-01-01T00:00:00Z."""
    if not timestamp.seconds and not timestamp.nanos:
        return None
    return timestamp.ToDatetime(tzinfo=UTC)
