"""What is to be done later."""

import heapq
import itertools
from collections.abc import Callable

__all__ = ["Agenda"]


class Agenda:
    """Actions by the time at which they are due."""

    def __init__(self) -> None:
        """Begin empty."""
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._ties = itertools.count()

    @property
    def next_due(self) -> float:
        """When the next action is due; infinity if there is none."""
        return self._entries[0][0] if self._entries else float("inf")

    def add(self, due: float, action: Callable[[], None]) -> None:
        """Do it then."""
        heapq.heappush(self._entries, (due, next(self._ties), action))

    def run(self, now: float) -> None:
        """Do what is due."""
        while self._entries and self._entries[0][0] <= now:
            heapq.heappop(self._entries)[2]()

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
