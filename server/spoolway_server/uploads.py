"""Large contents and results: staged piece by piece, checked, and read back piece by piece.

Nothing here holds more of a blob than one piece, except the content of a submit, which must be looked into.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

import grpc
import msgspec

from spoolway_providers.errors import Conflict, NotFound
from spoolway_providers.model import BlobRef
from spoolway_server.auth import Principal
from spoolway_server.errors import ServiceError

if TYPE_CHECKING:
    from spoolway_server.storage import Storage

__all__ = [
    "PIECE_BYTES",
    "UploadLimits",
    "content_upload_id",
    "read_pieces",
    "receive",
    "staged_size",
    "verify",
]

PIECE_BYTES = 1024 * 1024


class UploadLimits(msgspec.Struct, frozen=True):
    """How long the parts of a job may be, in bytes."""

    inline: int = 2 * 1024 * 1024
    """Within a message."""
    content: int = 32 * 1024 * 1024
    """Uploaded contents; they are held in memory while they are checked."""
    result: int = 1024 * 1024 * 1024
    """Uploaded results."""


def content_upload_id(caller: Principal, backend: str, upload: str) -> str:
    """The blob of a content's upload: nobody else's upload can be named."""
    return f"uploads/{backend}/{caller.name}/{upload}"


async def receive(
    storage: "Storage", blob_id: str, offset: int, pieces: AsyncIterator[bytes], *, limit: int
) -> int:
    """Stage what comes in and return the size so far; what is staged stays if the caller breaks off.

    Raises:
        ServiceError: OUT_OF_RANGE (UPLOAD_GAP), RESOURCE_EXHAUSTED (UPLOAD_TOO_LARGE), INVALID_ARGUMENT.
    """
    if offset < 0:
        raise _invalid("OFFSET_INVALID", "offset is a number from 0 up")
    size = await _stage(storage, blob_id, offset, b"")
    async for piece in pieces:
        if len(piece) > PIECE_BYTES:
            raise _invalid("CHUNK_TOO_LARGE", f"a chunk has at most {PIECE_BYTES} bytes")
        if offset + len(piece) > limit:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "UPLOAD_TOO_LARGE",
                f"an upload of this kind has at most {limit} bytes",
                metadata={"limit": limit},
            )
        size = await _stage(storage, blob_id, offset, piece)
        offset += len(piece)
    return size


async def staged_size(storage: "Storage", blob_id: str) -> int:
    """How much of an upload is stored; ServiceError NOT_FOUND if nothing is."""
    size = await _stage(storage, blob_id, 0, b"")
    if size == 0:
        raise ServiceError(
            grpc.StatusCode.NOT_FOUND,
            "UPLOAD_NOT_FOUND",
            "nothing of this upload is stored; begin it at offset 0",
        )
    return size


async def verify(storage: "Storage", ref: BlobRef) -> bool:
    """Check length and SHA-256 of a staged blob; False if it is not staged (any more).

    Raises:
        ServiceError: FAILED_PRECONDITION (UPLOAD_INCOMPLETE), DATA_LOSS (UPLOAD_CHECKSUM).
    """
    digest = hashlib.sha256()
    size = 0
    try:
        while piece := await storage.provider.read_staged(ref.id, size, PIECE_BYTES):
            await asyncio.to_thread(digest.update, piece)
            size += len(piece)
    except NotFound:
        return False
    if size != ref.size:
        raise ServiceError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "UPLOAD_INCOMPLETE",
            f"{size} bytes are stored, not {ref.size}; go on with the upload at {size}",
            metadata={"size": size},
        )
    if digest.hexdigest() != ref.sha256:
        raise ServiceError(
            grpc.StatusCode.DATA_LOSS,
            "UPLOAD_CHECKSUM",
            "what is stored has another SHA-256; upload it again from offset 0",
            metadata={"sha256": digest.hexdigest()},
        )
    return True


async def read_pieces(storage: "Storage", ref: BlobRef, offset: int) -> AsyncGenerator[bytes, None]:
    """A committed blob from `offset`, piece by piece; ServiceError DATA_LOSS if it is shorter than it was."""
    if not 0 <= offset <= ref.size:
        raise ServiceError(
            grpc.StatusCode.OUT_OF_RANGE,
            "OFFSET_INVALID",
            f"offset is a number from 0 to {ref.size}",
            metadata={"size": ref.size},
        )
    while offset < ref.size:
        piece = await storage.provider.read_blob(ref, offset, PIECE_BYTES)
        if not piece:
            raise ServiceError(
                grpc.StatusCode.DATA_LOSS,
                "RESULT_INCOMPLETE",
                "it is shorter than it was; ask the operator to check the storage",
            )
        yield piece
        offset += len(piece)


async def _stage(storage: "Storage", blob_id: str, offset: int, piece: bytes) -> int:
    try:
        return await storage.provider.stage(blob_id, offset, piece)
    except Conflict as error:
        raise ServiceError(
            grpc.StatusCode.OUT_OF_RANGE,
            "UPLOAD_GAP",
            f"{error.current} bytes are stored; go on there",
            metadata={"size": error.current},
        ) from error


def _invalid(reason: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message)
