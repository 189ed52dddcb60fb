"""How records lie in rows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from spoolway_providers.interface import Capabilities
from spoolway_providers.model import ACTIVE_STATES, Backend, Job, Policy, Session, SessionState
from spoolway_providers.unreadable import UnreadableJob

__all__ = [
    "BACKEND_COLUMNS",
    "CAPABILITIES",
    "JOB_VALUES",
    "SESSION_COLUMNS",
    "backend_of",
    "decode_job",
    "decode_policy",
    "from_microseconds",
    "job_values",
    "session_of",
    "to_microseconds",
    "to_text",
]

CAPABILITIES = Capabilities(
    max_document_bytes=4 << 20,
    wakes=True,
    heartbeat_writes=True,
    processes="host",
    priority=True,
    min_ttl=timedelta(seconds=1),
)

JOB_VALUES = ("state", "rank", "revision", "change", "session", "due_at", "doc")
SESSION_COLUMNS = "doc, state, beat, detached, reason"
BACKEND_COLUMNS = "name, config, config_etag, policy, policy_etag"

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)

_encode = msgspec.json.Encoder().encode
_decode_session = msgspec.json.Decoder(Session).decode
decode_policy = msgspec.json.Decoder(Policy).decode
"""The policy in a backend's row."""
_decode_job = msgspec.json.Decoder(Job).decode


def decode_job(document: str) -> Job:
    """The job in a `doc`. Raises UnreadableJob."""
    try:
        return _decode_job(document)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UnreadableJob(document, error) from error


def to_microseconds(moment: datetime) -> int:
    """Since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """The moment that `to_microseconds` made a number of."""
    return _EPOCH + microseconds * _MICROSECOND


def to_text(record: msgspec.Struct) -> str:
    """A record as JSON text."""
    return _encode(record).decode()


def job_values(job: Job, change: int) -> tuple[Any, ...]:
    """The values of the columns that a change of the job may change: JOB_VALUES."""
    return (
        job.state.value,
        job.rank,
        job.revision,
        change,
        _session_of_holder(job),
        None if job.due_at is None else to_microseconds(job.due_at),
        _encode(job).decode(),
    )


def _session_of_holder(job: Job) -> str | None:
    """Not None for all active jobs, so that one index finds them; empty if no session of ours holds it."""
    if job.state not in ACTIVE_STATES:
        return None
    holder = job.holder
    return "" if holder is None else holder.session


def session_of(row: tuple[str, str, int, int, str]) -> Session:
    """The session in the values of SESSION_COLUMNS."""
    doc, state, beat, detached, reason = row
    return msgspec.structs.replace(
        _decode_session(doc), state=SessionState(state), beat=beat, detached=bool(detached), reason=reason
    )


def backend_of(row: tuple[str, bytes, str, str | None, str]) -> Backend:
    """The backend in the values of BACKEND_COLUMNS."""
    name, config, config_etag, policy, policy_etag = row
    return Backend(name, config, config_etag, None if policy is None else decode_policy(policy), policy_etag)
