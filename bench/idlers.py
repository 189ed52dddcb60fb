"""Many spoolers that wait for work: a process of its own, `python -m bench.idlers ADDRESS BACKEND STREAMS`.

Each has its stream, credit 1, and beats as often as it is told to.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any

from bench.client import Stub, connect
from bench.commands import obey
from bench.worker import open_stream
from spoolway.v1 import job_service_pb2 as pb

STREAMS_A_CHANNEL = 50
AT_ONCE = 50


async def _open(stub: Stub, number: int, backend: str) -> tuple[Any, float]:
    call, welcome = await open_stream(stub, f"idle-{number}", backend)
    await call.write(pb.StreamNextJobsRequest(credit=pb.Credit(backend=backend, outstanding=1)))
    return call, welcome.heartbeat_interval.ToTimedelta().total_seconds()


async def _stay(call: Any, interval_s: float) -> None:
    for sequence in range(1, sys.maxsize):
        await asyncio.sleep(interval_s)
        await call.write(pb.StreamNextJobsRequest(beat=pb.SpoolerBeat(sequence=sequence)))
        await call.read()


async def main(address: str, backend: str, streams: int) -> None:
    async with AsyncExitStack() as channels, asyncio.TaskGroup() as tasks:
        opened: list[tuple[Any, float]] = []
        stub: Stub | None = None
        for first in range(0, streams, AT_ONCE):
            if stub is None or first % STREAMS_A_CHANNEL == 0:
                stub = Stub(await channels.enter_async_context(connect(address)))
            numbers = range(first, min(first + AT_ONCE, streams))
            opened += await asyncio.gather(*(_open(stub, number, backend) for number in numbers))
        staying = [tasks.create_task(_stay(*one)) for one in opened]
        await obey({}, streams=len(opened))
        for task in staying:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
