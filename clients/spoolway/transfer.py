"""Contents and results too long for a message: sent and fetched in pieces, resumed where they broke off."""

import asyncio
import hashlib
import io
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from spoolway.channel import Connection
from spoolway.errors import DataLossError, NotFoundError, OutOfRangeError, SpoolwayError, is_transient
from spoolway.timing import Backoff, Timing
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["Transfer"]

PIECE_BYTES = 1024 * 1024
"""The longest piece that the contract allows."""


class Transfer:
    """Uploads and downloads over one connection.

    A transfer that breaks goes on where it stopped, on whichever server, and is given up after `tries`
    failures in a row that brought it no further.
    """

    def __init__(self, connection: Connection, *, timing: Timing, tries: int | None = 5) -> None:
        """Transfer nothing yet; `tries` None: never give up."""
        self._connection = connection
        self._timing = timing
        self._tries = tries

    async def send_content(self, backend: str, content: bytes) -> pb.Upload:
        """Upload a job's content; the answer is for the submit."""
        # Chosen here, not by the server: a first stream that breaks is found again.
        upload = uuid.uuid4().hex

        def start(offset: int) -> pb.UploadContentRequest:
            begin = pb.UploadContentStart(backend=backend, upload=upload, offset=offset)
            return pb.UploadContentRequest(start=begin)

        async def send(offset: int) -> int:
            pieces = _pieces(
                content, offset, start(offset), lambda chunk: pb.UploadContentRequest(chunk=chunk)
            )
            response = await self._connection.send(self._connection.jobs.UploadContent, pieces)
            return response.size_bytes

        await self._send_all(send, pb.GetUploadRequest(upload=upload, backend=backend), len(content))
        return pb.Upload(upload=upload, size_bytes=len(content), sha256=await _sha256(content))

    async def send_result(self, job: str, lease_token: str, result: bytes) -> pb.Upload:
        """Upload a job's result; the answer is for its completion."""

        def start(offset: int) -> pb.UploadResultRequest:
            begin = pb.UploadResultStart(job=job, lease_token=lease_token, offset=offset)
            return pb.UploadResultRequest(start=begin)

        async def send(offset: int) -> int:
            pieces = _pieces(result, offset, start(offset), lambda chunk: pb.UploadResultRequest(chunk=chunk))
            response = await self._connection.send(self._connection.jobs.UploadResult, pieces)
            return response.size_bytes

        await self._send_all(send, pb.GetUploadRequest(job=job, lease_token=lease_token), len(result))
        return pb.Upload(size_bytes=len(result), sha256=await _sha256(result))

    async def fetch_content(self, job: str, lease_token: str, size: int) -> bytes:
        """Download the content of a job in hand, `size` bytes."""

        def open_at(offset: int) -> Any:
            request = pb.ReadContentRequest(job=job, lease_token=lease_token, offset=offset)
            return self._connection.open(self._connection.jobs.ReadContent, request)

        return await self._fetch(open_at, size)

    async def fetch_result(self, name: str, size: int, sha256: str) -> bytes:
        """Download a result of `size` bytes; DataLossError if it is another than `sha256`."""

        def open_at(offset: int) -> Any:
            request = pb.ReadResultRequest(name=name, offset=offset)
            return self._connection.open(self._connection.jobs.ReadResult, request)

        result = await self._fetch(open_at, size)
        if await _sha256(result) != sha256:
            raise DataLossError(f"the result of {name} arrived damaged; get it again")
        return result

    async def _send_all(
        self, send: Callable[[int], Awaitable[int]], question: pb.GetUploadRequest, size: int
    ) -> None:
        stored = 0
        patience = _Patience(self._timing, self._tries)
        while stored < size:
            try:
                stored = await send(stored)
            except SpoolwayError as error:
                await patience.after(error, stored)
                stored = await self._stored(question, stored)

    async def _stored(self, question: pb.GetUploadRequest, guess: int) -> int:
        try:
            response = await self._connection.call(
                self._connection.jobs.GetUpload, question, timeout_s=self._timing.unary_timeout_s
            )
        except NotFoundError:
            return 0
        except SpoolwayError as error:
            if not is_transient(error):
                raise
            return guess
        return response.size_bytes

    async def _fetch(self, open_at: Callable[[int], Any], size: int) -> bytes:
        # What it holds is handed out without a copy: a long result is in memory once.
        content = io.BytesIO()
        patience = _Patience(self._timing, self._tries)
        while content.tell() < size:
            call = open_at(content.tell())
            try:
                while (piece := await self._connection.read(call)) is not None:
                    content.write(piece.chunk)
                if content.tell() < size:
                    raise DataLossError(f"{content.tell():,} of {size:,} bytes arrived; get it again")
            except SpoolwayError as error:
                await patience.after(error, content.tell())
            finally:
                call.cancel()
        return content.getvalue()


class _Patience:
    """Decides whether a transfer that failed is tried again."""

    def __init__(self, timing: Timing, tries: int | None) -> None:
        self._backoff = Backoff(timing.reconnect_first_s, timing.reconnect_longest_s)
        self._tries = tries
        self._failures = 0
        self._reached = 0

    async def after(self, error: SpoolwayError, reached: int) -> None:
        """Wait before the next try, or raise the error; `reached` tells how far the transfer is."""
        # OUT_OF_RANGE: pieces that another try had sent are missing; the server is asked where to go on.
        if not is_transient(error) and not isinstance(error, OutOfRangeError):
            raise error
        if reached > self._reached:
            self._reached, self._failures = reached, 0
            self._backoff.reset()
        self._failures += 1
        if self._tries is not None and self._failures >= self._tries:
            raise error
        await asyncio.sleep(self._backoff.next_s())


async def _sha256(content: bytes) -> str:
    # In a thread: a long result would keep beats from being sent.
    return await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())


async def _pieces(
    content: bytes, offset: int, start: Any, wrap: Callable[[bytes], Any]
) -> AsyncIterator[Any]:
    yield start
    view = memoryview(content)
    for begin in range(offset, len(content), PIECE_BYTES):
        yield wrap(bytes(view[begin : begin + PIECE_BYTES]))
