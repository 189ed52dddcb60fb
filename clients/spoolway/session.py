"""The spooler's side of the contract (R1-R15): what to send, given what came. It knows no gRPC and never waits.

All methods are called in the event loop. Time comes from the clock that is passed in; what is due later is done
by `tick`, which the stream calls when its answer says so.
"""

import asyncio
import enum
import heapq
import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spoolway.channel import MAX_RECEIVE_BYTES
from spoolway.errors import (
    ContentTooLargeError,
    InvalidArgumentError,
    ResourceExhaustedError,
    SpoolwayError,
    UnauthenticatedError,
    error_from_item,
    is_transient,
)
from spoolway.held import HeldJob, Phase, SpooledBackend
from spoolway.leases import LeaseClock
from spoolway.running import RunningJob, backend_of
from spoolway.timing import Backoff, Timing
from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["Identity", "Session"]

_PROTOCOL = 1
_IDLE_HEARTBEAT_S = 55.0

_log = logging.getLogger("spoolway.spooler")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this spooler is."""

    spooler_id: str
    """Stable over restarts."""
    instance_id: str
    """New at each start."""
    sdk: str
    """Name and version of this package."""
    predecessor_dead: bool = False
    """The earlier process of this name is surely dead."""


class _Report(enum.Enum):
    """What a Confirm answers."""

    ACCEPT = enum.auto()
    END = enum.auto()


@dataclass(slots=True)
class _Unconfirmed:
    held: HeldJob
    kind: _Report
    sent_at: float


class Session:
    """What a spooler holds and says, over any number of streams.

    Attributes:
        outbox: What the stream has to write.
        leases: How sure the leases are.
        poke: Set when `tick` must be called earlier than it said.
        finished: Set once draining or stopped, with nothing left to report.
        lost: Set while there is no stream that was welcomed.
    """

    def __init__(
        self,
        identity: Identity,
        backends: Iterable[SpooledBackend],
        *,
        timing: Timing,
        now: Callable[[], float],
    ) -> None:
        """Begin without a stream."""
        self._identity = identity
        self._backends = {backend.name: backend for backend in backends}
        self._timing = timing
        self._now = now
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox()
        self.leases = LeaseClock(now)
        self.poke = asyncio.Event()
        self.finished = asyncio.Event()
        self.lost = asyncio.Event()
        self.lost.set()
        self._lost_at = now()
        self.start_function: Callable[[HeldJob], None] = _not_started
        self.set_max_result_bytes: Callable[[int], None] = _ignored
        self._held: dict[str, HeldJob] = {}
        self._sequences = itertools.count(1)
        self._unconfirmed: dict[int, _Unconfirmed] = {}
        self._agenda = _Agenda()
        self._told_interval_s = _IDLE_HEARTBEAT_S
        self._last_beat_at = now()
        self._was_unsure = False
        self._is_leaving = False
        self._is_draining = False
        self._is_stopping = False
        self._drain_sequence: int | None = None
