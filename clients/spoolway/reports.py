"""What the spooler says on a stream, numbered, and what of it is not confirmed yet."""

import enum
import itertools
from dataclasses import dataclass

from spoolway.held import HeldJob
from spoolway.outbox import Outbox
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["Report", "Reports", "Unconfirmed"]


class Report(enum.Enum):
    """What a Confirm answers."""

    ACCEPT = enum.auto()
    """The job will be run."""
    END = enum.auto()
    """The job has ended, somehow."""


@dataclass(slots=True)
class Unconfirmed:
    """A report that waits for its Confirm."""

    held: HeldJob
    """About this job."""
    kind: Report
    """What it says."""
    sent_at: float
    """When it was handed to the outbox."""


class Reports:
    """Puts messages into the outbox while there is a stream; says nothing while there is none."""

    def __init__(self, outbox: Outbox) -> None:
        """Begin without a stream."""
        self.is_open = False
        self._outbox = outbox
        self._sequences = itertools.count(1)
        self._unconfirmed: dict[int, Unconfirmed] = {}

    def open(self) -> None:
        """There is a stream, and it was welcomed."""
        self.is_open = True

    def close(self) -> None:
        """The stream has ended: no confirm will come any more."""
        self.is_open = False
        self._unconfirmed.clear()

    def send(self, held: HeldJob, kind: Report, now: float) -> None:
        """Accept a job, or tell its end."""
        if not self.is_open:
            return
        update = _accept(held) if kind is Report.ACCEPT else held.end
        if update is None:
            return
        update.sequence = next(self._sequences)
        self._unconfirmed[update.sequence] = Unconfirmed(held, kind, now)
        self._outbox.add(update)

    def confirmed(self, sequence: int) -> Unconfirmed | None:
        """What the Confirm of this sequence answers; None: nothing that is waited for."""
        return self._unconfirmed.pop(sequence, None)

    def take_overdue(self, sent_by: float) -> list[Unconfirmed]:
        """Take out what was sent by then and is still not confirmed."""
        overdue = []
        for sequence, report in self._unconfirmed.items():
            if report.sent_at > sent_by:
                break
            overdue.append(sequence)
        return [self._unconfirmed.pop(sequence) for sequence in overdue]

    def release(self, job: str, token: str, reason: str) -> None:
        """Give a job back.

        Not waited for: if it is lost, the next hello, without the job, does the same.
        """
        if self.is_open:
            update = pb.LeaseUpdate(sequence=next(self._sequences), job=job, lease_token=token)
            update.release.reason = reason
            self._outbox.add(update)

    def progress(self, held: HeldJob, progress: pb.Progress) -> None:
        """Tell what a job does. Not waited for: a newer one will come."""
        if self.is_open:
            update = held.report()
            update.sequence = next(self._sequences)
            update.progress.CopyFrom(progress)
            self._outbox.add(update)

    def credit(self, backend: str, outstanding: int) -> None:
        """Say how many jobs may be held at once."""
        if self.is_open:
            credit = pb.Credit(sequence=next(self._sequences), backend=backend, outstanding=outstanding)
            self._outbox.add_control(pb.StreamNextJobsRequest(credit=credit))

    def beat(self) -> int:
        """Give a sign of life; returns its sequence."""
        sequence = next(self._sequences)
        self._outbox.add_control(pb.StreamNextJobsRequest(beat=pb.SpoolerBeat(sequence=sequence)))
        return sequence

    def drain(self) -> int:
        """Ask for no more jobs; returns its sequence."""
        sequence = next(self._sequences)
        self._outbox.add_control(pb.StreamNextJobsRequest(drain=pb.Drain(sequence=sequence)))
        return sequence


def _accept(held: HeldJob) -> pb.LeaseUpdate:
    update = held.report()
    update.accept.SetInParent()
    return update
