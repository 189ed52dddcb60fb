"""What has happened: commits in their turn, and hints for who waits."""

import asyncio
from datetime import datetime, timedelta
from itertools import takewhile

from spoolway_providers.errors import CursorTooOld
from spoolway_providers.interface import Hints
from spoolway_providers.model import JobKey

__all__ = ["Feed"]


class Feed:
    """Counts commits of one time in office; cursors of another one are refused."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._counter = 0
        self._swept = 0
        self._changed: dict[JobKey, int] = {}
        """In the order of their last change."""
        self._tombstones: dict[JobKey, tuple[int, datetime]] = {}
        self._woken = asyncio.Event()
        self._hinted: set[str] = set()

    # Noting

    def note(self, key: JobKey) -> None:
        """A job has changed."""
        self._counter += 1
        self._changed.pop(key, None)
        self._changed[key] = self._counter
        self._tombstones.pop(key, None)
        self._woken.set()

    def note_deleted(self, key: JobKey) -> None:
        """A job is gone; `entomb` says when."""
        self.note(key)
        self._changed.pop(key)

    def entomb(self, key: JobKey, at: datetime) -> None:
        """Keep telling that a job was deleted."""
        self._tombstones[key] = (self._counter, at)

    def hint_queued(self, backend: str) -> None:
        """A backend may have a claimable job."""
        self._hinted.add(backend)
        self._woken.set()

    def sweep(self, before: datetime) -> None:
        """Forget deletions from before a time."""
        for key in [key for key, (_, at) in self._tombstones.items() if at < before]:
            self._swept = max(self._swept, self._tombstones.pop(key)[0])

    # Reading

    def since(self, cursor: str, limit: int) -> tuple[list[JobKey], str, bool]:
        """The keys that changed since, oldest change first; the next cursor; whether there is more."""
        if not cursor:
            return [], self._cursor(self._counter), False
        nonce, _, number = cursor.partition("-")
        after = int(number) if nonce == self._nonce and number.isdecimal() else -1
        if not self._swept <= after <= self._counter:
            raise CursorTooOld(f"the changes since {cursor!r} are not known any more")
        newest_first = takewhile(lambda item: item[1] > after, reversed(self._changed.items()))
        news = [(at, key) for key, at in newest_first]
        news += [(at, key) for key, (at, _) in self._tombstones.items() if at > after]
        page = sorted(news)[:limit]
        more = len(news) > len(page)
        return [key for _, key in page], self._cursor(page[-1][0] if more else self._counter), more

    async def wait(self, timeout: timedelta) -> Hints | None:
        """Wait for a hint; None after `timeout`."""
        try:
            # Not wait_for: before Python 3.12 it may swallow a cancellation.
            async with asyncio.timeout(timeout.total_seconds()):
                await self._woken.wait()
        except TimeoutError:
            return None
        self._woken.clear()
        queued, self._hinted = frozenset(self._hinted), set()
        return Hints(queued, changed=True)

    def _cursor(self, number: int) -> str:
        return f"{self._nonce}-{number}"
