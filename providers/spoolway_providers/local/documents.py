"""Status documents: the words of today's readers, our `state`, and what a lost index can't do without."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from spoolway_providers.model import Job, Reason, State
from spoolway_providers.status import status_document

__all__ = ["Record", "Status", "decode_status", "encode_status", "is_json", "is_json_object"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key `spoolway` of a status: what a submit said that the layout has no place for."""

    owner: str = ""
    labels: dict[str, str] = {}
    priority: int = 0
    max_attempts: int = 0
    max_run_time: timedelta | None = None
    expire_at: datetime | None = None
    state: State = State.QUEUED
    reason: Reason = Reason.NONE
    due_at: datetime | None = None


class Status(msgspec.Struct, frozen=True):
    """A status as read."""

    status: str = ""
    """INITIALIZING, QUEUED, DONE or ERROR; empty if it says nothing."""
    detail: str = ""
    error_message: str = ""
    record: Record | None = None
    """None: another program wrote it."""

    @property
    def reason(self) -> str:
        """Why the job failed; empty if it says nothing about that."""
        return "" if self.error_message == "None" else self.error_message

    @property
    def is_terminal(self) -> bool:
        """Whether it says that the job has ended."""
        return self.status in {"DONE", "ERROR"}


def encode_status(job: Job) -> bytes:
    """The status document of a job."""
    is_held = job.state is State.HELD
    record = Record(
        owner=job.owner,
        labels=job.labels,
        priority=job.priority,
        max_attempts=job.max_attempts,
        max_run_time=job.max_run_time,
        expire_at=job.expire_at,
        state=job.state,
        reason=job.reason if is_held else Reason.NONE,
        due_at=job.due_at if is_held else None,
    )
    return _encode({**status_document(job), "spoolway": record})


def decode_status(data: bytes) -> Status | None:
    """Read a status, plain or signed, ours or another program's; None if it is no document (yet)."""
    try:
        document: Any = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(document, dict) and isinstance(document.get("payload"), dict):
        document = document["payload"]
    if not isinstance(document, dict):
        return None
    words = {name: document.get(name) for name in ("status", "detail", "error_message")}
    texts = {name: word if isinstance(word, str) else "" for name, word in words.items()}
    return Status(**texts, record=_record(document.get("spoolway")))


def _record(found: object) -> Record | None:
    if found is None:
        return None
    try:
        return msgspec.convert(found, Record)
    except msgspec.ValidationError:
        return None


def is_json_object(data: bytes) -> bool:
    """Whether it is one whole JSON object in UTF-8, as each job is."""
    return _is_whole(data, _decode_object)


def is_json(data: bytes) -> bool:
    """Whether it is one whole JSON document in UTF-8."""
    return _is_whole(data, _decode_raw)


def _is_whole(data: bytes, decode: Callable[[bytes], object]) -> bool:
    try:
        data.decode()
        decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
