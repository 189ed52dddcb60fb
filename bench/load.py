"""A client's load, many calls in flight or one at a time. Needs no package: the peers' clients use it too."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from bench.commands import Answer
from bench.link import Link

__all__ = ["Call", "Load"]

Call = Callable[[str], Awaitable[int]]
"""Makes one call for a backend and returns how many jobs it carried."""


class Load:
    """What the parent can ask a client for."""

    def __init__(self, link_fd: int, calls: Mapping[str, Call]) -> None:
        self._link = Link(link_fd, self._on_done)
        self._done = 0
        self._on_change = asyncio.Event()
        self._calls = calls

    async def load(
        self, call: str, backend: str, seconds: float, in_flight: int, *, grants: bool = False
    ) -> Answer:
        """Keep `in_flight` calls in flight for so long, then wait for their answers.

        With `grants` the worker may complete one job for each that was acknowledged.
        """
        make_call = self._calls[call]
        started_ns = time.monotonic_ns()
        end_ns = started_ns + int(seconds * 1e9)
        jobs = 0

        async def lane() -> None:
            nonlocal jobs
            while time.monotonic_ns() < end_ns:
                carried = await make_call(backend)
                jobs += carried
                if grants:
                    self._link.tell(carried)

        await asyncio.gather(*(lane() for _ in range(in_flight)))
        return {"jobs": jobs, "started_ns": started_ns, "last_ns": time.monotonic_ns()}

    async def one_by_one(
        self, call: str, backend: str, calls: int, pause_s: float, *, waits: bool = True
    ) -> Answer:
        """Make calls one at a time, each once the job of the last one is done, and a pause has passed.

        Returns:
            How long each call took.
        """
        make_call = self._calls[call]
        took_ns: list[int] = []
        for _ in range(calls):
            done_before = self._done
            started_ns = time.monotonic_ns()
            await make_call(backend)
            took_ns.append(time.monotonic_ns() - started_ns)
            while waits and self._done == done_before:
                self._on_change.clear()
                await self._on_change.wait()
            await asyncio.sleep(pause_s)
        return {"took_ns": took_ns}

    def _on_done(self, jobs: int) -> None:
        self._done += jobs
        self._on_change.set()
