"""How long and how often; what the issue fixes is said here once."""

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Plan"]


@dataclass(frozen=True)
class Plan:
    """The sizes of a run."""

    rounds: int
    floor_s: float
    """Length of one throughput measurement of a floor."""
    case_s: float
    """Length of one of a storage."""
    calls: int
    """Calls of one latency measurement."""
    long_queue: int
    """Jobs that wait in the long queue."""
    idle_s: float
    """How long the idle server is watched."""
    budget_s: float
    """No further round begins that would pass this; what follows the rounds is not counted."""
    idle_streams: int = 1000
    warm_up_s: float = 0.5
    in_flight: int = 64
    """Calls in flight, submitted singly."""
    batches_in_flight: int = 4
    """Of 50 jobs each."""
    short_queue: int = 10
    """Jobs that wait in the short queue."""
    credit: int = 64
    """Jobs that the worker holds, submitted singly."""
    batch_credit: int = 200
    """Jobs that the worker holds, submitted in batches."""
    pause_s: float = 0.002
    """Between two calls of a latency measurement: all is quiet again."""


FULL = Plan(rounds=5, floor_s=3, case_s=4, calls=400, long_queue=100_000, idle_s=60, budget_s=540)
# Shorter by the time that it takes to make 100,000 files, and to remove them, where jobs are files.
QUICK = Plan(
    rounds=3, floor_s=0.6, case_s=0.8, calls=80, long_queue=20_000, idle_s=5, budget_s=30, warm_up_s=0.3
)
