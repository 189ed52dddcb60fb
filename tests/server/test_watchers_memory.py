"""What watchers and idle spoolers cost: the memory of a server, a process of its own."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from spoolway.v1 import job_service_pb2 as pb
from tests.server.lab import Caller
from tests.server.server_process import ServerProcess, server_process, write_config

_log = logging.getLogger(__name__)

NEVER_READ = 50
JOBS = 5_000
BATCH = 250
MAX_GROWTH_MB = 20
IDLE_WATCHERS, IDLE_SPOOLERS = 1_000, 200
MAX_RSS_MB = 300
CALLS_A_CONNECTION = 100
MB_IN_MIB = 1e6 / (1 << 20)


@contextlib.asynccontextmanager
async def connected(server: ServerProcess, user: str) -> AsyncIterator[Caller]:
    """A caller with a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        yield Caller(channel, user)


async def submit(caller: Caller, jobs: int) -> None:
    for _ in range(0, jobs, BATCH):
        requests = [pb.SubmitJobRequest(backend="sim", content=b'{"a": 1}') for _ in range(BATCH)]
        answer = await caller.SubmitJobs(pb.SubmitJobsRequest(requests=requests))
        assert not any(outcome.HasField("error") for outcome in answer.outcomes)


async def test_watchers_that_never_read_cost_little(memory_disk: Path) -> None:
    """50 of them, and 5,000 new jobs: the server grows by less than 20 MB."""
    async with (
        server_process(write_config(memory_disk)) as server,
        connected(server, "ada") as ada,
        connected(server, "ada") as watcher,
    ):
        await ada.register()
        # All that is made once, and what SQLite keeps of its file, is there before anything is counted.
        await submit(ada, 1_000)
        watches = [watcher.WatchJobs(pb.WatchJobsRequest(backend="sim")) for _ in range(NEVER_READ)]
        # The snapshot is read, so that each of them surely watches; then nothing ever again.
        for watch in watches:
            while not (await watch.read()).snapshot_complete:
                pass
        server.watch_memory()

        await submit(ada, JOBS)
        # Another watcher has seen everything: so the others have been offered everything.
        await see_all(ada, 1_000 + JOBS)

        _log.info("watchers that never read: the server grew by %.1f MiB", server.lasting_growth_mib)
        assert server.lasting_growth_mib < MAX_GROWTH_MB * MB_IN_MIB


async def see_all(caller: Caller, jobs: int) -> None:
    """Read a snapshot of everything."""
    watch = caller.WatchJobs(pb.WatchJobsRequest(backend="sim"))
    seen: set[str] = set()
    while len(seen) < jobs:
        event = await watch.read()
        assert event is not grpc.aio.EOF
        seen.update(job.name for job in event.jobs)
    watch.cancel()


async def watch_idly(caller: Caller) -> grpc.aio.UnaryStreamCall:
    """A watcher that has its snapshot, which is empty."""
    call: grpc.aio.UnaryStreamCall = caller.WatchJobs(pb.WatchJobsRequest(backend="sim"))
    event = await call.read()
    assert event.snapshot_complete
    return call


async def spool_idly(caller: Caller, name: str) -> grpc.aio.StreamStreamCall:
    """A spooler that waits for a job."""
    call: grpc.aio.StreamStreamCall = caller.StreamNextJobs()
    hello = pb.Hello(spooler_id=name, instance_id=name, protocol=1, backends=["sim"])
    await call.write(pb.StreamNextJobsRequest(hello=hello))
    assert (await call.read()).HasField("welcome")
    await call.write(pb.StreamNextJobsRequest(credit=pb.Credit(backend="sim", outstanding=1)))
    return call


async def test_idle_watchers_and_spoolers_fit_into_300_mb(memory_disk: Path) -> None:
    """1,000 watchers and 200 spoolers wait: the server as a whole takes less than 300 MB."""
    async with (
        server_process(write_config(memory_disk)) as server,
        contextlib.AsyncExitStack() as connections,
    ):
        callers = [
            await connections.enter_async_context(connected(server, "ada"))
            for _ in range(IDLE_WATCHERS // CALLS_A_CONNECTION)
        ]
        await callers[0].register()
        open_calls: list[object] = []
        for caller in callers:
            open_calls += await asyncio.gather(*(watch_idly(caller) for _ in range(CALLS_A_CONNECTION)))
        for first in range(0, IDLE_SPOOLERS, CALLS_A_CONNECTION):
            numbers = range(first, first + CALLS_A_CONNECTION)
            open_calls += await asyncio.gather(
                *(spool_idly(callers[0], f"spooler-{number}") for number in numbers)
            )

        _log.info("%d idle streams: the server takes %.0f MiB", len(open_calls), server.rss_mib)
        assert len(open_calls) == IDLE_WATCHERS + IDLE_SPOOLERS
        assert server.rss_mib < MAX_RSS_MB * MB_IN_MIB
