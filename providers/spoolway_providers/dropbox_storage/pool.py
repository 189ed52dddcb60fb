"""Threads for blocking calls: so many and no more, and nobody waits for one that hangs.

The threads are daemons: one that hangs in a call keeps neither its caller nor the process's end waiting.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from spoolway_providers.dropbox_storage.faults import LostAnswer, NotDone

__all__ = ["Pool"]


class _Task:
    __slots__ = ("future", "is_given_up", "is_started", "loop", "work")

    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.is_started = False
        self.is_given_up = False


class Pool:
    """At most `size` threads, made when they are needed."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0

    async def run(self, work: Callable[[], Any], *, limit_s: float) -> Any:
        """What `work` returns or raises, from a thread.

        Raises:
            NotDone: no thread was free within `limit_s`.
            LostAnswer: it did not end within `limit_s`; the thread goes on with it.
        """
        task = _Task(work, asyncio.get_running_loop())
        self._hand_over(task)
        try:
            async with asyncio.timeout(limit_s):
                return await task.future
        except TimeoutError:
            if self._give_up(task):
                raise LostAnswer(f"Dropbox has not answered for {limit_s:g} s") from None
            raise NotDone(f"all {self._size} connections to Dropbox are busy") from None
        except asyncio.CancelledError:
            self._give_up(task)
            raise

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        with self._lock:
            for _ in range(self._threads):
                self._tasks.put(None)
            self._threads = 0
            self._busy = 0

    def _hand_over(self, task: _Task) -> None:
        with self._lock:
            self._busy += 1
            if self._busy > self._threads and self._threads < self._size:
                self._threads += 1
                name = f"{self._name}-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
            self._tasks.put(task)

    def _give_up(self, task: _Task) -> bool:
        """Leave a task; whether it had been started."""
        with self._lock:
            task.is_given_up = True
            return task.is_started

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            with self._lock:
                task.is_started = not task.is_given_up
            if task.is_started:
                self._do(task)
            with self._lock:
                self._busy = max(0, self._busy - 1)

    @staticmethod
    def _do(task: _Task) -> None:
        result, error = None, None
        try:
            result = task.work()
        except Exception as caught:  # noqa: BLE001 - whatever it is, it is the caller's, not this thread's
            error = caught
        try:
            task.loop.call_soon_threadsafe(_settle, task.future, result, error)
        except RuntimeError:
            # The loop was closed meanwhile: nobody is left to be told.
            return


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
