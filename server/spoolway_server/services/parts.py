"""Messages in parts: uploads, a start and then chunks; and many jobs, as many as fit."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import TypeVar

import grpc

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway_server.errors import ServiceError

__all__ = ["as_fits", "chunks", "first_part"]

MESSAGE_BYTES = 3 << 20
"""Of jobs in one message; gRPC's default limit is 4 MiB."""

Part = TypeVar("Part", pb.UploadContentRequest, pb.UploadResultRequest)


def as_fits(jobs: Iterable[job_pb2.Job]) -> Iterator[list[job_pb2.Job]]:
    """The jobs in lists that fit into a message each, in their order; at least one list."""
    part: list[job_pb2.Job] = []
    size = 0
    for job in jobs:
        length = job.ByteSize() + 8
        if part and size + length > MESSAGE_BYTES:
            yield part
            part, size = [], 0
        part.append(job)
        size += length
    yield part


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
