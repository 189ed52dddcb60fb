"""What the blocking twins share: one event loop in a thread, and what every client has.

All of a process's blocking clients share the loop: gRPC's asyncio part is noisy where several loops run.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from spoolway.caller import Caller

__all__ = ["SyncCaller", "thread"]

_T = TypeVar("_T")


class _LoopThread:
    """An event loop in a daemon thread, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, work: Coroutine[Any, Any, _T]) -> "Future[_T]":
        return asyncio.run_coroutine_threadsafe(work, self._started())

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C in the waiting thread: stop the work too.
            future.cancel()
            raise

    def iterate(self, source: AsyncIterator[_T]) -> Iterator[_T]:
        end = object()

        async def step() -> Any:
            return await anext(source, end)

        try:
            while (item := self.run(step())) is not end:
                yield item
        finally:
            if isinstance(source, AsyncGenerator):
                self.run(_close(source))

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_exception_handler(_ignore_poller_noise)
                threading.Thread(target=self._loop.run_forever, name="spoolway-client", daemon=True).start()
            return self._loop


async def _close(source: AsyncGenerator[Any, None]) -> None:
    await source.aclose()


def _ignore_poller_noise(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pass over what gRPC's poller raises where several loops run (its issue 25364); it does no harm."""
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


thread = _LoopThread()
"""The one of this process."""


class SyncCaller:
    """What every blocking client has. Any number of threads may use one."""

    def __init__(self, caller: Caller) -> None:
        """Block for `caller`."""
        self._caller = caller

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._caller.address

    @property
    def user(self) -> str:
        """Who submits."""
        return self._caller.user

    def __enter__(self) -> Self:
        """Use the client within `with`."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        thread.run(self._caller.close())
