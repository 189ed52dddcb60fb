"""What a worker counts. No package is needed: the peers' workers count with it too."""

import asyncio
import time
from collections.abc import Callable, Sequence

from bench import payload
from bench.commands import Answer

__all__ = ["Tally"]


class Tally:
    """What the parent wants to know of one backend: how many jobs are finished, and how long they travelled.

    What streams of other backends still do, such as to fill up after a load, is not counted.
    """

    def __init__(self) -> None:
        self.on_finished: Callable[[int], None] | None = None
        self._backend = ""
        self._finished = 0
        self._last_ns = 0
        self._changed = asyncio.Event()
        self._arrivals_ns: list[int] = []
        self._keeps_arrivals = False

    def arrived(self, backend: str, contents: Sequence[bytes], now_ns: int) -> None:
        if self._keeps_arrivals and backend == self._backend:
            self._arrivals_ns += [now_ns - payload.sent_ns(content) for content in contents]

    def travelled(self, backend: str, took_ns: int) -> None:
        """A job has arrived in another process, after so long."""
        if self._keeps_arrivals and backend == self._backend:
            self._arrivals_ns.append(took_ns)

    def finished(self, backend: str, jobs: int) -> None:
        if backend != self._backend:
            return
        self._finished += jobs
        self._last_ns = time.monotonic_ns()
        self._changed.set()
        if self.on_finished is not None:
            self.on_finished(jobs)

    def restart(self, backend: str, *, keep_arrivals: bool) -> None:
        self._backend = backend
        self._finished = 0
        self._arrivals_ns.clear()
        self._keeps_arrivals = keep_arrivals

    async def wait(self, count: int) -> Answer:
        """Return once `count` jobs are finished since the restart."""
        while self._finished < count:
            self._changed.clear()
            await self._changed.wait()
        return {"finished": self._finished, "last_ns": self._last_ns, "arrivals_ns": self._arrivals_ns}
