"""Turns exceptions into statuses with details, for every call of our services alike."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import grpc
import structlog
from google.protobuf.message import DecodeError

from spoolway_providers.errors import ProviderError
from spoolway_providers.model import new_token
from spoolway_server.errors import ServiceError, from_provider_error
from spoolway_server.metrics import Metrics

if TYPE_CHECKING:
    # Generic in the stubs only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Context = grpc.aio.ServicerContext
    Handler = grpc.RpcMethodHandler

__all__ = ["Context", "Gatekeeper", "Interrupt", "add_guarded"]

Servicer = TypeVar("Servicer")

_log = structlog.get_logger(__name__)

SEND_GRACE_S = 5.0
"""What a client that is shut out gets to take the message that is on its way to it."""


class Interrupt:
    """Ends a call from outside, with a reason."""

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        """For the call that runs in `task`."""
        if task is None:
            raise RuntimeError("a call has a task")
        self._task = task
        self.error: ServiceError | None = None
        """Why it was ended; None: it goes on."""
        self.sending = False
        """gRPC has the task, to send a message: a cancellation there would lose the reason."""

    def end(self, error: ServiceError) -> None:
        """End the call with `error`, as if it had raised it."""
        if self.error is None:
            self.error = error
            if self.sending:
                asyncio.get_running_loop().call_later(SEND_GRACE_S, self._cancel_if_stuck)
            else:
                self._task.cancel()

    def check(self) -> None:
        """Raise the error of a call that was ended."""
        if self.error is not None:
            raise self.error

    def reason_of(self, cancelled: asyncio.CancelledError) -> ServiceError:
        """The error for which this call was cancelled; raises `cancelled` if that is not our doing."""
        if self.error is None:
            raise cancelled
        self._task.uncancel()
        return self.error

    def _cancel_if_stuck(self) -> None:
        if self.sending:
            self._task.cancel()


class Gatekeeper(Protocol):
    """Lets calls in."""

    def enter(self, context: Context, rpc: str) -> Interrupt | None:
        """Let a call in or raise ServiceError; of one that may last, what ends it."""

    def leave(self, interrupt: Interrupt) -> None:
        """A call that may last is over."""


def add_guarded(
    add_to_server: Callable[[Servicer, grpc.aio.Server], None],
    servicer: Servicer,
    server: grpc.aio.Server,
    gate: Gatekeeper,
    metrics: Metrics,
    max_messages_per_s: int,
) -> None:
    """Add a service, each of its calls guarded and counted: an exception becomes the status it stands for.

    A fault of ours is INTERNAL and logged. Wrapped once, here, as an interceptor would wrap at each call.

    Args:
        add_to_server: the generated `add_...Servicer_to_server`.
        servicer: what it adds.
        server: where.
        gate: who lets callers in, before their requests are parsed.
        metrics: what counts the calls.
        max_messages_per_s: how many messages of a stream are read in a second; more wait.
    """
    methods = _Methods()
    add_to_server(servicer, cast("grpc.aio.Server", methods))
    for service, handlers in methods.by_service.items():
        guarded = {
            name: _guard(handler, _Method(service, name, gate, metrics, max_messages_per_s))
            for name, handler in handlers.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))


class _Methods:
    """Stands in for a server, to be told the methods of a service."""

    def __init__(self) -> None:
        self.by_service: dict[str, dict[str, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The same methods come by name."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.by_service[service] = handlers


class _Method:
    """What is the same in all calls of one RPC."""

    def __init__(
        self, service: str, name: str, gate: Gatekeeper, metrics: Metrics, max_messages_per_s: int
    ) -> None:
        self.full_name = f"/{service}/{name}"
        self.name = name
        self.gate = gate
        self.metrics = metrics.method(name)
        self.tracing = metrics.tracing
        self.max_messages_per_s = max_messages_per_s


def _guard(handler: Any, method: _Method) -> Handler:
    parse = _parser(handler.request_deserializer)
    # Requests are parsed within the guarded call, else bytes that are no message would be gRPC's
    # UNKNOWN and a traceback in the log.
    wire = {"request_deserializer": None, "response_serializer": handler.response_serializer}
    read = _streamed(parse, method.max_messages_per_s) if handler.request_streaming else _single(parse)
    if handler.request_streaming and handler.response_streaming:
        call = _streaming(handler.stream_stream, read, method)
        return grpc.stream_stream_rpc_method_handler(call, **wire)
    if handler.response_streaming:
        call = _streaming(handler.unary_stream, read, method)
        return grpc.unary_stream_rpc_method_handler(call, **wire)
    if handler.request_streaming:
        call = _traced(_unary(handler.stream_unary, read, method), method)
        return grpc.stream_unary_rpc_method_handler(call, **wire)
    call = _traced(_unary(handler.unary_unary, read, method), method)
    return grpc.unary_unary_rpc_method_handler(call, **wire)


_Read = Callable[[Any, Interrupt | None], Any]
"""Makes the request, or the stream of requests, of what gRPC gives."""


def _single(parse: Callable[[bytes], Any]) -> _Read:
    return lambda raw, _interrupt: parse(raw)


def _streamed(parse: Callable[[bytes], Any], max_per_s: int) -> _Read:
    return lambda requests, interrupt: _Parsed(parse, requests, interrupt, max_per_s)


class _Parsed:
    """A stream of requests, each parsed when it is read."""

    def __init__(
        self,
        parse: Callable[[bytes], Any],
        requests: AsyncIterable[bytes],
        interrupt: Interrupt | None,
        max_per_s: int,
    ) -> None:
        self._parse = parse
        self._requests = requests
        self._interrupt = interrupt
        self._iterator: AsyncIterator[bytes] | None = None
        self._max_per_s = max_per_s
        self._second = 0.0
        self._read = 0
        """Messages since `_second` began."""

    def __aiter__(self) -> "_Parsed":
        return self

    async def __anext__(self) -> Any:
        if self._iterator is None:
            # Not earlier: gRPC's iterator complains if it is made and never used.
            self._iterator = aiter(self._requests)
        raw = await anext(self._iterator)
        self._read += 1
        if self._read > self._max_per_s:
            await self._wait_for_the_next_second()
        if self._interrupt is not None:
            self._interrupt.check()
        return self._parse(raw)

    async def _wait_for_the_next_second(self) -> None:
        """What is not read stays with the sender: HTTP/2 lets it send no more than fits in a window."""
        now = monotonic()
        if now - self._second < 1:
            await asyncio.sleep(self._second + 1 - now)
        self._second, self._read = monotonic(), 1


def _parser(deserialize: Callable[[bytes], Any]) -> Callable[[Any], Any]:
    def parse(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except DecodeError as error:
            message = f"the request is no message of this call, or has text that is not UTF-8: {error}"
            raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED", message) from error

    return parse


def _unary(
    call: Callable[[Any, Context], Awaitable[Any]], read: _Read, method: _Method
) -> Callable[[Any, Context], Any]:
    metrics, gate, name = method.metrics, method.gate, method.name

    async def handle(request: Any, context: Context) -> Any:
        began = perf_counter()
        # Unless told otherwise: whoever called has gone, or its time is over.
        code = "CANCELLED"
        interrupt = None
        try:
            interrupt = gate.enter(context, name)
            response = await call(read(request, interrupt), context)
            if interrupt is not None:
                interrupt.check()
            code = "OK"
            return response
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the edge: all becomes a status
            status = _status_of(error, method, interrupt)
            code = status.code.name
            await context.abort(status.code, status.message, status.trailer())
        finally:
            if interrupt is not None:
                gate.leave(interrupt)
            metrics.unary(code, perf_counter() - began)

    return handle


def _traced(call: Callable[[Any, Context], Any], method: _Method) -> Callable[[Any, Context], Any]:
    """The same call within a span; streams have none, as they last for hours."""
    tracing = method.tracing
    if not tracing.on:
        return call

    async def handle(request: Any, context: Context) -> Any:
        with tracing.call(method.full_name[1:], dict(context.invocation_metadata() or ())):
            return await call(request, context)

    return handle


def _streaming(
    call: Callable[[Any, Context], AsyncGenerator[Any, None]], read: _Read, method: _Method
) -> Callable[[Any, Context], AsyncGenerator[Any, None]]:
    metrics, gate, name = method.metrics, method.gate, method.name

    async def handle(request: Any, context: Context) -> AsyncGenerator[Any, None]:
        code = "CANCELLED"
        metrics.open_streams.inc()
        interrupt = None
        try:
            interrupt = gate.enter(context, name)
            async with aclosing(call(read(request, interrupt), context)) as responses:
                async for response in responses:
                    if interrupt is None:
                        yield response
                        continue
                    interrupt.check()
                    interrupt.sending = True
                    yield response
                    interrupt.sending = False
                    interrupt.check()
            code = "OK"
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the edge: all becomes a status
            status = _status_of(error, method, interrupt)
            code = status.code.name
            await context.abort(status.code, status.message, status.trailer())
        finally:
            if interrupt is not None:
                gate.leave(interrupt)
            metrics.open_streams.dec()
            metrics.stream(code)

    return handle


def _status_of(
    error: Exception | asyncio.CancelledError, method: _Method, interrupt: Interrupt | None
) -> ServiceError:
    if isinstance(error, asyncio.CancelledError):
        if interrupt is None:
            raise error
        return interrupt.reason_of(error)
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, ProviderError):
        error = from_provider_error(error)
    if not isinstance(error, ServiceError):
        incident = new_token()[:8]
        _log.error("call failed", method=method.full_name, incident=incident, exc_info=error)
        return ServiceError(
            grpc.StatusCode.INTERNAL,
            "INTERNAL",
            f"a fault of the server; its log has it under incident {incident}",
            metadata={"incident": incident},
        )
    return error
