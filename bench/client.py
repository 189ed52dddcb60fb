"""The client: a process of its own, `python -m bench.client KIND ADDRESS LINK`. Raw stubs, no client package.

It either keeps a number of calls in flight, or makes one at a time and waits until its job is done.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import grpc

from bench import payload
from bench.commands import Answer, obey
from bench.floor import ECHO, RELAY
from bench.load import Load
from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import job_service_pb2_grpc as rpc

if TYPE_CHECKING:
    from spoolway.v1.job_service_pb2_grpc import JobServiceAsyncStub as Stub
else:
    # The generated module tells the asynchronous stub from the synchronous one only in its types.
    Stub = rpc.JobServiceStub

__all__ = ["BATCH", "METADATA", "Client", "Stub", "connect"]

BATCH = 50
"""Jobs of one SubmitJobs in the case `batch`."""
PRELOAD_BATCH = 500
METADATA = (("spoolway-user", "bench"),)


class FloorCalls:
    """Calls of the floor; it knows no backends."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._echo: Any = channel.unary_unary(ECHO)
        self._relay: Any = channel.unary_unary(RELAY)

    async def echo(self, _backend: str) -> int:
        await self._echo(payload.job(time.monotonic_ns()))
        return 1

    async def relay(self, _backend: str) -> int:
        await self._relay(payload.job(time.monotonic_ns()))
        return 1


class JobCalls:
    """Calls of the service, with a request id each, as the client package sends."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = Stub(channel)
        self._ids = (f"bench-{number}" for number in count())

    async def single(self, backend: str) -> int:
        await self._stub.SubmitJob(self._request(backend), metadata=METADATA)
        return 1

    async def batch(self, backend: str) -> int:
        return await self.submit(backend, BATCH)

    async def submit(self, backend: str, jobs: int) -> int:
        requests = [self._request(backend) for _ in range(jobs)]
        answer = await self._stub.SubmitJobs(pb.SubmitJobsRequest(requests=requests), metadata=METADATA)
        for outcome in answer.outcomes:
            if outcome.HasField("error"):
                raise RuntimeError(f"a job was refused: {outcome.error.reason}: {outcome.error.message}")
        return jobs

    def _request(self, backend: str) -> pb.SubmitJobRequest:
        return pb.SubmitJobRequest(
            backend=backend, content=payload.job(time.monotonic_ns()), request_id=next(self._ids)
        )


class Client(Load):
    """What the parent can ask for."""

    def __init__(self, channel: grpc.aio.Channel, link_fd: int, kind: str) -> None:
        self._jobs = JobCalls(channel)
        floor = FloorCalls(channel)
        super().__init__(
            link_fd,
            {"echo": floor.echo, "relay": floor.relay}
            if kind == "floor"
            else {"single": self._jobs.single, "batch": self._jobs.batch},
        )

    async def preload(self, backend: str, jobs: int) -> Answer:
        """Queue jobs."""
        sizes = iter([PRELOAD_BATCH] * (jobs // PRELOAD_BATCH) + [jobs % PRELOAD_BATCH])
        while some := [size for size in islice(sizes, 4) if size]:
            await asyncio.gather(*(self._jobs.submit(backend, size) for size in some))
        return {"jobs": jobs}


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


async def main(kind: str, address: str, link_fd: int) -> None:
    async with connect(address) as channel:
        client = Client(channel, link_fd, kind)
        await obey({"load": client.load, "one_by_one": client.one_by_one, "preload": client.preload})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
