"""The newest changes that this process made itself, kept in memory.

Whoever follows `changes` in the process that wrote them need not have them read and decoded again.
"""

from collections import deque
from collections.abc import Sequence

import msgspec

from spoolway_providers.model import Job, JobKey

__all__ = ["ChangedJob", "RecentChanges"]

ChangedJob = tuple[int, JobKey, Job | None]
"""The number of a change, which job, and its new document; None if it was deleted."""

_KEPT = 2_000
"""Changes, of a few kilobytes each."""


class _Batch(msgspec.Struct, frozen=True):
    """What one commit changed."""

    before: int
    """The newest number before it."""
    last: int
    changed: Sequence[ChangedJob]


class RecentChanges:
    """A tail of the numbered changes without a gap: another process's commit in between empties it."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._size = 0

    def add(self, before: int, last: int, changed: Sequence[ChangedJob]) -> None:
        """A commit of ours took the numbers after `before` up to `last`."""
        if self._batches and self._batches[-1].last != before:
            self._batches.clear()
            self._size = 0
        self._batches.append(_Batch(before, last, changed))
        self._size += len(changed)
        while self._size > _KEPT and len(self._batches) > 1:
            self._size -= len(self._batches.popleft().changed)

    def since(self, after: int, newest: int, limit: int) -> tuple[list[ChangedJob], bool] | None:
        """The changes after the number `after`, if all up to `newest` are known here.

        Returns:
            At most `limit` of them, each job once, by number, and whether there are more.
        """
        if not self._batches or after < self._batches[0].before or newest > self._batches[-1].last:
            return None
        by_key: dict[JobKey, ChangedJob] = {}
        for batch in self._batches:
            if batch.last > after:
                by_key.update((change[1], change) for change in batch.changed if change[0] > after)
        found = sorted(by_key.values(), key=lambda change: change[0])
        return found[:limit], len(found) > limit
