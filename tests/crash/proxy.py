"""A wire between a process and a server that can be cut so that neither is told."""

import asyncio
from contextlib import suppress
from typing import Self

__all__ = ["Proxy"]


class Proxy:
    """Passes bytes on to a port of this machine, unless it is cut."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._is_whole = asyncio.Event()
        self._is_whole.set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._drop_all()

    def cut(self) -> None:
        """From now on nothing passes, and no connection ends."""
        self._is_whole.clear()

    async def mend(self) -> None:
        """End the connections that were cut; new ones are whole."""
        await self._drop_all()
        self._is_whole.set()

    async def _drop_all(self) -> None:
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        writers = [writer]
        try:
            with suppress(OSError):
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
                writers.append(up_writer)
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(reader, up_writer))
                    pumps.create_task(self._pump(up_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in writers:
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._is_whole.wait()
            writer.write(data)
            await writer.drain()
        # One side has hung up: so does the other.
        raise ConnectionError
