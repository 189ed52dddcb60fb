"""A JobService that a test scripts: a real grpc.aio server on a free port, without any rules of its own."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import job_service_pb2_grpc as rpc

_METHODS = pb.DESCRIPTOR.services_by_name["JobService"].methods_by_name

PATIENCE_S = 10
"""How long a test waits for what must happen."""


class Refusal(Exception):
    """Raised by a script: the call ends with this status."""

    def __init__(
        self, code: grpc.StatusCode, message: str = "refused", reason: str = "", *details: Message
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        if reason:
            info = error_details_pb2.ErrorInfo(reason=reason, domain="spoolway", metadata={"limit": "7"})
            self.details = (info, *details)

    async def abort(self, context: Any) -> None:
        trailer: tuple[tuple[str, bytes], ...] = ()
        if self.details:
            status = status_pb2.Status(code=self.code.value[0], message=self.message)
            for detail in self.details:
                packed = any_pb2.Any()
                packed.Pack(detail)
                status.details.append(packed)
            trailer = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(self.code, self.message, trailer)


class FakeStream:
    """The server's end of one StreamNextJobs, played by the test."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[pb.StreamNextJobsRequest | None] = asyncio.Queue()
        self.hello = pb.Hello()
        self.end: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self.was_half_closed = False
        self.answers_beats = False
        """Answer beats as they come, from now on."""
        self._updates: list[pb.LeaseUpdate] = []
        self._outgoing: asyncio.Queue[pb.StreamNextJobsResponse | None] = asyncio.Queue()

    async def receive(self, kind: str) -> Any:
        """The next message or update of this kind; messages that come before it are passed over."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for update in self._updates:
                    if update.WhichOneof("update") == kind:
                        self._updates.remove(update)
                        return update
                message = await self.received.get()
                if message is None:
                    raise AssertionError(f"the client closed the stream before it sent {kind}")
                if message.HasField("updates"):
                    self._updates.extend(message.updates.updates)
                elif message.WhichOneof("message") == kind:
                    return getattr(message, kind)

    async def receive_end(self) -> None:
        """Wait until the client has closed its side."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.received.get() is not None:
                pass

    def seen(self) -> list[str]:
        """Kinds of what has arrived and was not received yet."""
        while not self.received.empty():
            message = self.received.get_nowait()
            if message is not None and message.HasField("updates"):
                self._updates.extend(message.updates.updates)
        return [update.WhichOneof("update") or "" for update in self._updates]

    def send(self, **message: Any) -> None:
        self._outgoing.put_nowait(pb.StreamNextJobsResponse(**message))

    def welcome(self, **fields: Any) -> None:
        defaults: dict[str, Any] = {
            "session": "s1",
            "lease_ttl": duration(30),
            "heartbeat_interval": duration(10),
            "accept_timeout": duration(3),
            "max_inline_bytes": 2 * 1024 * 1024,
        }
        self.send(welcome=pb.Welcome(**(defaults | fields)))

    def assign(self, *ids: str, backend: str = "echo", content: bytes = b"{}", **fields: Any) -> None:
        jobs = [
            pb.Assignment(job=job_name(i, backend), lease_token=token(i), content=content, **fields)
            for i in ids
        ]
        self.send(assign=pb.Assign(jobs=jobs))

    def confirm(self, *updates: Any, error: job_pb2.JobError | None = None) -> None:
        confirms = [pb.Confirm(sequence=update.sequence, error=error) for update in updates]
        self.send(confirms=pb.Confirms(confirms=confirms))

    def cancel(self, job_id: str) -> None:
        self.send(
            cancel=pb.Cancel(
                job=job_name(job_id),
                lease_token=token(job_id),
                reason=job_pb2.STATE_REASON_USER,
                grace=duration(30),
            )
        )

    def revoke(self, job_id: str, reason: str = "LEASE_SUPERSEDED") -> None:
        self.send(revoke=revoked(job_id, reason))

    def goaway(self, reason: str, after_s: float = 0) -> None:
        self.send(goaway=pb.Goaway(reason=reason, reconnect_after=duration(after_s)))

    def close(self, refusal: Refusal | None = None) -> None:
        """End the stream, by default with OK."""
        if not self.end.done():
            self.end.set_result(refusal)

    async def accept(self, *ids: str, backend: str = "echo", content: bytes = b"{}") -> None:
        """Assign jobs and confirm their accepts: their functions are started."""
        self.assign(*ids, backend=backend, content=content)
        for _ in ids:
            self.confirm(await self.receive("accept"))

    async def play(self, requests: AsyncIterator[Any], context: Any) -> None:
        reader = asyncio.create_task(self._read(requests))
        writer = asyncio.create_task(self._write(context))
        try:
            refusal = await self.end
            self._outgoing.put_nowait(None)
            await asyncio.wait({writer})
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.wait({reader, writer})
        if refusal is not None:
            await refusal.abort(context)

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        with contextlib.suppress(aio.AioRpcError, aio.AbortError, Exception):
            async for request in requests:
                if self.answers_beats and request.HasField("beat"):
                    self.send(beat=pb.ServerBeat(acked_sequence=request.beat.sequence))
                self.received.put_nowait(request)
            self.was_half_closed = True
        self.received.put_nowait(None)
        if self.was_half_closed:
            self.close()

    async def _write(self, context: Any) -> None:
        while (message := await self._outgoing.get()) is not None:
            await context.write(message)


