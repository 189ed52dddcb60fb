"""Delivering the ends of jobs by unary calls while the stream is down (contract R7)."""

import asyncio
import logging
from collections.abc import Callable

from spoolway.channel import Connection
from spoolway.errors import FailedPreconditionError, SpoolwayError, UnauthenticatedError, is_transient
from spoolway.held import HeldJob
from spoolway.session import Session
from spoolway.timing import Backoff, Timing
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["Delivery"]

_log = logging.getLogger("spoolway.spooler")


class Delivery:
    """Watches for a stream that stays down, and then delivers what has ended to whichever server answers."""

    def __init__(
        self, connection: Connection, session: Session, *, timing: Timing, now: Callable[[], float]
    ) -> None:
        """Prepare; `run` does it."""
        self._connection = connection
        self._session = session
        self._timing = timing
        self._now = now

    async def run(self) -> None:
        """Work until cancelled."""
        backoff = Backoff(self._timing.resend_first_s, self._timing.resend_longest_s)
        while True:
            await self._session.lost.wait()
            await asyncio.sleep(self._timing.unary_poll_s)
            if self._now() < self._session.lost_at + self._timing.unary_after_s:
                continue
            if await self.deliver_all():
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())

    async def run_late(self) -> None:
        """Deliver results of leases that are gone, each once; works until cancelled."""
        while True:
            await self.deliver_late(await self._session.late.get())
            self._session.late.task_done()

    async def deliver_late(self, end: pb.LeaseUpdate) -> None:
        """Deliver one: it changes nothing, and the server keeps it aside for a day."""
        try:
            await self._complete(end)
        except SpoolwayError as error:
            kept = isinstance(error, FailedPreconditionError)
            words = "came too late; the server keeps it for a day" if kept else f"is lost: {error}"
            _log.warning("%s: its result %s", end.job, words)
        else:
            _log.info("%s: its result came late, and counts", end.job)

    async def deliver_all(self) -> bool:
        """Deliver each end that waits, while the stream is down. False if the server could not take one."""
        for held in self._session.ends():
            if not self._session.lost.is_set():
                break
            try:
                await self._deliver(held)
            except SpoolwayError as error:
                if is_transient(error) or isinstance(error, UnauthenticatedError):
                    _log.debug("%s: its end can't be delivered now: %s", held.job.name, error)
                    return False
                self._session.end_refused(held, error)
            else:
                self._session.end_delivered(held)
        return True

    async def _deliver(self, held: HeldJob) -> None:
        end, jobs, timeout_s = held.end, self._connection.jobs, self._timing.unary_timeout_s
        if end is None:
            return
        job, token = end.job, end.lease_token
        match end.WhichOneof("update"):
            case "complete":
                await self._complete(end)
            case "release":
                release = pb.ReleaseJobRequest(job=job, lease_token=token, reason=end.release.reason)
                await self._connection.call(jobs.ReleaseJob, release, timeout_s=timeout_s)
            case "cancelled":
                # There is no unary call for it: a failure ends a job that is to be cancelled as well.
                stopped = pb.FailJobRequest(
                    job=job, lease_token=token, fail=pb.Fail(message="stopped, as it was cancelled")
                )
                await self._connection.call(jobs.FailJob, stopped, timeout_s=timeout_s)
            case _:
                fail = pb.FailJobRequest(job=job, lease_token=token, fail=end.fail)
                await self._connection.call(jobs.FailJob, fail, timeout_s=timeout_s)

    async def _complete(self, end: pb.LeaseUpdate) -> None:
        upload = end.complete.upload if end.complete.HasField("upload") else None
        request = pb.CompleteJobRequest(
            job=end.job, lease_token=end.lease_token, result=end.complete.result, upload=upload
        )
        method = self._connection.jobs.CompleteJob
        await self._connection.call(method, request, timeout_s=self._timing.unary_timeout_s)
