"""Between the contract's messages and the domain's records."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_pb2
from spoolway_providers.model import Attempt, Backend, Job, Outcome, Policy, Reason, State, Transition
from spoolway_providers.status import status_document
from spoolway_server.names import job_name

__all__ = [
    "backend_to_proto",
    "duration",
    "etag",
    "job_to_proto",
    "policy_changes",
    "policy_to_proto",
    "reason_to_proto",
    "state_from_proto",
    "state_to_proto",
    "status_to_proto",
    "time_from",
    "timedelta_from",
    "timestamp",
]

NANOS_A_SECOND = 1_000_000_000

_STATES = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in State}
_STATES_BACK = {number: state for state, number in _STATES.items()}
_REASONS = {
    reason: job_pb2.StateReason.Value(
        f"STATE_REASON_{'UNSPECIFIED' if reason is Reason.NONE else reason.name}"
    )
    for reason in Reason
}
_OUTCOMES = {outcome: job_pb2.AttemptOutcome.Value(f"ATTEMPT_OUTCOME_{outcome.name}") for outcome in Outcome}


@lru_cache(maxsize=1024)
def timestamp(time: datetime | None) -> Timestamp | None:
    """A message for a time; None stays None, which leaves a field unset. It is kept: copy it to change it.

    What is committed together has one time, and a job's times are told again with each of its documents.
    """
    if time is None:
        return None
    whole = int(time.timestamp() // 1)
    return Timestamp(seconds=whole, nanos=time.microsecond * 1000)


def duration(length: timedelta | None) -> Duration | None:
    """A message for a length of time."""
    if length is None:
        return None
    made = Duration()
    made.FromTimedelta(length)
    return made


def time_from(message: Timestamp) -> datetime:
    """An aware UTC time. ValueError if it is out of range."""
    return message.ToDatetime(tzinfo=UTC)


def timedelta_from(message: Duration) -> timedelta:
    """A length of time. ValueError or OverflowError if it is out of range."""
    if abs(message.nanos) >= NANOS_A_SECOND or message.seconds * message.nanos < 0:
        raise ValueError("the nanoseconds are a second or more, or of the other sign")
    return message.ToTimedelta()


def state_to_proto(state: State) -> job_pb2.JobState.ValueType:
    """The contract's number."""
    return _STATES[state]


def state_from_proto(number: int) -> State | None:
    """The state, or None for UNSPECIFIED and numbers of a later version."""
    return _STATES_BACK.get(number)  # type: ignore[call-overload, no-any-return]  # any number may come


def reason_to_proto(reason: Reason) -> job_pb2.StateReason.ValueType:
    """The contract's number."""
    return _REASONS[reason]


def status_to_proto(job: Job) -> job_pb2.JobStatus:
    """The four words of today's readers."""
    document = status_document(job)
    return job_pb2.JobStatus(
        job_id=document["job_id"],
        status=document["status"],
        detail=document["detail"],
        error_message=document["error_message"],
    )


def job_to_proto(job: Job) -> job_pb2.Job:
    """The whole document of a job, without tokens."""
    accepted = next((a.accepted_at for a in reversed(job.attempts) if a.accepted_at is not None), None)
    message = job_pb2.Job(
        name=job_name(job.key),
        backend=job.key.backend,
        id=job.key.id,
        owner=job.owner,
        state=_STATES[job.state],
        reason=_REASONS[job.reason],
        status=status_to_proto(job),
        etag=etag(job),
        revision=job.revision,
        create_time=timestamp(job.created_at),
        update_time=timestamp(job.updated_at),
        start_time=timestamp(accepted),
        end_time=timestamp(job.updated_at) if job.is_terminal else None,
        due_time=None if job.is_terminal else timestamp(job.due_at),
        purge_time=timestamp(job.due_at) if job.is_terminal else None,
        stage=job.stage,
        fraction=job.fraction,
        labels=job.labels,
        priority=job.priority,
        attempt_count=job.attempt_count,
        max_attempts=job.max_attempts,
        transitions=[_transition(transition) for transition in job.times],
        content_bytes=job.content.size,
    )
    # A fresh job has none of these, and the answer to its submit is what is made most often.
    if job.attempts:
        message.attempts.extend(_attempt(attempt) for attempt in job.attempts)
    if job.result is not None:
        message.result_bytes, message.result_sha256 = job.result.size, job.result.sha256
    if job.error is not None:
        message.error.CopyFrom(job_pb2.JobError(code=2, reason=job.error.reason, message=job.error.message))
    return message


def etag(job: Job) -> str:
    """Changes with every change of the job."""
    return str(job.revision)


def policy_to_proto(policy: Policy) -> job_pb2.BackendPolicy:
    """A policy, defaults filled in."""
    return job_pb2.BackendPolicy(
        paused=policy.paused,
        max_attempts=policy.max_attempts,
        max_crashes=policy.max_crashes,
        lease_ttl=duration(policy.lease_ttl),
        resume_grace=duration(policy.resume_grace),
        lost_timeout=duration(policy.lost_timeout),
        cancel_grace=duration(policy.cancel_grace),
        max_run_time=duration(policy.max_run_time),
        max_queued=policy.max_queued,
        round_robin=policy.round_robin,
        retention=duration(policy.retention),
        foreign_claim_timeout=duration(policy.foreign_claim_timeout),
        user_submits_per_s=policy.user_submits_per_s,
        user_bytes_per_s=policy.user_bytes_per_s,
        user_max_queued=policy.user_max_queued,
    )


def policy_changes(message: job_pb2.BackendPolicy, fields: Iterable[str]) -> dict[str, Any]:
    """The values of some of a policy's fields; None: the server's default, or no limit.

    ValueError or OverflowError, with the field's name, if a duration is out of range.
    """
    return {field: _policy_value(message, field) for field in fields}


def _policy_value(message: job_pb2.BackendPolicy, field: str) -> Any:
    value = getattr(message, field)
    if not isinstance(value, Duration):
        return value or (None if field in {"max_attempts", "max_crashes"} else value)
    if not message.HasField(field):  # type: ignore[arg-type]  # a field of a message type
        return None
    try:
        return timedelta_from(value)
    except (ValueError, OverflowError) as error:
        raise type(error)(field) from error


def backend_to_proto(
    backend: Backend, storage: str, policy: Policy, status: job_pb2.BackendStatus, public_key: bytes = b""
) -> job_pb2.Backend:
    """A backend with its two documents and its key."""
    return job_pb2.Backend(
        name=f"backends/{backend.name}",
        storage=storage,
        config=backend.config,
        config_etag=backend.config_etag,
        policy=policy_to_proto(policy),
        policy_etag=backend.policy_etag,
        status=status,
        public_key=public_key,
    )


def _attempt(attempt: Attempt) -> job_pb2.Attempt:
    return job_pb2.Attempt(
        number=attempt.number,
        spooler=attempt.spooler,
        claim_time=timestamp(attempt.claimed_at),
        accept_time=timestamp(attempt.accepted_at),
        end_time=timestamp(attempt.ended_at),
        outcome=_OUTCOMES[attempt.outcome],
        detail=attempt.detail,
    )


@lru_cache(maxsize=1024)
def _transition(transition: Transition) -> job_pb2.Transition:
    return job_pb2.Transition(
        state=_STATES[transition.state],
        reason=_REASONS[transition.reason],
        time=timestamp(transition.at),
    )
