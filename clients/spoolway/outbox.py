"""What waits to be written on the stream."""

import asyncio
from collections import deque

from spoolway.v1 import job_service_pb2 as pb

__all__ = ["Outbox"]

_MAX_UPDATES = 1_000
_MAX_BYTES = 3 * 1024 * 1024


class Outbox:
    """Messages on their way to the one writer of the stream.

    Reports that come in while a message is being written go out together. Control messages overtake reports.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._control: deque[pb.StreamNextJobsRequest] = deque()
        self._updates: deque[pb.LeaseUpdate] = deque()
        self._ready = asyncio.Event()
        self.is_closed = False
        """Whether our side of the stream closes once all is written."""

    def add(self, update: pb.LeaseUpdate) -> None:
        """Send a report about a job."""
        self._updates.append(update)
        self._ready.set()

    def add_control(self, message: pb.StreamNextJobsRequest) -> None:
        """Send a message that overtakes reports."""
        self._control.append(message)
        self._ready.set()

    def close(self) -> None:
        """Take no more; close our side once all is written."""
        self.is_closed = True
        self._ready.set()

    def reset(self) -> None:
        """Begin anew, for a new stream."""
        self._control.clear()
        self._updates.clear()
        self.is_closed = False

    async def take(self) -> pb.StreamNextJobsRequest | None:
        """The next message to write; None once closed and empty."""
        while True:
            if self._control:
                return self._control.popleft()
            if self._updates:
                return self._batch()
            if self.is_closed:
                return None
            self._ready.clear()
            await self._ready.wait()

    def _batch(self) -> pb.StreamNextJobsRequest:
        message = pb.StreamNextJobsRequest()
        batch = message.updates.updates
        size = 0
        while self._updates and len(batch) < _MAX_UPDATES:
            size += self._updates[0].ByteSize()
            if batch and size > _MAX_BYTES:
                break
            batch.append(self._updates.popleft())
        return message
