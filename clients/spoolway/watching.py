"""Following jobs: WatchJobs with resume, and WaitJob where streams are cut."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from spoolway.channel import Connection
from spoolway.errors import SpoolwayError, UnavailableError, UnimplementedError, is_transient
from spoolway.snapshot import JobSnapshot, snapshot_from_proto
from spoolway.timing import Backoff, Timing
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["wait_for_end", "watch_events", "watch_job", "watch_snapshots"]

_TRIES_BEFORE_UNARY = 2


async def watch_events(
    connection: Connection,
    names: Sequence[str],
    backend: str,
    *,
    timing: Timing,
    give_up_after: int | None = None,
) -> AsyncGenerator[pb.WatchJobsResponse, None]:
    """Events of WatchJobs, over any number of streams: what breaks is reopened with the last resume token.

    Close the generator (`aclose`) when done.

    Args:
        connection: Where to.
        names: Jobs to watch; empty: all of the caller's.
        backend: Only of this backend; empty: of all.
        timing: The periods.
        give_up_after: Raise after so many streams in a row that brought nothing; None: go on for ever.

    Raises:
        SpoolwayError: watching is refused, or was given up.
    """
    backoff = Backoff(timing.reconnect_first_s, timing.reconnect_longest_s)
    request = pb.WatchJobsRequest(names=names, backend=backend)
    empty_streams = 0
    while True:
        call = connection.open(connection.jobs.WatchJobs, request)
        problem: SpoolwayError = UnavailableError(f"{connection.address}: the watch was closed")
        limit_s = timing.first_event_s
        try:
            while True:
                async with asyncio.timeout(limit_s):
                    event = await connection.read(call)
                if event is None:
                    break
                empty_streams = 0
                backoff.reset()
                limit_s = timing.bookmark_s
                request.resume_token = event.resume_token or request.resume_token
                yield event
        except SpoolwayError as error:
            if not is_transient(error):
                raise
            problem = error
        except TimeoutError:
            problem = UnavailableError(f"{connection.address}: the watch was silent for {limit_s:g} s")
        finally:
            call.cancel()
        empty_streams += 1
        if give_up_after is not None and empty_streams >= give_up_after:
            raise problem
        await asyncio.sleep(backoff.next_s())


async def watch_snapshots(
    connection: Connection, names: Sequence[str], backend: str, *, timing: Timing
) -> AsyncGenerator[JobSnapshot, None]:
    """Jobs as they change; of each job never an older revision after a newer one."""
    seen: dict[str, int] = {}
    async with contextlib.aclosing(watch_events(connection, names, backend, timing=timing)) as events:
        async for event in events:
            for name in event.deleted:
                seen.pop(name, None)
            for job in event.jobs:
                if job.revision <= seen.get(job.name, 0):
                    continue
                snapshot = snapshot_from_proto(job)
                if snapshot.is_terminal:
                    # Forgotten, so that a watch of years does not grow; a repeat may show the end twice.
                    seen.pop(job.name, None)
                else:
                    seen[job.name] = job.revision
                yield snapshot


async def watch_job(
    connection: Connection, name: str, *, timing: Timing, give_up_after: int | None = None
) -> AsyncGenerator[JobSnapshot, None]:
    """One job as it changes, until it ends or is deleted."""
    revision = 0
    events = watch_events(connection, [name], "", timing=timing, give_up_after=give_up_after)
    async with contextlib.aclosing(events):
        async for event in events:
            for job in event.jobs:
                if job.revision > revision:
                    revision = job.revision
                    snapshot = snapshot_from_proto(job)
                    yield snapshot
                    if snapshot.is_terminal:
                        return
            if event.deleted:
                return


async def wait_for_end(connection: Connection, name: str, *, timing: Timing) -> JobSnapshot:
    """Wait until the job has ended, as long as it takes.

    Watches it; where two streams in a row bring nothing, as behind a proxy that cuts them, asks by WaitJob.

    Raises:
        SpoolwayError: the server refuses.
    """
    try:
        watch = watch_job(connection, name, timing=timing, give_up_after=_TRIES_BEFORE_UNARY)
        async with contextlib.aclosing(watch):
            async for snapshot in watch:
                if snapshot.is_terminal:
                    return snapshot
    except SpoolwayError as error:
        if not is_transient(error) and not isinstance(error, UnimplementedError):
            raise
    return await _wait_by_calls(connection, name, timing=timing)


async def _wait_by_calls(connection: Connection, name: str, *, timing: Timing) -> JobSnapshot:
    backoff = Backoff(timing.reconnect_first_s, timing.reconnect_longest_s)
    request = pb.WaitJobRequest(name=name)
    request.timeout.FromMilliseconds(int(timing.wait_job_s * 1000))
    while True:
        try:
            response = await connection.call(
                connection.jobs.WaitJob, request, timeout_s=timing.wait_job_s + timing.connect_s
            )
        except SpoolwayError as error:
            if not is_transient(error):
                raise
            await asyncio.sleep(backoff.next_s())
            continue
        backoff.reset()
        snapshot = snapshot_from_proto(response.job)
        if snapshot.is_terminal:
            return snapshot
