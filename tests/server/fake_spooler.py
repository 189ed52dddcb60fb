"""A spooler whose every message a test sends and reads by hand."""

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc

from spoolway.v1 import job_service_pb2 as pb
from tests.server.lab import PATIENCE_S, Caller, Lab, eventually

__all__ = ["FakeSpooler", "held"]


def held(*assignments: pb.Assignment) -> list[pb.HeldLease]:
    """What a spooler with these jobs in hand says in hello."""
    return [pb.HeldLease(job=one.job, lease_token=one.lease_token) for one in assignments]


class FakeSpooler:
    """One process beside a device; `connect` opens a stream, by default over a connection of its own."""

    def __init__(
        self,
        lab: Lab,
        spooler_id: str = "spooler",
        instance_id: str = "first",
        backends: Iterable[str] = ("sim",),
        user: str = "robot",
    ) -> None:
        self._lab = lab
        self.spooler_id = spooler_id
        self.instance_id = instance_id
        self.backends = list(backends)
        self.user = user
        self.session = ""
        """Id of the newest session."""
        self.calls: Caller = lab.caller(user)
        self._channel: grpc.aio.Channel | None = None
        self._call: Any = None
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._sequence = 0
        self._assignments: list[pb.Assignment] = []
        self._confirms: dict[int, pb.Confirm] = {}
        self.inbox: list[pb.StreamNextJobsResponse] = []
        """Messages that nobody has asked for yet, but for assignments and confirmations."""
        self.beats: list[pb.StreamNextJobsResponse] = []
        """Every answer to a beat."""
        self.kinds: list[str] = []
        """The kind of every message, in order."""
        self.sizes: list[int] = []
        """The length of every message in bytes."""

    # The stream

    async def connect(self, **hello: Any) -> pb.Welcome:
        """Open a stream, say hello and read the welcome."""
        self.open()
        await self.say_hello(**hello)
        welcome = (await self.next_of("welcome")).welcome
        self.session = welcome.session
        return welcome

    def open(self) -> None:
        """Open a stream without a word."""
        self._channel = self._lab.new_channel()
        self._call = self._lab.caller(self.user, self._channel).StreamNextJobs()
        self._assignments, self._confirms, self.inbox, self.kinds, self.sizes = [], {}, [], [], []
        self._reading = asyncio.create_task(self._read())
        # How the stream ended is told to whoever asks, and else to nobody.
        self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def say_hello(self, **changes: Any) -> None:
        """Send hello."""
        fields = {
            "spooler_id": self.spooler_id,
            "instance_id": self.instance_id,
            "protocol": 1,
            "backends": self.backends,
            "sdk": "fake/1",
        }
        await self.send(hello=pb.Hello(**(fields | changes)))

    async def send(self, **message: Any) -> None:
        """Send a message."""
        await self._call.write(pb.StreamNextJobsRequest(**message))

    async def end(self) -> None:
        """Close the stream from this side and wait for the server's end of it; raises how it ended."""
        await self._call.done_writing()
        await self.ended()

    async def ended(self) -> None:
        """Wait until the server has ended the stream; raises AioRpcError unless it ended well."""
        assert self._reading is not None
        async with asyncio.timeout(PATIENCE_S):
            await self._reading

    async def kill(self) -> None:
        """Vanish: the connection breaks, without a word; returns when the server has noticed it."""
        assert self._channel is not None
        await self._channel.close()
        spoolers = self._lab.server.spoolers
        await eventually(lambda: self.session not in spoolers.sessions)
        await spoolers.settle()

    async def _read(self) -> None:
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                self._sort(message)
                self._news.set()
            code = await self._call.code()
            if code is not grpc.StatusCode.OK:
                raise grpc.aio.AioRpcError(
                    code,
                    await self._call.initial_metadata(),
                    await self._call.trailing_metadata(),
                    await self._call.details(),
                )
        finally:
            self._news.set()

    def _sort(self, message: pb.StreamNextJobsResponse) -> None:
        kind = message.WhichOneof("message") or ""
        self.kinds.append(kind)
        self.sizes.append(message.ByteSize())
        if kind == "assign":
            self._assignments += message.assign.jobs
        elif kind == "confirms":
            self._confirms |= {confirm.sequence: confirm for confirm in message.confirms.confirms}
        else:
            self.inbox.append(message)
        if kind == "beat":
            self.beats.append(message)

    async def _until(self, found: Any) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while (result := found()) is None:
                assert self._reading is not None
                if self._reading.done():
                    self._reading.result()
                    raise EOFError("the stream has ended")
                self._news.clear()
                await self._news.wait()
        return result

    # Reading

    async def next_of(self, kind: str) -> pb.StreamNextJobsResponse:
        """The next message of a kind; others stay in the inbox."""

        def found() -> pb.StreamNextJobsResponse | None:
            index = next((i for i, one in enumerate(self.inbox) if one.WhichOneof("message") == kind), None)
            return None if index is None else self.inbox.pop(index)

        message: pb.StreamNextJobsResponse = await self._until(found)
        return message

    async def assignment(self) -> pb.Assignment:
        """The next job."""
        one: pb.Assignment = await self._until(
            lambda: self._assignments.pop(0) if self._assignments else None
        )
        return one

    async def assignments(self, number: int) -> list[pb.Assignment]:
        """The next jobs."""
        return [await self.assignment() for _ in range(number)]

    @property
    def unasked(self) -> list[pb.Assignment]:
        """Jobs that came and that nobody has asked for yet."""
        return self._assignments

    # Sending

    async def credit(self, outstanding: int, backend: str = "") -> None:
        """Say how many jobs it takes."""
        await self.send(credit=pb.Credit(backend=backend, outstanding=outstanding))

    async def beat(self) -> pb.ServerBeat:
        """Send a sign of life and wait until it is acknowledged."""
        sequence = await self.send_beat()
        while True:
            answer = (await self.next_of("beat")).beat
            if answer.acked_sequence >= sequence:
                return answer

    async def settled(self) -> None:
        """Wait until the server has answered everything that was sent; also where no session is any more."""
        self._sequence += 1
        nobody = pb.LeaseUpdate(sequence=self._sequence, job="nobody", lease_token="none")
        await self.send(updates=pb.LeaseUpdates(updates=[nobody]))
        await self.confirmed(self._sequence)

    async def send_beat(self) -> int:
        """Send a sign of life and return its number."""
        self._sequence += 1
        await self.send(beat=pb.SpoolerBeat(sequence=self._sequence))
        return self._sequence

    async def drain(self) -> pb.Confirm:
        """Say that it will stop, and wait for the confirmation."""
        self._sequence += 1
        sequence = self._sequence
        await self.send(drain=pb.Drain(sequence=sequence))
        return await self.confirmed(sequence)

    async def confirmed(self, sequence: int) -> pb.Confirm:
        """The answer to a report."""
        confirm: pb.Confirm = await self._until(lambda: self._confirms.pop(sequence, None))
        return confirm

    async def report(self, one: pb.Assignment, **update: Any) -> pb.Confirm:
        """Report about a job and wait for the answer."""
        return await self.confirmed(await self.send_report(one, **update))

    async def send_report(self, one: pb.Assignment, **update: Any) -> int:
        """Report about a job and return the report's number."""
        self._sequence += 1
        report = pb.LeaseUpdate(sequence=self._sequence, job=one.job, lease_token=one.lease_token, **update)
        await self.send(updates=pb.LeaseUpdates(updates=[report]))
        return self._sequence

    async def accept(self, one: pb.Assignment) -> pb.Confirm:
        """Accept a job."""
        return await self.report(one, accept=pb.Accept())

    async def complete(self, one: pb.Assignment, result: bytes = b'{"r": 1}') -> pb.Confirm:
        """End a job well."""
        return await self.report(one, complete=pb.Complete(result=result))

    async def fail(self, one: pb.Assignment, message: str = "broken", **fields: Any) -> pb.Confirm:
        """End an attempt with an error."""
        return await self.report(one, fail=pb.Fail(message=message, **fields))

    async def release(self, one: pb.Assignment, reason: str = "not now") -> pb.Confirm:
        """Give a job back."""
        return await self.report(one, release=pb.Release(reason=reason))

    async def take(self) -> pb.Assignment:
        """Wait for a job and accept it."""
        one = await self.assignment()
        confirm = await self.accept(one)
        assert not confirm.HasField("error"), confirm
        return one

    async def serve(self, number: int) -> list[str]:
        """Run jobs one after the other; returns their names in the order in which they came."""
        names = []
        for _ in range(number):
            one = await self.take()
            await self.complete(one)
            names.append(one.job)
        return names
