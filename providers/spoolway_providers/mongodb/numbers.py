"""Change numbers: milliseconds of the server's clock, times 4,096, never below what this process has seen.

One 64-bit number orders all changes. The server makes it in the write itself, from its own clock
(`$$NOW`), so no client's clock counts; a floor that this process sends along keeps the numbers ascending
within a millisecond and when the clock is set back. A job's `seq` is the number of its submit.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from bson.int64 import Int64

__all__ = ["Numbers", "number_span"]

_STEPS_A_MS = 4096
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime.fromtimestamp(0, UTC)


def number_span(span: timedelta) -> int:
    """How far apart the numbers of two moments are."""
    return span // _MILLISECOND * _STEPS_A_MS


class Numbers:
    """Makes the expressions that number changes, and remembers the highest number seen."""

    def __init__(self, clock: Callable[[], datetime] | None) -> None:
        """Use the server's clock; `clock` stands in for it in tests."""
        self._clock = clock
        self._floor = 0

    def learn(self, number: int) -> None:
        """Numbers made from now on are above `number`."""
        self._floor = max(self._floor, number)

    def now(self) -> Any:
        """An expression for the time of the write."""
        return "$$NOW" if self._clock is None else {"$literal": self._clock()}

    def now_ms(self) -> Any:
        """An expression for the time of the write, in milliseconds: numbers compare the same everywhere."""
        return {"$toLong": self.now()}

    def known_now(self) -> datetime | None:
        """The time, if it does not have to be asked of the server."""
        return None if self._clock is None else self._clock()

    def take(self, count: int = 1) -> int:
        """Reserve the floor of `count` numbers that follow each other."""
        floor = self._floor + 1
        self._floor += count
        return floor

    def number(self, floor: int, offset: int = 0) -> Any:
        """An expression for a change's number: `offset` above the first of those taken with `floor`."""
        by_clock = {"$multiply": [self.now_ms(), _STEPS_A_MS]}
        # Above the document's own too, whatever clock numbered that: a document's numbers only rise.
        highest = {"$max": [by_clock, {"$literal": _long(floor)}, {"$add": ["$change", 1]}]}
        return {"$add": [highest, offset]} if offset else highest

    def ranking_ms(self, floor: int) -> Any:
        """An expression for the milliseconds that rank a submit; as monotone as its number."""
        return {"$max": [self.now_ms(), {"$literal": _long(floor // _STEPS_A_MS)}]}


def _long(number: int) -> Int64:
    """So that all numbers have one type in the database, small ones too."""
    return Int64(number)
