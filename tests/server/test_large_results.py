"""A result of 500 MB on two server processes: cut, resumed on the other, read back, never held as a whole."""

import asyncio
import contextlib
import hashlib
import logging
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from tests.server.lab import Caller
from tests.server.server_process import caller_of, server_process, write_config

_log = logging.getLogger(__name__)

MIB = 1 << 20
RESULT_BYTES = 500_000_000
GROWTH_MIB = 32
"""How much a server's memory may grow, at its highest."""
CUTS = 5
BLOCK = random.Random(1).randbytes(MIB)


def piece(offset: int) -> bytes:
    """Up to 1 MiB of the result from `offset`; no two pieces are equal."""
    number, start = divmod(offset, MIB)
    whole = number.to_bytes(8, "big") + BLOCK[8:]
    return whole[start : min(MIB, start + RESULT_BYTES - offset)]


def offsets(start: int, end: int) -> Iterator[int]:
    """Where pieces begin."""
    while start < end:
        yield start
        start += MIB - start % MIB


def whole_sha256() -> str:
    digest = hashlib.sha256()
    for offset in offsets(0, RESULT_BYTES):
        digest.update(piece(offset))
    return digest.hexdigest()


async def take(caller: Caller, spooler_id: str = "s-1") -> pb.Assignment:
    """A job in hand, accepted."""
    asked = pb.NextJobRequest(spooler_id=spooler_id, instance_id="i-1", backends=["sim"])
    taken = await caller.NextJob(asked)
    lease = pb.ExtendedLease(job=taken.assignment.job, lease_token=taken.assignment.lease_token)
    await caller.ExtendLeases(pb.ExtendLeasesRequest(session=taken.session, leases=[lease]))
    return taken.assignment


async def complete(caller: Caller, job: pb.Assignment, result: pb.Upload) -> job_pb2.Job:
    request = pb.CompleteJobRequest(job=job.job, lease_token=job.lease_token, upload=result)
    return (await caller.CompleteJob(request, timeout=60)).job


async def warm_up(caller: Caller, name: str) -> None:
    """Send a short result the same way: what only the first one costs is not the result's."""
    job = await caller.submit()
    taken = await take(caller, f"warm-{name}")
    start = pb.UploadResultStart(job=taken.job, lease_token=taken.lease_token)
    data = piece(0)
    parts = [pb.UploadResultRequest(start=start), pb.UploadResultRequest(chunk=data)]
    await caller.UploadResult(parts)
    await complete(caller, taken, pb.Upload(size_bytes=MIB, sha256=hashlib.sha256(data).hexdigest()))
    assert [len(chunk) async for chunk in read(caller, job.name, 0)] == [MIB]


async def upload(caller: Caller, job: pb.Assignment, offset: int, *, cut_at: int) -> None:
    """Upload from `offset`; from `cut_at` on the call breaks, with messages under way."""

    async def parts() -> AsyncIterator[pb.UploadResultRequest]:
        start = pb.UploadResultStart(job=job.job, lease_token=job.lease_token, offset=offset)
        yield pb.UploadResultRequest(start=start)
        for at in offsets(offset, RESULT_BYTES):
            if at >= cut_at:
                call.cancel()
            yield pb.UploadResultRequest(chunk=piece(at))

    call: Any = caller.UploadResult(parts())
    with contextlib.suppress(asyncio.CancelledError):
        await call


async def read(caller: Caller, name: str, offset: int) -> AsyncIterator[bytes]:
    async for part in caller.ReadResult(pb.ReadResultRequest(name=name, offset=offset)):
        yield part.chunk


async def test_result_of_500_mb_is_cut_and_resumed_and_never_held(memory_disk: Path) -> None:
    """An upload that breaks five times goes on at the other server; the result is equal, memory bounded."""
    config = write_config(memory_disk)
    cuts = sorted(random.Random(2).randrange(RESULT_BYTES) for _ in range(CUTS))
    async with server_process(config) as first, server_process(config) as second:
        async with caller_of(first) as one, caller_of(second) as other:
            await one.register()
            await warm_up(one, "one")
            await warm_up(other, "other")
            first.watch_memory()
            second.watch_memory()
            job = await one.submit()
            taken = await take(one)
            question = pb.GetUploadRequest(job=taken.job, lease_token=taken.lease_token)
            stored, legs = 0, 0
            for caller, cut_at in zip([one, other] * CUTS, [*cuts, RESULT_BYTES], strict=False):
                await upload(caller, taken, stored, cut_at=cut_at)
                before, stored = stored, (await caller.GetUpload(question)).size_bytes
                legs += stored > before
            named = pb.Upload(size_bytes=RESULT_BYTES, sha256=whole_sha256())
            done = await complete(other, taken, named)
            middle = RESULT_BYTES // 2 + 1
            digest, size = hashlib.sha256(), 0
            # Read at one server up to the middle of a piece, and on from there at the other.
            async for chunk in read(one, job.name, 0):
                digest.update(chunk[: middle - size])
                size += len(chunk)
                if size >= middle:
                    break
            async for chunk in read(other, job.name, middle):
                digest.update(chunk)

        assert legs > CUTS / 2
        assert stored == RESULT_BYTES
        assert done.state == job_pb2.JOB_STATE_DONE
        assert digest.hexdigest() == named.sha256
        _log.info("grew by %.1f and %.1f MiB", first.growth_mib, second.growth_mib)
        assert max(first.growth_mib, second.growth_mib) < GROWTH_MIB
