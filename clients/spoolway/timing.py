"""How long things may take, and how long to wait before the next try."""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff", "Timing", "steady_clock"]

_random = random.SystemRandom().random


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The periods of a spooler and of a watching client, all in seconds. Tests make them short."""

    connect_s: float = 10
    """From the first try to a connection that takes hello."""
    welcome_s: float = 5
    """From hello to welcome (contract R13)."""
    silence_margin_s: float = 10
    """Silence of the server beyond the heartbeat interval after which a stream counts as dead."""
    close_s: float = 5
    """From closing our side of a stream until it is cancelled."""
    confirm_s: float = 30
    """Without a confirm for so long a report is sent again; a repeat changes nothing (R4)."""
    unary_after_s: float = 10
    """A stream down for so long is bypassed by unary calls (R7)."""
    unary_poll_s: float = 1
    """How often to look for ends to deliver while the stream is down."""
    unary_timeout_s: float = 20
    """Of one unary call."""
    progress_s: float = 1
    """At most one progress report per job in this time."""
    drain_s: float = 5
    """How long to wait for the confirm of a drain once nothing is held."""
    stop_s: float = 2
    """How long a stop waits for its releases to be sent."""
    reconnect_first_s: float = 0.25
    """First wait before reconnecting."""
    reconnect_longest_s: float = 15
    """Longest wait: two tries at least within the default lease of 30 s."""
    settled_s: float = 10
    """A stream that lived that long resets the back-off."""
    resend_first_s: float = 0.5
    """First wait before a report that was refused as UNAVAILABLE is sent again."""
    resend_longest_s: float = 30
    """Longest such wait."""
    first_event_s: float = 10
    """A watch that shows nothing for so long at its start is cut off by something on the way."""
    bookmark_s: float = 45
    """A watch silent for so long is dead; the server sends a bookmark every 15 s."""
    wait_job_s: float = 30
    """Length of one WaitJob."""


class Backoff:
    """Waits that double from `first_s` to `longest_s`, each shortened at random by up to a half."""

    def __init__(self, first_s: float, longest_s: float, *, random: Callable[[], float] = _random) -> None:
        """Start at `first_s`."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._random = random
        self._step = 0

    def next_s(self) -> float:
        """The next wait, in seconds."""
        wait_s = min(self._longest_s, self._first_s * 2.0**self._step)
        if wait_s < self._longest_s:
            self._step += 1
        return wait_s * (0.5 + 0.5 * self._random())

    def reset(self) -> None:
        """Begin anew."""
        self._step = 0


def steady_clock() -> Callable[[], float]:
    """A clock in seconds that only moves forward and, unlike `time.monotonic`, goes on while a laptop sleeps.

    A lease that ran out during the sleep must be seen as such.
    """
    if sys.platform == "linux":
        return lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return lambda: time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic
