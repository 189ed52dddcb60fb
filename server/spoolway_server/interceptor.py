"""Turns exceptions into statuses with details, for every call alike."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from spoolway_providers.errors import ProviderError
from spoolway_providers.model import new_token
from spoolway_server.errors import ServiceError, from_provider_error

if TYPE_CHECKING:
    # Generic in the stubs only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Context = grpc.aio.ServicerContext
    Handler = grpc.RpcMethodHandler

__all__ = ["ErrorInterceptor"]

_log = structlog.get_logger(__name__)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Aborts a call with the status that its exception stands for; a fault of ours is INTERNAL and logged."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the method's handler; an unknown method has none."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        method = handler_call_details.method
        wire = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(_streaming(handler.stream_stream, method), **wire)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(_streaming(handler.unary_stream, method), **wire)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(_unary(handler.stream_unary, method), **wire)
        return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary, method), **wire)


def _unary(call: Callable[[Any, Context], Awaitable[Any]], method: str) -> Callable[[Any, Context], Any]:
    async def handle(request: Any, context: Context) -> Any:
        try:
            return await call(request, context)
        except Exception as error:  # noqa: BLE001  # the edge of the call: everything becomes a status
            await _abort(context, error, method)

    return handle


def _streaming(
    call: Callable[[Any, Context], AsyncGenerator[Any, None]], method: str
) -> Callable[[Any, Context], AsyncGenerator[Any, None]]:
    async def handle(request: Any, context: Context) -> AsyncGenerator[Any, None]:
        try:
            async with aclosing(call(request, context)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:  # noqa: BLE001  # the edge of the call: everything becomes a status
            await _abort(context, error, method)

    return handle


async def _abort(context: Context, error: Exception, method: str) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, ProviderError):
        error = from_provider_error(error)
    if not isinstance(error, ServiceError):
        incident = new_token()[:8]
        _log.error("call failed", method=method, incident=incident, exc_info=error)
        error = ServiceError(
            grpc.StatusCode.INTERNAL,
            "INTERNAL",
            f"a fault of the server; its log has it under incident {incident}",
            metadata={"incident": incident},
        )
    await context.abort(error.code, error.message, error.trailer())
