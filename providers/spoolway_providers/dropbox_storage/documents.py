"""The documents that this storage writes, and how those of other programs are read.

A status keeps the four words of today's readers; under the key `spoolway` lies the whole job.
"""

import zlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from spoolway_providers.errors import Corrupt
from spoolway_providers.model import Job, Policy
from spoolway_providers.status import status_document

__all__ = [
    "SCHEMA",
    "Owner",
    "SnapshotEntry",
    "Status",
    "Tombstone",
    "decode_owner",
    "decode_policy",
    "decode_snapshot",
    "decode_status",
    "decode_tombstone",
    "encode_snapshot",
    "encode_status",
]

T = TypeVar("T")

SCHEMA = 1
"""Of all documents; a newer one is refused."""


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Which server owns the account."""

    schema: int = SCHEMA
    nonce: str
    """Of one provider's one time in office."""
    address: str
    beat: int
    last_seq: int
    """The highest place in the order of submission that was given."""
    released: bool = False
    """It has left; anybody may take over at once."""
    settled: bool = False
    """And has finished all that it had begun: what lies at odds since then, another program did."""
    host: str = ""
    """Names the machine's boot and the process's namespace: where `pid` means the same process."""
    pid: int = 0
    pid_start: str = ""


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """What the request id of a job stands for that was deleted."""

    schema: int = SCHEMA
    owner: str
    backend: str
    request_id: str
    id: str
    fingerprint: str
    at: datetime
    """When it was submitted."""


class _Record(msgspec.Struct, frozen=True):
    """The key `spoolway` of a status."""

    schema: int
    writer: str
    """The nonce of the owner that wrote it: no two owners' documents are alike."""
    job: Job
    fingerprint: str = ""
    """What a repeat of the job's request id must agree in."""


class Status(msgspec.Struct, frozen=True):
    """A status as read."""

    status: str
    """INITIALIZING, QUEUED, DONE or ERROR; empty if it says nothing."""
    detail: str
    error_message: str
    job: Job | None
    """None: another program wrote it."""
    fingerprint: str = ""


class SnapshotEntry(msgspec.Struct, frozen=True, array_like=True):
    """A status that need not be read again while its rev is this one."""

    path: str
    rev: str
    job: Job
    fingerprint: str


class _Snapshot(msgspec.Struct, frozen=True):
    schema: int
    entries: list[SnapshotEntry]


def encode_status(job: Job, writer: str, fingerprint: str) -> bytes:
    """The status document of a job."""
    record = _Record(SCHEMA, writer, job, fingerprint)
    return msgspec.json.encode({**status_document(job), "spoolway": record})


def decode_status(data: bytes) -> Status:
    """Read a status, plain or signed, ours or another program's. Raises Corrupt: a newer schema."""
    try:
        document: Any = msgspec.json.decode(data)
    except msgspec.DecodeError:
        document = {}
    if isinstance(document, dict) and isinstance(document.get("payload"), dict):
        document = document["payload"]
    if not isinstance(document, dict):
        document = {}
    words = {name: document.get(name) for name in ("status", "detail", "error_message")}
    texts = {name: word if isinstance(word, str) else "" for name, word in words.items()}
    record = _convert(document["spoolway"], _Record) if "spoolway" in document else None
    if record is None:
        return Status(**texts, job=None)
    return Status(**texts, job=record.job, fingerprint=record.fingerprint)


def decode_owner(data: bytes) -> Owner:
    """Raises Corrupt."""
    owner = _decode(data, Owner)
    if owner is None:
        raise Corrupt("spoolway/owner.json says nothing; remove it if no server uses this account")
    return owner


def decode_tombstone(data: bytes) -> Tombstone | None:
    """None: it says nothing."""
    return _decode(data, Tombstone)


def decode_policy(data: bytes) -> Policy | None:
    """None: it says nothing."""
    try:
        return msgspec.json.decode(data, type=Policy)
    except msgspec.DecodeError:
        return None


def encode_snapshot(entries: Iterable[SnapshotEntry]) -> bytes:
    """The index document; takes a while for many jobs."""
    return zlib.compress(msgspec.json.encode(_Snapshot(SCHEMA, list(entries))), 1)


def decode_snapshot(data: bytes) -> list[SnapshotEntry]:
    """What the index document knows; nothing, if it can't be read: it only saves reading."""
    try:
        return msgspec.json.decode(zlib.decompress(data), type=_Snapshot).entries
    except (msgspec.DecodeError, zlib.error):
        return []


def _decode(data: bytes, kind: type[T]) -> T | None:
    try:
        return _convert(msgspec.json.decode(data), kind)
    except msgspec.DecodeError:
        return None


def _convert(document: Any, kind: type[T]) -> T | None:
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise Corrupt(f"a newer Spoolway has written here (schema {schema}); update this one")
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError:
        return None
