"""The floor: a bare grpc.aio server without Spoolway. A process of its own: `python -m bench.floor FILE`.

`Echo` answers what it gets. `Relay` appends it to a file, answers once it is on the disk (one fdatasync for
all that came in during the last one), and hands it out on the one stream `Work`, message by message, to a
worker that acknowledges each. No rule, no state, no parsing.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from bench.commands import Answer, obey

__all__ = ["ECHO", "RELAY", "WORK", "Floor"]

_SERVICE = "bench.Floor"
ECHO = f"/{_SERVICE}/Echo"
RELAY = f"/{_SERVICE}/Relay"
WORK = f"/{_SERVICE}/Work"


class Floor:
    """Handlers and counters."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._acked = 0
        self._acked_ns = 0
        self._on_ack = asyncio.Event()

    async def echo(self, message: bytes, _context: Any) -> bytes:
        return message

    async def relay(self, message: bytes, _context: Any) -> bytes:
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, stored))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await stored
        return b""

    async def work(self, acks: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        counting = asyncio.create_task(self._count(acks))
        try:
            while True:
                yield await self._outbox.get()
        finally:
            counting.cancel()

    async def reset(self) -> Answer:
        self._acked = 0
        return {}

    async def wait(self, count: int) -> Answer:
        """Return once so many messages have been acknowledged since `reset`."""
        while self._acked < count:
            self._on_ack.clear()
            await self._on_ack.wait()
        return {"finished": self._acked, "last_ns": self._acked_ns}

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await asyncio.to_thread(self._append, b"".join(message for message, _ in batch))
            for message, stored in batch:
                stored.set_result(None)
                self._outbox.put_nowait(message)

    def _append(self, data: bytes) -> None:
        os.write(self._fd, data)
        os.fdatasync(self._fd)

    async def _count(self, acks: AsyncIterator[bytes]) -> None:
        async for _ in acks:
            self._acked += 1
            self._acked_ns = time.monotonic_ns()
            self._on_ack.set()


async def main(path: str) -> None:
    floor = Floor(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(floor.echo),
        "Relay": grpc.unary_unary_rpc_method_handler(floor.relay),
        "Work": grpc.stream_stream_rpc_method_handler(floor.work),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await obey({"reset": floor.reset, "wait": floor.wait}, address=f"127.0.0.1:{port}")
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
