"""Calls to Dropbox from the event loop: in threads of their own, within limits, again where that helps."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from spoolway_providers.dropbox_storage.client import Client, FileInfo
from spoolway_providers.dropbox_storage.faults import (
    CallFailed,
    LostAnswer,
    NotDone,
    PathMissing,
    SessionSpent,
    TooManyRequests,
    TooManyWrites,
)
from spoolway_providers.dropbox_storage.pool import Pool
from spoolway_providers.dropbox_storage.timings import Timings
from spoolway_providers.errors import Unavailable

__all__ = ["CONNECTIONS", "Calls", "unavailable"]

T = TypeVar("T")

CONNECTIONS = 16
MAX_BACKOFF_S = 5.0
_LONGPOLL_SLACK_S = 100.0
"""Dropbox adds up to 90 s of jitter to a longpoll."""


class Calls:
    """One account's calls. `fence` is asked in the thread right before each write, and raises to stop it."""

    def __init__(self, client: Client, timings: Timings, monotonic: Callable[[], float]) -> None:
        self.client = client
        self.timings = timings
        self.monotonic = monotonic
        self.fence: Callable[[], None] = _no_fence
        self.counters: Counter[str] = Counter()
        """Calls by name, `lost_answers`, and each kind of limit that was met."""
        self.is_answering = True
        """Whether Dropbox has answered the last call."""
        self._threads = Pool("dropbox", CONNECTIONS)
        self._waiters = Pool("dropbox-longpoll", 2)
        self._silent_until = 0.0

    def close(self) -> None:
        """Let go of threads and connections."""
        self._threads.close()
        self._waiters.close()
        self.client.close()

    async def read(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A call that changes nothing: again until it is answered; Unavailable if it never is."""
        return await self._until_answered(self.once, function, *arguments)

    async def prepare(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A write that nobody sees, to an upload session: again until it is answered; Unavailable as above.

        Returns:
            None too where the session is found to be further by now: it was done, its answer was lost.
        """
        return await self._until_answered(self.write, function, *arguments)

    async def _until_answered(self, call: Callable[..., Any], *arguments: Any) -> Any:
        until = self.monotonic() + self.timings.patience_s
        attempt = 0
        is_doubted = False
        while True:
            try:
                return await call(*arguments)
            except SessionSpent as error:
                if not is_doubted:
                    raise unavailable(error) from error
                return None
            except (NotDone, LostAnswer) as error:
                is_doubted = is_doubted or isinstance(error, LostAnswer)
                wait_s = self.backoff_s(attempt, error)
                if self.monotonic() + wait_s >= until:
                    raise unavailable(error) from error
            attempt += 1
            await asyncio.sleep(wait_s)

    async def write(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A call that changes something: once, and only if `fence` lets it."""

        def fenced() -> Any:
            self.fence()
            return function(*arguments)

        return await self.once(fenced, name=function.__name__)

    async def once(self, function: Callable[..., Any], *arguments: Any, name: str = "") -> Any:
        """A call, once; waits while Dropbox wants silence, if that ends soon."""
        await self._be_silent()
        self.counters[name or function.__name__] += 1
        try:
            result = await self._threads.run(lambda: function(*arguments), limit_s=self.timings.call_limit_s)
        except (NotDone, LostAnswer) as error:
            self._note_failure(error)
            raise
        except CallFailed:
            self.is_answering = True
            raise
        self.is_answering = True
        return result

    def _note_failure(self, error: NotDone | LostAnswer) -> None:
        self.is_answering = isinstance(error, TooManyWrites)
        match error:
            case TooManyRequests():
                self.counters["too_many_requests"] += 1
                silence_s = error.retry_after_s * (1 + 0.2 * random.random())  # noqa: S311 - no secret
                self._silent_until = max(self._silent_until, self.monotonic() + silence_s)
            case TooManyWrites():
                self.counters["too_many_write_operations"] += 1
            case LostAnswer():
                self.counters["lost_answers"] += 1

    async def check(self, path: str) -> None:
        """Raise Unavailable if Dropbox did not answer the last call, and still does not."""
        if self.is_answering:
            return
        try:
            await self.once(self.client.metadata, path)
        except (NotDone, LostAnswer) as error:
            raise unavailable(error) from error

    async def longpoll(self, cursor: str) -> tuple[bool, float]:
        """Wait for a change after the cursor, in a thread of its own."""
        self.counters["longpoll"] += 1
        timeout_s = self.timings.longpoll_s
        answer: tuple[bool, float] = await self._waiters.run(
            lambda: self.client.longpoll(cursor, timeout_s), limit_s=timeout_s + _LONGPOLL_SLACK_S
        )
        return answer

    async def think(self, work: Callable[[], T]) -> T:
        """Do something long that is no call, off the event loop."""
        result: T = await self._threads.run(work, limit_s=self.timings.call_limit_s)
        return result

    async def download(self, path: str) -> tuple[FileInfo, bytes] | None:
        """A file, or None if there is none."""
        try:
            found: tuple[FileInfo, bytes] = await self.read(self.client.download, path)
        except PathMissing:
            return None
        return found

    def backoff_s(self, attempt: int, error: Exception | None = None) -> float:
        """How long to wait before the next try: longer each time, never the same for two."""
        longest = min(MAX_BACKOFF_S, self.timings.first_backoff_s * 2.0**attempt)
        wait_s = longest * (0.5 + random.random() / 2)  # noqa: S311 - jitter, no secret
        asked_s = error.retry_after_s if isinstance(error, NotDone) else 0.0
        if isinstance(error, TooManyWrites):
            # Here it is no rate that was passed: whoever writes will soon be done.
            asked_s = min(asked_s, wait_s)
        return max(wait_s, asked_s)

    async def _be_silent(self) -> None:
        silence_s = self._silent_until - self.monotonic()
        if silence_s > self.timings.patience_s:
            raise NotDone("Dropbox wants silence, for its rate limit was reached", silence_s)
        if silence_s > 0:
            await asyncio.sleep(silence_s)


def _no_fence() -> None:
    return


def unavailable(error: Exception) -> Unavailable:
    """What the caller of a provider is told of a call that surely did nothing."""
    wait_s = error.retry_after_s if isinstance(error, NotDone) else 0.0
    return Unavailable(str(error), timedelta(seconds=max(1.0, wait_s)))
