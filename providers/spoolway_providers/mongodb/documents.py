"""How records lie in documents.

A job's document has what is searched at the top, each fact once; the rest of the record is `job`. Short
contents and results lie beside it as bytes. Times of the record are text, as BSON would cut them to
milliseconds; labels are pairs, as their names may hold any character.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from spoolway_providers.interface import Capabilities
from spoolway_providers.model import ACTIVE_STATES, Backend, Job, JobKey, Policy, Session, SessionState
from spoolway_providers.unreadable import UnreadableJob

__all__ = [
    "CAPABILITIES",
    "INLINE_LIMIT",
    "JOB_FIELDS",
    "Document",
    "backend_of",
    "from_microseconds",
    "job_fields",
    "job_of",
    "key_of",
    "label_pairs",
    "policy_of",
    "session_fields",
    "session_of",
    "to_microseconds",
]

Document = dict[str, Any]

INLINE_LIMIT = 256 << 10
"""Bytes of a content or result that lie in the job's document; longer ones go to GridFS."""

CAPABILITIES = Capabilities(
    max_document_bytes=4 << 20,
    wakes=True,
    heartbeat_writes=True,
    processes="many",
    priority=True,
    min_ttl=timedelta(seconds=3),
)

JOB_FIELDS = {"content": 0, "result": 0}
"""A projection: all of a job's document but the bytes."""

_TOP = ("key", "owner", "seq", "rank", "revision", "state", "labels", "request_id")
"""Parts of the record that lie at the top of the document."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """The moment that `to_microseconds` made a number of."""
    return _EPOCH + microseconds * _MICROSECOND


def label_pairs(labels: dict[str, str]) -> list[Document]:
    """Labels as they are stored."""
    return [{"k": name, "v": value} for name, value in labels.items()]


def job_fields(job: Job) -> Document:
    """What a change of the job may change; a value of None means that the field goes.

    `request`, `seq`, `change`, `commit` and the bytes are the writer's matter.
    """
    record = msgspec.to_builtins(job)
    for name in _TOP:
        record.pop(name, None)
    holder = job.holder
    return {
        "state": job.state.value,
        "rank": job.rank,
        "rev": job.revision,
        # Not None for all active jobs, so that one index finds them; empty if no session of ours holds it.
        "session": (holder.session if holder else "") if job.state in ACTIVE_STATES else None,
        "due": None if job.due_at is None else to_microseconds(job.due_at),
        "job": record,
    }


def job_of(document: Document) -> Job:
    """The job in a document. Raises UnreadableJob."""
    try:
        return msgspec.convert(_record_of(document), Job)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise UnreadableJob(document, error) from error


def _record_of(document: Document) -> Document:
    return {
        **document["job"],
        "key": {"backend": document["backend"], "id": document["_id"]},
        "owner": document["owner"],
        "seq": int(document["seq"]),
        "rank": int(document["rank"]),
        "revision": document["rev"],
        "state": document["state"],
        "labels": {pair["k"]: pair["v"] for pair in document["labels"]},
        "request_id": document["request_id"],
    }


def key_of(document: Document) -> JobKey:
    """Which job a document is, or was."""
    return JobKey(document["backend"], document["_id"])


def session_fields(session: Session) -> Document:
    """A session's document, but for its id."""
    record = msgspec.to_builtins(session)
    top = ("id", "principal", "spooler_id", "state", "beat", "detached", "reason")
    return {
        "principal": session.principal,
        "spooler": session.spooler_id,
        "state": session.state.value,
        "beat": session.beat,
        "detached": session.detached,
        "reason": session.reason,
        "session": {name: value for name, value in record.items() if name not in top},
    }


def session_of(document: Document) -> Session:
    """The session in a document."""
    record = {
        **document["session"],
        "id": document["_id"],
        "principal": document["principal"],
        "spooler_id": document["spooler"],
        "state": SessionState(document["state"]),
        "beat": int(document["beat"]),
        "detached": document["detached"],
        "reason": document["reason"],
    }
    return msgspec.convert(record, Session)


def policy_of(document: Document) -> Policy | None:
    """The policy in a backend's document."""
    stored = document.get("policy")
    return None if stored is None else msgspec.convert(stored, Policy)


def backend_of(document: Document) -> Backend:
    """The backend in a document."""
    return Backend(
        document["_id"],
        bytes(document["config"]),
        document["config_etag"],
        policy_of(document),
        document.get("policy_etag", ""),
    )
