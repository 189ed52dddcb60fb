"""A thread that serves calls in batches: what queued up while the last batch was under way is the next.

The event loop is woken once a batch, and never waits: whatever the thread does, a call ends in time.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from spoolway_providers.errors import ProviderError, Unavailable, Uncertain

__all__ = ["Call", "Outcome", "Worker"]

Outcome = tuple["Call", Any]
"""A call and what came of it: a result, or an exception to raise."""

_MAX_BATCH = 512
"""Calls; bounds how long the first of a batch waits for the last."""


class Call:
    """One call under way."""

    __slots__ = ("argument", "asked_at", "future", "is_given_up", "is_started", "operation")

    def __init__(
        self, operation: Callable[..., Any], argument: Any, future: asyncio.Future[Any], asked_at: float
    ) -> None:
        self.operation = operation
        self.argument = argument
        self.future = future
        self.asked_at = asked_at
        self.is_started = False
        self.is_given_up = False


class Worker:
    """Runs `serve(calls)` in a thread of its own, one batch after the other.

    `serve` returns an outcome for each call, and news for `on_news`, which runs in the event loop once
    the calls have their outcomes. `finish` is the last that the thread does.
    """

    def __init__(
        self,
        name: str,
        serve: Callable[[Sequence[Call]], tuple[list[Outcome], Any]],
        *,
        finish: Callable[[], None],
        on_news: Callable[[Any], None],
        time_limit: timedelta,
        only_reads: bool,
    ) -> None:
        self._serve = serve
        self._finish = finish
        self._on_news = on_news
        self._time_limit_s = time_limit.total_seconds()
        self._only_reads = only_reads
        self._queue: SimpleQueue[list[Call] | None] = SimpleQueue()
        self._asked: list[Call] = []
        self._loop = asyncio.get_running_loop()
        self._pending: dict[Call, None] = {}
        self._handover = threading.Lock()
        self._watchdog: asyncio.TimerHandle | None = None
        self._is_stuck = False
        self._is_closed = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, operation: Callable[..., Any], argument: Any) -> asyncio.Future[Any]:
        """Ask for `operation`; what it takes is between the caller and `serve`.

        Raises:
            Unavailable: closed, or the thread is stuck in an earlier call.
        """
        if self._is_closed:
            raise Unavailable("the storage is closed")
        if self._is_stuck:
            raise self._too_late(maybe_done=False)
        call = Call(operation, argument, self._loop.create_future(), monotonic())
        self._pending[call] = None
        if not self._asked:
            # At the end of this turn of the loop: what is asked for within it goes into one batch.
            self._loop.call_soon(self._hand_over)
        self._asked.append(call)
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._time_limit_s, self._give_up)
        return call.future

    def _hand_over(self) -> None:
        if self._asked:
            self._queue.put(self._asked)
            self._asked = []

    async def close(self) -> None:
        """Serve what was asked for, then end the thread; one that is stuck is left behind."""
        if not self._is_closed:
            self._is_closed = True
            self._hand_over()
            self._queue.put(None)
        await asyncio.wait({self._ended}, timeout=self._time_limit_s)
        if self._ended.done():
            self._thread.join()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    # In the thread

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._tell(self._deliver, *self._serve_safely(batch))
        finally:
            self._finish()
            self._tell(self._end)

    def _next_batch(self) -> list[Call] | None:
        """Wait for a call and take all that came with it, less those that were given up; None: the end."""
        asked = self._queue.get()
        calls: list[Call] = []
        while asked is not None:
            calls += asked
            if len(calls) >= _MAX_BATCH:
                break
            try:
                asked = self._queue.get_nowait()
            except Empty:
                break
        else:
            if not calls:
                return None
            self._queue.put(None)
        with self._handover:
            for call in calls:
                call.is_started = True
        return [call for call in calls if not call.is_given_up]

    def _serve_safely(self, batch: list[Call]) -> tuple[list[Outcome], Any]:
        try:
            return self._serve(batch)
        except Exception as error:  # noqa: BLE001 - a mistake in one batch must not end the thread
            return [(call, error) for call in batch], None

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop was closed before the storage was: there is nobody left to tell.
            self._queue.put(None)

    # In the event loop

    def _deliver(self, outcomes: list[Outcome], news: Any) -> None:
        self._is_stuck = False
        for call, result in outcomes:
            self._pending.pop(call, None)
            if call.future.done():
                continue
            if isinstance(result, BaseException):
                call.future.set_exception(result)
            else:
                call.future.set_result(result)
        if news is not None:
            self._on_news(news)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _give_up(self) -> None:
        """End the calls that have waited too long, and look again when the next one will have."""
        self._watchdog = None
        now = monotonic()
        for call in list(self._pending):
            wait_s = call.asked_at + self._time_limit_s - now
            if wait_s > 0:
                self._watchdog = self._loop.call_later(wait_s, self._give_up)
                break
            self._is_stuck = True
            with self._handover:
                call.is_given_up = True
                maybe_done = call.is_started
            del self._pending[call]
            if not call.future.done():
                call.future.set_exception(self._too_late(maybe_done=maybe_done))

    def _too_late(self, *, maybe_done: bool) -> ProviderError:
        message = f"the disk has not answered for {self._time_limit_s:g} s"
        if maybe_done and not self._only_reads:
            return Uncertain(message)
        return Unavailable(message)
