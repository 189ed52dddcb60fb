"""What the owner's memory holds of one job."""

import asyncio
from datetime import datetime

from spoolway_providers.dropbox_storage.names import Place, rank_of
from spoolway_providers.model import Job, JobKey, Reason, State

__all__ = ["Entry", "QueuePlace", "place_of"]

QueuePlace = tuple[int, int, JobKey]
"""(rank, seq, key): claims go by it."""


class Entry:
    """One job: where its file lies, what its status says, and what of it is still to be written.

    Whoever changes the job holds `lock`. `job` is what everybody reads; it is None until the status has
    been read, and then what the status says; only a progress is written a little later.
    """

    __slots__ = (
        "counted_as_waiting",
        "doubted",
        "fingerprint",
        "half_done",
        "job",
        "job_path",
        "key",
        "lock",
        "place",
        "queue_place",
        "reserved",
        "seq",
        "status_path",
        "unwritten_until",
    )

    def __init__(self, key: JobKey, seq: int, *, place: Place, job_path: str, status_path: str) -> None:
        self.key = key
        self.seq = seq
        """By its name."""
        self.place = place
        self.job_path = job_path
        self.status_path = status_path
        self.lock = asyncio.Lock()
        self.job: Job | None = None
        self.fingerprint = ""
        """What a repeat of its request id must agree in."""
        self.doubted = False
        """A write's outcome is unknown: the status must be read before anything else."""
        self.half_done = False
        """Found with place and status at odds."""
        self.reserved = False
        """Out of the queue, for a claim is under way."""
        self.queue_place: QueuePlace | None = None
        """Where it is in the queue, while it is."""
        self.counted_as_waiting = False
        """The index counts it as waiting, since it lies in the queue and was not read."""
        self.unwritten_until: float | None = None
        """When the status must be written with what `job` says already; None: it says so."""

    @property
    def wanted_queue_place(self) -> QueuePlace | None:
        """Where it should be in the queue; by its name alone while its status was not read."""
        if self.reserved:
            return None
        if self.job is None:
            return (rank_of(self.seq), self.seq, self.key) if self.place is Place.QUEUED else None
        if self.job.state is not State.QUEUED:
            return None
        return (self.job.rank, self.job.seq, self.key)

    def is_past(self, now: datetime) -> bool:
        """Whether it waits, and its latest start has passed; not known before its status was read."""
        return self.job is not None and self.job.due_at is not None and self.job.due_at <= now

    @property
    def wanted_place(self) -> Place:
        """The folder in which its file should lie."""
        return self.place if self.job is None else place_of(self.job, self.place)


def place_of(job: Job, now: Place) -> Place:
    """The folder for a job's file; `now` is where it lies."""
    match job.state:
        case State.QUEUED:
            return Place.QUEUED
        case State.HELD if job.reason in {Reason.SPOOLER_LOST, Reason.IMPORTED}:
            return Place.RUNNING
        case State.HELD:
            return Place.QUEUED
        case State.DONE:
            return Place.FINISHED
        case State.ERROR | State.CANCELLED | State.EXPIRED:
            return now if now is Place.FINISHED else Place.DELETED
        case State.RUNNING if job.reason is Reason.FOREIGN and now is not Place.QUEUED:
            # Whoever has it moves it.
            return now
        case _:
            return Place.RUNNING
