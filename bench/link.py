"""A socket between client and worker, on which each tells the other how many jobs it is done with."""

import asyncio
import socket
from collections.abc import Callable

__all__ = ["Link"]

GATHER_S = 0.004
"""What is told within this time goes in one write: the link itself must cost next to nothing."""


class Link:
    """One end. A byte is a job."""

    def __init__(self, fd: int, on_told: Callable[[int], None]) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._on_told = on_told
        self._untold = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)

    def tell(self, jobs: int, *, now: bool = False) -> None:
        """So many more; within GATHER_S, or at once."""
        if not self._untold and not now:
            self._loop.call_later(GATHER_S, self._flush)
        self._untold += jobs
        if now:
            self._flush()

    def _flush(self) -> None:
        if self._untold:
            self._untold -= self._socket.send(bytes(self._untold))

    def _read(self) -> None:
        told = len(self._socket.recv(1 << 16))
        if not told:
            self._loop.remove_reader(self._socket.fileno())
            return
        self._on_told(told)
