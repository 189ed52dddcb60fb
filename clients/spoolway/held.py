"""What a spooler has in hand."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from spoolway.running import RunningJob
from spoolway.timing import Backoff
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["HeldJob", "Phase", "SpooledBackend"]


class Phase(enum.Enum):
    """How far a job in hand is."""

    ACCEPTING = enum.auto()
    """The accept is not confirmed yet."""
    WAITING = enum.auto()
    """Accepted, but not started while the leases are unsure."""
    RUNNING = enum.auto()
    """The run function runs."""
    ENDING = enum.auto()
    """The run function has ended; the report of it is not confirmed yet."""
    REVOKED = enum.auto()
    """The lease is gone; the run function still runs, and its result will not count."""


@dataclass(slots=True, eq=False)
class SpooledBackend:
    """A backend that this spooler drives."""

    name: str
    """Short name."""
    config: bytes
    """Its config as JSON."""
    storage: str
    """Where a new backend is kept; empty: the server's default."""
    run: Callable[[RunningJob], Any]
    """The user's function."""
    is_async: bool
    """Whether `run` must be awaited."""
    concurrency: int
    """Jobs run at once."""
    busy: int = 0
    """Jobs whose function runs or is about to."""
    revoked: int = 0
    """Of these, jobs whose lease is gone."""

    @property
    def credit(self) -> int:
        """Jobs that the server may have here: a revoked one keeps its place until its function returns."""
        return max(0, self.concurrency - self.revoked)


@dataclass(slots=True, eq=False)
class HeldJob:
    """One job in hand."""

    token: str
    """Of the lease."""
    job: RunningJob
    """What the run function sees."""
    backend: SpooledBackend
    """Whose function runs it."""
    resends: Backoff
    """For reports that were refused for the moment."""
    phase: Phase = Phase.ACCEPTING
    """How far it is."""
    end: pb.LeaseUpdate | None = None
    """How it ended, from ENDING on."""
    progress_at: float = field(default=float("-inf"))
    """When progress was last sent."""
    large_result: bytes | None = None
    """A result that must be uploaded before the end is reported."""

    def report(self) -> pb.LeaseUpdate:
        """A report about this job, to be filled in."""
        return pb.LeaseUpdate(job=self.job.name, lease_token=self.token)
