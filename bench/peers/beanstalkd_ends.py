"""beanstalkd: its client and its worker, `python -m bench.peers.beanstalkd_ends client|worker PORT LINK`.

The protocol is lines over TCP, so no package is needed. A result is a job of the tube `results`, put before
the job that it belongs to is deleted.
"""

import asyncio
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Self

from bench import payload
from bench.peers.ends import Counter, serve_client

BACKEND = "free"
CONNECTIONS = 8
"""Of the worker: each has one job in hand."""
RUN_TIME_S = 60


class Connection:
    """One connection; commands are sent at once and answered in their order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._asked: deque[asyncio.Future[tuple[list[bytes], bytes]]] = deque()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, command: bytes, expected: bytes) -> tuple[list[bytes], bytes]:
        """Send a command; its answer's words and body."""
        answer: asyncio.Future[tuple[list[bytes], bytes]] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._writer.write(command)
        words, body = await answer
        if words[0] != expected:
            raise RuntimeError(f"beanstalkd answered {words}")
        return words, body

    async def put(self, body: bytes) -> None:
        await self.ask(b"put 0 0 %d %d\r\n%s\r\n" % (RUN_TIME_S, len(body), body), b"INSERTED")

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        while line := await self._reader.readline():
            words = line.split()
            body = b""
            if words[0] == b"RESERVED":
                body = (await self._reader.readexactly(int(words[2]) + 2))[:-2]
            self._asked.popleft().set_result((words, body))


async def _work(connection: Connection, counter: Counter) -> None:
    await connection.ask(b"watch jobs\r\n", b"WATCHING")
    await connection.ask(b"ignore default\r\n", b"WATCHING")
    await connection.ask(b"use results\r\n", b"USING")
    while True:
        words, content = await connection.ask(b"reserve\r\n", b"RESERVED")
        counter.tally.arrived(BACKEND, [content], time.monotonic_ns())
        # Sent together, done in this order: no job is deleted whose result is not stored.
        await asyncio.gather(
            connection.put(payload.RESULT), connection.ask(b"delete %s\r\n" % words[1], b"DELETED")
        )
        counter.tally.finished(BACKEND, 1)


async def client(port: int, link_fd: int) -> None:
    connection = await Connection.open(port)
    await connection.ask(b"use jobs\r\n", b"USING")

    async def submit(_backend: str) -> int:
        await connection.put(payload.job(time.monotonic_ns()))
        return 1

    await serve_client(link_fd, submit)
    await connection.close()


async def worker(port: int, link_fd: int) -> None:
    counter = Counter(link_fd)
    connections = [await Connection.open(port) for _ in range(CONNECTIONS)]
    working = [asyncio.create_task(_work(connection, counter)) for connection in connections]
    await counter.serve()
    for task in working:
        task.cancel()
    for connection in connections:
        await connection.close()


if __name__ == "__main__":
    asyncio.run({"client": client, "worker": worker}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3])))
