"""The worker: a process of its own, `python -m bench.worker KIND ADDRESS LINK [STREAMS]`. Raw stubs as well.

On the floor it acknowledges what it gets. On the service it is a good spooler: one stream a backend, which
accepts at once, completes with a result, and sends together what came up while it sent the last message.
"""

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import grpc
import msgspec

from bench import payload
from bench.client import METADATA, Stub, connect
from bench.commands import Answer, obey
from bench.floor import WORK
from bench.link import Link
from bench.preload import CONFIG
from bench.tally import Tally
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["StreamPlan", "open_stream"]

MAX_UPDATES = 1000
"""Of one message, by the contract."""
LOOK_FOR_BEAT_S = 1.0


class StreamPlan(msgspec.Struct, frozen=True):
    """A stream for one backend."""

    backend: str
    credit: int
    """Jobs held at once."""
    gated: bool
    """Completes a job only once the client has told of another one: so the queue keeps its length."""


class Held(msgspec.Struct, frozen=True):
    """A job in hand."""

    job: str
    token: str


class Stream:
    """One StreamNextJobs call."""

    def __init__(self, plan: StreamPlan, tally: Tally) -> None:
        self.plan = plan
        self._tally = tally
        self._granted = 0
        self._sequence = 0
        self._accepting: dict[int, Held] = {}
        self._completing: set[int] = set()
        self._ready: deque[Held] = deque()
        self._outgoing: list[pb.LeaseUpdate] = []
        self._on_outgoing = asyncio.Event()
        self._on_ready = asyncio.Event()
        self._beat_interval_s = 0.0
        self._beat_due = 0

    async def run(self, stub: Stub) -> None:
        """Serve until cancelled."""
        call, welcome = await open_stream(stub, f"bench-{self.plan.backend}", self.plan.backend)
        self._beat_interval_s = welcome.heartbeat_interval.ToTimedelta().total_seconds()
        credit = pb.Credit(backend=self.plan.backend, outstanding=self.plan.credit)
        await call.write(pb.StreamNextJobsRequest(credit=credit))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(call))
            tasks.create_task(self._write(call))
            tasks.create_task(self._beat())

    def grant(self, jobs: int) -> None:
        """So many more may be completed."""
        self._granted += jobs
        self._complete_ready()

    async def filled(self) -> None:
        """Return once it holds all that its credit allows."""
        while len(self._ready) < self.plan.credit:
            self._on_ready.clear()
            await self._on_ready.wait()

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            match message.WhichOneof("message"):
                case "assign":
                    self._assigned(message.assign.jobs)
                case "confirms":
                    self._confirmed(message.confirms.confirms)
                case "beat":
                    self._beat_interval_s = message.beat.heartbeat_interval.ToTimedelta().total_seconds()
                case kind:
                    raise RuntimeError(f"the server sent {kind}: {message}")
        raise RuntimeError(f"the server ended the stream: {await call.code()} {await call.details()}")

    async def _write(self, call: Any) -> None:
        """All writing: gRPC takes one message of a stream at a time."""
        while True:
            await self._on_outgoing.wait()
            self._on_outgoing.clear()
            if self._beat_due:
                beat = pb.SpoolerBeat(sequence=self._beat_due)
                self._beat_due = 0
                await call.write(pb.StreamNextJobsRequest(beat=beat))
            while self._outgoing:
                some = self._outgoing[:MAX_UPDATES]
                del self._outgoing[:MAX_UPDATES]
                await call.write(pb.StreamNextJobsRequest(updates=pb.LeaseUpdates(updates=some)))

    async def _beat(self) -> None:
        sequence = 0
        sent_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_FOR_BEAT_S)
            if time.monotonic() - sent_at >= self._beat_interval_s:
                sent_at = time.monotonic()
                sequence = self._beat_due = sequence + 1
                self._on_outgoing.set()

    def _assigned(self, jobs: Sequence[pb.Assignment]) -> None:
        self._tally.arrived(self.plan.backend, [job.content for job in jobs], time.monotonic_ns())
        for job in jobs:
            held = Held(job.job, job.lease_token)
            self._accepting[self._report(held, accept=pb.Accept())] = held

    def _confirmed(self, confirms: Sequence[pb.Confirm]) -> None:
        finished = 0
        for confirm in confirms:
            if confirm.HasField("error"):
                raise RuntimeError(f"a report was refused: {confirm.error}")
            held = self._accepting.pop(confirm.sequence, None)
            if held is not None:
                self._ready.append(held)
                continue
            self._completing.remove(confirm.sequence)
            finished += 1
        self._on_ready.set()
        self._complete_ready()
        if finished:
            self._tally.finished(self.plan.backend, finished)

    def _complete_ready(self) -> None:
        while self._ready and (self._granted or not self.plan.gated):
            self._granted -= self.plan.gated
            self._completing.add(
                self._report(self._ready.popleft(), complete=pb.Complete(result=payload.RESULT))
            )

    def _report(self, held: Held, **update: Any) -> int:
        self._sequence += 1
        self._outgoing.append(
            pb.LeaseUpdate(sequence=self._sequence, job=held.job, lease_token=held.token, **update)
        )
        self._on_outgoing.set()
        return self._sequence


