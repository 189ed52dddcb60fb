"""The spooler's own view of how long its leases last (contract R13)."""

from collections import deque
from collections.abc import Callable

__all__ = ["LeaseClock"]


class LeaseClock:
    """Tells whether the leases of this session are sure, by this machine's clock alone.

    They last `ttl` from the moment at which the last acknowledged sign of life was *sent*. The server
    counts from when it saw the sign, and adds a grace: so the spooler always knows first, and no clocks are
    compared.

    Changed in the event loop; `is_unsure` may be read from any thread.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin without a lease."""
        self._now = now
        self._ttl_s = 0.0
        self._renewed_at = float("-inf")
        self._sent: deque[tuple[int, float]] = deque()

    @property
    def ttl_s(self) -> float:
        """How long leases last without a sign of life, in seconds."""
        return self._ttl_s

    @property
    def run_out_at(self) -> float:
        """When they become unsure, by the clock given at the start."""
        return self._renewed_at + self._ttl_s

    @property
    def is_unsure(self) -> bool:
        """Whether the server may have given the jobs to somebody else."""
        return self._now() >= self.run_out_at

    def start(self, sent_at: float, ttl_s: float) -> None:
        """A hello that was sent at `sent_at` was answered: a new session begins."""
        self._sent.clear()
        self._ttl_s = ttl_s
        self._renewed_at = sent_at

    def beat_sent(self, sequence: int, sent_at: float) -> None:
        """A beat is on its way."""
        self._sent.append((sequence, sent_at))

    def beat_acked(self, sequence: int) -> None:
        """The beats up to `sequence` are durable."""
        while self._sent and self._sent[0][0] <= sequence:
            self.renew(self._sent.popleft()[1])

    def renew(self, sent_at: float) -> None:
        """Something sent at `sent_at` proved that the session lived; an older proof changes nothing."""
        self._renewed_at = max(self._renewed_at, sent_at)
