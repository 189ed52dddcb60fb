"""What operators know about work that takes long and about checks, translated from the contract."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from spoolway.v1 import storage_admin_pb2 as pb

__all__ = [
    "Operation",
    "OperationState",
    "StorageCheck",
    "StorageFinding",
    "check_from_proto",
    "operation_from_proto",
]


class OperationState(StrEnum):
    """How an operation stands."""

    RUNNING = "RUNNING"
    """At work, or waiting for a storage or a server."""
    DONE = "DONE"
    """Ended well."""
    FAILED = "FAILED"
    """Ended with an error."""
    CANCELLED = "CANCELLED"
    """Ended as somebody wanted it to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Work that takes long, such as a copy; the servers carry it on, also after a kill."""

    id: str
    """Names it."""
    type: str
    """What it does, such as COPY."""
    source: str
    """What it reads: a storage's short name, or in words what else."""
    target: str
    """Short name of the storage that it writes to."""
    backends: tuple[str, ...]
    """Short names of the backends that it is about."""
    state: OperationState
    """How it stands."""
    cancel_requested: bool
    """Whether it was cancelled."""
    phase: str
    """What it does just now, or waits for."""
    done_jobs: int
    """Jobs that it has worked through."""
    total_jobs: int
    """Jobs there are; 0: not counted yet."""
    reason: str
    """Why it FAILED, for programs."""
    message: str
    """The same for people, with what to do."""
    creator: str
    """Who asked for it."""
    create_time: datetime
    """When it was asked for."""
    update_time: datetime
    """When it last gave a sign of life."""
    end_time: datetime | None
    """When it ended."""

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.state is OperationState.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFinding:
    """Something in a storage that is not as it must be."""

    kind: str
    """Such as result_lost."""
    subject: str
    """Which job, blob or file."""
    message: str
    """What is wrong, and what was done or can be done about it."""
    repaired: bool
    """Whether it is mended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageCheck:
    """Some findings of a check, and how far it is."""

    findings: tuple[StorageFinding, ...]
    """What was found since the step before."""
    checked_jobs: int
    """Jobs that were looked at so far."""
    total_jobs: int
    """Jobs there are."""


def operation_from_proto(message: pb.Operation) -> Operation:
    """Translate an operation."""
    return Operation(
        id=message.name.removeprefix("operations/"),
        type=pb.OperationType.Name(message.type).removeprefix("OPERATION_TYPE_"),
        source=message.source.removeprefix("storages/"),
        target=message.target.removeprefix("storages/"),
        backends=tuple(message.backends),
        state=OperationState(pb.OperationState.Name(message.state).removeprefix("OPERATION_STATE_")),
        cancel_requested=message.cancel_requested,
        phase=message.phase,
        done_jobs=message.done_jobs,
        total_jobs=message.total_jobs,
        reason=message.reason,
        message=message.message,
        creator=message.creator,
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
        update_time=message.update_time.ToDatetime(tzinfo=UTC),
        end_time=message.end_time.ToDatetime(tzinfo=UTC) if message.HasField("end_time") else None,
    )


def check_from_proto(message: pb.CheckStorageResponse) -> StorageCheck:
    """Translate a step of a check."""
    findings = tuple(
        StorageFinding(kind=one.kind, subject=one.subject, message=one.message, repaired=one.repaired)
        for one in message.findings
    )
    return StorageCheck(findings=findings, checked_jobs=message.checked_jobs, total_jobs=message.total_jobs)