class Worker:
    """What the parent can ask for."""

    def __init__(self, link_fd: int, streams: Sequence[Stream], tally: Tally) -> None:
        self._link = Link(link_fd, self._on_granted)
        self._streams = {stream.plan.backend: stream for stream in streams}
        self._tally = tally
        self._granted_stream: Stream | None = None

    async def reset(self, backend: str, *, one_by_one: bool) -> Answer:
        """Count anew, grants being for `backend`; one by one, tell the client of each job that is done."""
        self._granted_stream = self._streams.get(backend)
        self._tally.restart(backend, keep_arrivals=one_by_one)
        self._tally.on_finished = self._tell_at_once if one_by_one else None
        return {}

    async def filled(self, backend: str) -> Answer:
        """Return once the backend's stream holds all that it may."""
        await self._streams[backend].filled()
        return {}

    def _on_granted(self, jobs: int) -> None:
        if self._granted_stream is not None:
            self._granted_stream.grant(jobs)

    def _tell_at_once(self, jobs: int) -> None:
        self._link.tell(jobs, now=True)


async def open_stream(stub: Stub, spooler: str, backend: str) -> tuple[Any, pb.Welcome]:
    """A stream that has been welcomed; its credit is 0."""
    call: Any = stub.StreamNextJobs(metadata=METADATA)
    hello = pb.Hello(
        spooler_id=spooler, instance_id=spooler, protocol=1, backends=[backend], max_message_bytes=1 << 25
    )
    await call.write(pb.StreamNextJobsRequest(hello=hello))
    message = await call.read()
    if message is grpc.aio.EOF:
        raise RuntimeError(f"not welcome: {await call.code()} {await call.details()}")
    welcome: pb.Welcome = message.welcome
    return call, welcome


async def _acknowledge(channel: grpc.aio.Channel, tally: Tally) -> None:
    """The floor's worker."""
    call: Any = channel.stream_stream(WORK)()
    async for message in call:
        tally.arrived("", [message], time.monotonic_ns())
        await call.write(b"ok")
        tally.finished("", 1)


async def main(kind: str, address: str, link_fd: int, plans: Sequence[StreamPlan]) -> None:
    tally = Tally()
    async with connect(address) as channel, asyncio.TaskGroup() as tasks:
        for plan in plans:
            registration = pb.RegisterBackendRequest(backend=plan.backend, config=CONFIG)
            await Stub(channel).RegisterBackend(registration, metadata=METADATA)
        streams = [Stream(plan, tally) for plan in plans]
        worker = Worker(link_fd, streams, tally)
        serving = (
            [tasks.create_task(_acknowledge(channel, tally))]
            if kind == "floor"
            else [tasks.create_task(stream.run(Stub(channel))) for stream in streams]
        )
        await obey({"reset": worker.reset, "filled": worker.filled, "wait": tally.wait})
        for task in serving:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(
        main(
            sys.argv[1],
            sys.argv[2],
            int(sys.argv[3]),
            [msgspec.convert(plan, StreamPlan) for plan in json.loads(sys.argv[4])],
        )
    )
