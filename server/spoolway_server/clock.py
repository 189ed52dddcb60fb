"""Time, passed in wherever it is needed, so that tests can turn the hands."""

import time
from datetime import UTC, datetime

__all__ = ["Clock"]


class Clock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Wall clock, UTC; for times that people see and for due times."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only go forward; for everything that waits or runs out."""
        return time.monotonic()