class FakeServer:
    """Answers unary calls from `answers`, and hands streams to the test."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Any], Any]] = {
            "RegisterBackend": lambda request: pb.RegisterBackendResponse(),
        }
        self.requests: dict[str, list[Any]] = {}
        self.metadata: dict[str, str] = {}
        self.arrived = asyncio.Condition()
        self.streams: asyncio.Queue[FakeStream] = asyncio.Queue()
        self.refused_streams: list[Refusal | None] = []
        """Streams to come that end at once, in this way; None: OK."""
        self.stream_count = 0
        self.address = ""
        self._server: aio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = aio.server(options=[("grpc.so_reuseport", 0)])
        servicer: Any = self
        rpc.add_JobServiceServicer_to_server(servicer, self._server)
        self._server.add_generic_rpc_handlers((_HEALTH,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def next_stream(self, **welcome: Any) -> FakeStream:
        """The next stream, with hello received and welcome sent."""
        stream = await self.next_unwelcomed()
        stream.welcome(**welcome)
        return stream

    async def next_unwelcomed(self) -> FakeStream:
        async with asyncio.timeout(PATIENCE_S):
            stream = await self.streams.get()
        stream.hello = await stream.receive("hello")
        return stream

    async def called(self, method: str, times: int = 1) -> list[Any]:
        """Wait until a method was called so often; the requests."""
        async with asyncio.timeout(PATIENCE_S), self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests.get(method, ())) >= times)
        return self.requests[method]

    def __getattr__(self, method: str) -> Any:
        """Every call of the service but StreamNextJobs."""
        if method not in _METHODS:
            raise AttributeError(method)

        async def stream(request: Any, context: Any) -> None:
            messages = await self._answer(method, request, context)
            try:
                async for message in messages:
                    await context.write(message)
            except Refusal as refusal:
                await refusal.abort(context)

        async def unary(request: Any, context: Any) -> Any:
            return await self._answer(method, request, context)

        return stream if _METHODS[method].server_streaming else unary

    async def _answer(self, method: str, request: Any, context: Any) -> Any:
        self.requests.setdefault(method, []).append(request)
        self.metadata = dict(context.invocation_metadata())
        async with self.arrived:
            self.arrived.notify_all()
        try:
            answer = self.answers[method](request)
            if asyncio.iscoroutine(answer):
                answer = await answer
        except Refusal as refusal:
            await refusal.abort(context)
        return answer

    async def StreamNextJobs(self, request_iterator: Any, context: Any) -> None:  # noqa: N802 - the RPC
        self.stream_count += 1
        self.metadata = dict(context.invocation_metadata())
        if self.refused_streams:
            refusal = self.refused_streams.pop(0)
            if refusal is not None:
                await refusal.abort(context)
            return
        stream = FakeStream()
        self.streams.put_nowait(stream)
        await stream.play(request_iterator, context)


async def _watch_health(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"\x08\x01"  # HealthCheckResponse(status=SERVING)
    await asyncio.Event().wait()


_HEALTH = grpc.method_handlers_generic_handler(
    "grpc.health.v1.Health", {"Watch": grpc.unary_stream_rpc_method_handler(_watch_health)}
)


@contextlib.asynccontextmanager
async def fake_server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def in_turn(*answers: Any) -> Callable[[Any], Any]:
    """A script that gives these answers one after the other, the last one again and again."""
    left = itertools.chain(answers, itertools.repeat(answers[-1]))

    def answer(request: Any) -> Any:
        result = next(left)
        if isinstance(result, Exception):
            raise result
        return result(request) if callable(result) else result

    return answer


async def events(*items: Any, then: Refusal | None = None, hang: bool = False) -> AsyncIterator[Any]:
    """A script for WatchJobs."""
    for item in items:
        yield item
    if then is not None:
        raise then
    if hang:
        await asyncio.Event().wait()


def job_name(job_id: str, backend: str = "echo") -> str:
    return f"backends/{backend}/jobs/{job_id}"


def token(job_id: str) -> str:
    return f"token-{job_id}"


def revoked(job_id: str, reason: str = "LEASE_SUPERSEDED") -> pb.Revoke:
    return pb.Revoke(job=job_name(job_id), lease_token=token(job_id), reason=reason)


def job(job_id: str = "1", state: str = "QUEUED", revision: int = 1, **fields: Any) -> job_pb2.Job:
    return job_pb2.Job(
        name=job_name(job_id),
        id=job_id,
        backend="echo",
        owner="ada",
        state=job_pb2.JobState.Value(f"JOB_STATE_{state}"),
        revision=revision,
        etag=f"e{revision}",
        **fields,
    )


def duration(seconds: float) -> duration_pb2.Duration:
    span = duration_pb2.Duration()
    span.FromTimedelta(timedelta(seconds=seconds))
    return span


def retry_info(seconds: float) -> Message:
    info: Message = error_details_pb2.RetryInfo(retry_delay=duration(seconds))
    return info


def names(updates: Iterable[Any]) -> set[str]:
    return {update.job for update in updates}
