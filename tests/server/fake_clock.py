"""Clocks whose hands a test turns."""

from datetime import UTC, datetime, timedelta

from spoolway_server.clock import Clock

__all__ = ["FakeClock", "JumpClock"]


class FakeClock(Clock):
    """Stands still unless it is turned."""

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 24, 12, tzinfo=UTC)
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Turn both hands."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


class JumpClock(Clock):
    """The machine's clock, which jumps ahead when told: for a whole server that has to wait for nothing."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._ahead_s)

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Jump ahead."""
        self._ahead_s += seconds
