"""The messages of an upload: a start, then chunks."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

import grpc

from spoolway.v1 import job_service_pb2 as pb
from spoolway_server.errors import ServiceError

__all__ = ["chunks", "first_part"]

Part = TypeVar("Part", pb.UploadContentRequest, pb.UploadResultRequest)


async def first_part(parts: AsyncIterator[Part]) -> Part:
    """The first message, which must be start."""
    part = await anext(parts, None)
    if part is None or part.WhichOneof("part") != "start":
        raise _invalid("UPLOAD_START_MISSING", "the first message of an upload is start")
    return part


async def chunks(parts: AsyncIterator[Part]) -> AsyncGenerator[bytes, None]:
    """The bytes of the messages that follow."""
    async for part in parts:
        if part.WhichOneof("part") != "chunk":
            raise _invalid("UPLOAD_START_REPEATED", "after start an upload has chunks only")
        if part.chunk:
            yield part.chunk


def _invalid(reason: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message)
