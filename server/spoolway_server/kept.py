"""Results that came too late to count: staged by job and token, swept a day after they came."""

from collections.abc import AsyncGenerator

import grpc
import msgspec

from spoolway_providers.errors import NotFound
from spoolway_providers.model import Attempt, Job, Outcome, result_blob_id
from spoolway_server.errors import ServiceError
from spoolway_server.storage import Storage
from spoolway_server.uploads import PIECE_BYTES

__all__ = ["KeptResult", "kept_results", "read_kept"]

LOOKED_AT = 10
"""The newest attempts that are asked about: each is a call of the storage."""


class KeptResult(msgspec.Struct, frozen=True):
    """A result, and the attempt that delivered it."""

    attempt: Attempt
    size: int


async def kept_results(storage: Storage, job: Job) -> list[KeptResult]:
    """What the newest attempts of a job delivered too late, oldest first."""
    found = []
    for attempt in [a for a in job.attempts if _may_be_late(a)][-LOOKED_AT:]:
        size = await storage.provider.stage(result_blob_id(job.key, attempt.token), 0, b"")
        if size:
            found.append(KeptResult(attempt, size))
    return found


async def read_kept(storage: Storage, job: Job, number: int, offset: int) -> AsyncGenerator[bytes, None]:
    """The late result of the attempt with this number, from `offset`, piece by piece."""
    attempt = next((a for a in job.attempts if a.number == number and _may_be_late(a)), None)
    if attempt is None:
        raise _not_kept(number)
    blob_id = result_blob_id(job.key, attempt.token)
    size = await storage.provider.stage(blob_id, 0, b"")
    if not size:
        raise _not_kept(number)
    if not 0 <= offset <= size:
        raise ServiceError(
            grpc.StatusCode.OUT_OF_RANGE,
            "OFFSET_INVALID",
            f"offset is a number from 0 to {size}",
            metadata={"size": size},
        )
    while offset < size:
        try:
            piece = await storage.provider.read_staged(blob_id, offset, PIECE_BYTES)
        except NotFound:
            raise _not_kept(number) from None
        if not piece:
            return
        yield piece
        offset += len(piece)


def _may_be_late(attempt: Attempt) -> bool:
    """Whether its result, if there is one, does not count; RetryJob voids the tokens that name them."""
    return bool(attempt.token) and attempt.outcome not in {Outcome.OPEN, Outcome.DONE}


def _not_kept(number: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        "RESULT_NOT_KEPT",
        f"no late result of attempt {number} is kept; ExplainJob tells which there are",
        field="attempt",
    )
