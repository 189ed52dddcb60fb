"""Turns exceptions into statuses with details, for every call of our services alike."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import structlog
from google.protobuf.message import DecodeError

from spoolway_providers.errors import ProviderError
from spoolway_providers.model import new_token
from spoolway_server.errors import ServiceError, from_provider_error
from spoolway_server.metrics import MethodMetrics, Metrics
from spoolway_server.tracing import Tracing

if TYPE_CHECKING:
    # Generic in the stubs only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Context = grpc.aio.ServicerContext
    Handler = grpc.RpcMethodHandler

__all__ = ["Context", "add_guarded"]

Servicer = TypeVar("Servicer")

_log = structlog.get_logger(__name__)


def add_guarded(
    add_to_server: Callable[[Servicer, grpc.aio.Server], None],
    servicer: Servicer,
    server: grpc.aio.Server,
    metrics: Metrics,
) -> None:
    """Add a service, each of its calls guarded and counted: an exception becomes the status it stands for.

    A fault of ours is INTERNAL and logged. Wrapped once, here, as an interceptor would wrap at each call.

    Args:
        add_to_server: the generated `add_...Servicer_to_server`.
        servicer: what it adds.
        server: where.
        metrics: what counts the calls.
    """
    methods = _Methods()
    add_to_server(servicer, cast("grpc.aio.Server", methods))
    for service, handlers in methods.by_service.items():
        guarded = {
            name: _guard(handler, f"/{service}/{name}", metrics.method(name), metrics.tracing)
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


def _guard(handler: Any, method: str, metrics: MethodMetrics, tracing: Tracing) -> Handler:
    parse = _parser(handler.request_deserializer)
    # Requests are parsed within the guarded call, else bytes that are no message would be gRPC's
    # UNKNOWN and a traceback in the log.
    wire = {"request_deserializer": None, "response_serializer": handler.response_serializer}
    if handler.request_streaming:
        parse = partial(_Parsed, parse)
    if handler.request_streaming and handler.response_streaming:
        call = _streaming(handler.stream_stream, parse, method, metrics)
        return grpc.stream_stream_rpc_method_handler(call, **wire)
    if handler.response_streaming:
        call = _streaming(handler.unary_stream, parse, method, metrics)
        return grpc.unary_stream_rpc_method_handler(call, **wire)
    if handler.request_streaming:
        call = _traced(_unary(handler.stream_unary, parse, method, metrics), method, tracing)
        return grpc.stream_unary_rpc_method_handler(call, **wire)
    call = _traced(_unary(handler.unary_unary, parse, method, metrics), method, tracing)
    return grpc.unary_unary_rpc_method_handler(call, **wire)


class _Parsed:
    """A stream of requests, each parsed when it is read."""

    def __init__(self, parse: Callable[[bytes], Any], requests: AsyncIterable[bytes]) -> None:
        self._parse = parse
        self._requests = requests
        self._iterator: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> "_Parsed":
        return self

    async def __anext__(self) -> Any:
        if self._iterator is None:
            # Not earlier: gRPC's iterator complains if it is made and never used.
            self._iterator = aiter(self._requests)
        return self._parse(await anext(self._iterator))


def _parser(deserialize: Callable[[bytes], Any]) -> Callable[[Any], Any]:
    def parse(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except DecodeError as error:
            message = f"the request is no message of this call, or has text that is not UTF-8: {error}"
            raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED", message) from error

    return parse


def _unary(
    call: Callable[[Any, Context], Awaitable[Any]],
    parse: Callable[[Any], Any],
    method: str,
    metrics: MethodMetrics,
) -> Callable[[Any, Context], Any]:
    async def handle(request: Any, context: Context) -> Any:
        began = perf_counter()
        # Unless told otherwise: whoever called has gone, or its time is over.
        code = "CANCELLED"
        try:
            response = await call(parse(request), context)
            code = "OK"
            return response
        except Exception as error:  # noqa: BLE001  # the edge of the call: everything becomes a status
            status = _status_of(error, method)
            code = status.code.name
            await context.abort(status.code, status.message, status.trailer())
        finally:
            metrics.unary(code, perf_counter() - began)

    return handle


def _traced(
    call: Callable[[Any, Context], Any], method: str, tracing: Tracing
) -> Callable[[Any, Context], Any]:
    """The same call within a span; streams have none, as they last for hours."""
    if not tracing.on:
        return call

    async def handle(request: Any, context: Context) -> Any:
        with tracing.call(method[1:], dict(context.invocation_metadata() or ())):
            return await call(request, context)

    return handle


def _streaming(
    call: Callable[[Any, Context], AsyncGenerator[Any, None]],
    parse: Callable[[Any], Any],
    method: str,
    metrics: MethodMetrics,
) -> Callable[[Any, Context], AsyncGenerator[Any, None]]:
    async def handle(request: Any, context: Context) -> AsyncGenerator[Any, None]:
        code = "CANCELLED"
        metrics.open_streams.inc()
        try:
            async with aclosing(call(parse(request), context)) as responses:
                async for response in responses:
                    yield response
            code = "OK"
        except Exception as error:  # noqa: BLE001  # the edge of the call: everything becomes a status
            status = _status_of(error, method)
            code = status.code.name
            await context.abort(status.code, status.message, status.trailer())
        finally:
            metrics.open_streams.dec()
            metrics.stream(code)

    return handle


def _status_of(error: Exception, method: str) -> ServiceError:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, ProviderError):
        error = from_provider_error(error)
    if not isinstance(error, ServiceError):
        incident = new_token()[:8]
        _log.error("call failed", method=method, incident=incident, exc_info=error)
        return ServiceError(
            grpc.StatusCode.INTERNAL,
            "INTERNAL",
            f"a fault of the server; its log has it under incident {incident}",
            metadata={"incident": incident},
        )
    return error
