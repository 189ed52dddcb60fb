"""Many streams, opened and closed: what they leave behind in the server's memory.

2,000 streams; SOAK_STREAMS=20000, or `make soak`, opens more.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from spoolway.v1 import job_service_pb2 as pb
from tests.server.lab import Caller
from tests.server.server_process import caller_of, server_process, write_config

_log = logging.getLogger(__name__)

STREAMS = int(os.environ.get("SOAK_STREAMS", "2000"))
WARM_UP = 1000
"""Streams before memory is watched: until then allocators and pools only fill."""
AT_ONCE = 50
GROWTH_MIB = 6 + STREAMS * 0.5 / 1024
"""Half a KB a stream, which is grpc's, beside the noise of allocators; one session that stays is 4 KB."""


async def spool(caller: Caller, number: int) -> grpc.aio.StreamStreamCall:
    """A spooler's stream that has been welcomed and asks for a job."""
    name = f"s-{number % AT_ONCE}"
    call: grpc.aio.StreamStreamCall = caller.StreamNextJobs()
    hello = pb.Hello(spooler_id=name, instance_id=name, protocol=1, backends=["sim"])
    await call.write(pb.StreamNextJobsRequest(hello=hello))
    message = await call.read()
    assert isinstance(message, pb.StreamNextJobsResponse)
    assert message.HasField("welcome"), message
    await call.write(pb.StreamNextJobsRequest(credit=pb.Credit(backend="sim", outstanding=1)))
    return call


async def close(caller: Caller, number: int) -> None:
    """A spooler that says goodbye."""
    call = await spool(caller, number)
    await call.done_writing()
    while await call.read() is not grpc.aio.EOF:
        pass


async def cancel(caller: Caller, number: int) -> None:
    """A spooler that is cut off."""
    call = await spool(caller, number)
    call.cancel()


async def watch(caller: Caller, _number: int) -> None:
    """A watcher that has seen enough."""
    call = caller.WatchJobs(pb.WatchJobsRequest(backend="sim"))
    await call.read()
    call.cancel()


WAYS: tuple[Callable[[Caller, int], Awaitable[None]], ...] = (close, cancel, watch)


async def open_and_close(caller: Caller, streams: int) -> None:
    numbers = iter(range(streams))

    async def lane() -> None:
        for number in numbers:
            await WAYS[number % len(WAYS)](caller, number)

    await asyncio.gather(*(lane() for _ in range(AT_ONCE)))


async def test_streams_that_ended_leave_no_memory_behind(memory_disk: Path) -> None:
    """Spoolers that leave, spoolers that are cut off and watchers: the server's memory stays flat."""
    async with server_process(write_config(memory_disk)) as server, caller_of(server) as caller:
        await caller.register()
        await open_and_close(caller, WARM_UP)
        server.watch_memory()

        await open_and_close(caller, STREAMS)

        _log.info("%d streams: the server grew by %.1f MiB", STREAMS, server.growth_mib)
        assert server.growth_mib < GROWTH_MIB
