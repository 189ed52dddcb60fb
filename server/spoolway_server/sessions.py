"""A spooler's session as this process sees it: what it holds, what it wants, and where messages to it go."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import msgspec

from spoolway_providers.interface import Claimed
from spoolway_providers.model import Job, JobKey, Reason, State
from spoolway_providers.rules import SPOOLER_REVOKED
from spoolway_server.clock import Clock

if TYPE_CHECKING:
    from spoolway_server.storage import Storage

__all__ = ["Held", "Mailbox", "Session", "ending"]

FIRST_PENALTY_S = 10.0
LONGEST_PENALTY_S = 300.0
"""A spooler that did not accept in time gets nothing for 10 s, doubling to 5 min."""


class Held(msgspec.Struct):
    """A job that a session holds."""

    job: Job
    token: str
    cancel_sent: bool = False


class Mailbox(Protocol):
    """Where messages to the spooler go; never blocks."""

    def assign(self, claimed: Sequence[Claimed]) -> None:
        """New jobs."""

    def cancel(self, job: JobKey, token: str, reason: Reason, grace: timedelta) -> None:
        """A running job is to stop."""

    def revoke(self, job: JobKey, token: str, reason: str) -> None:
        """A lease is gone."""

    def end(self, reason: str) -> None:
        """The session is over."""


class Session:
    """One session, its credit and its jobs in hand."""

    def __init__(
        self,
        session_id: str,
        *,
        spooler_id: str,
        instance_id: str,
        principal: str,
        backends: dict[str, "Storage"],
        accept_timeout: timedelta,
        has_stream: bool,
        max_content_bytes: int,
        mailbox: Mailbox,
        clock: Clock,
    ) -> None:
        """A session without credit that holds nothing.

        Args:
            session_id: as stored.
            spooler_id: stable name of the spooler.
            instance_id: of its process.
            principal: who it runs as.
            backends: short names of the backends it runs jobs of, and their storages.
            accept_timeout: how soon it must accept what it is assigned.
            has_stream: whether this process hears of its acceptances; if not, the reaper looks after them.
            max_content_bytes: contents above it are not part of an assignment.
            mailbox: where messages go.
            clock: the machine's clocks.
        """
        self.id = session_id
        self.spooler_id = spooler_id
        self.instance_id = instance_id
        self.principal = principal
        self.backends = backends
        self.accept_timeout = accept_timeout
        self.has_stream = has_stream
        self.max_content_bytes = max_content_bytes
        self.mailbox = mailbox
        self.held: dict[JobKey, Held] = {}
        self.closed = False
        self.draining = False
        self.worked_since_renewal = False
        self.on_credit: Callable[[], None] = lambda: None
        self.heard_at = clock.monotonic()
        """When its stream last brought a message."""
        self._clock = clock
        self._credit: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._wanting: set[str] = set()
        self._in_hand: Counter[str] = Counter()
        self._penalty_s = 0.0
        self._penalised_until = float("-inf")

    @property
    def storages(self) -> list["Storage"]:
        """The storages of its backends, each once."""
        return list(dict.fromkeys(self.backends.values()))

    # Credit

    def set_credit(self, backend: str, outstanding: int) -> None:
        """The latest number counts; an empty backend is the session as a whole."""
        self._credit[backend] = outstanding
        self.credit_freed()

    @property
    def credit(self) -> Mapping[str, int]:
        """How many jobs it has said that it takes, by backend; an empty one is the session as a whole."""
        return self._credit

    def hear(self) -> None:
        """It has given a sign of life."""
        self.heard_at = self._clock.monotonic()

    def free(self, backend: str) -> int:
        """How many more jobs of `backend` it takes now."""
        if self.closed or self.draining or not self._credit or self.penalty_left_s > 0:
            return 0
        total = self._credit.get("")
        own = self._credit.get(backend, 0 if total is None else None)
        free: list[int] = []
        if total is not None:
            free.append(total - len(self.held) - sum(self._reserved.values()))
        if own is not None:
            free.append(own - self._in_hand[backend] - self._reserved.get(backend, 0))
        return max(0, min(free))

    @property
    def penalty_left_s(self) -> float:
        """Seconds until it gets jobs again after it failed to accept some."""
        return self._penalised_until - self._clock.monotonic()

    def penalise(self) -> None:
        """It did not accept in time."""
        self._penalty_s = min(max(FIRST_PENALTY_S, self._penalty_s * 2), LONGEST_PENALTY_S)
        self._penalised_until = self._clock.monotonic() + self._penalty_s

    def credit_freed(self) -> None:
        """It may take more jobs now."""
        for name, storage in self.backends.items():
            if self.free(name):
                storage.dispatcher(name).wake()
        self.on_credit()

    def reserve(self, backend: str, places: int) -> None:
        """Places that a claim under way may fill; negative to give them back."""
        self._reserved[backend] = self._reserved.get(backend, 0) + places
        if places < 0:
            wanting, self._wanting = self._wanting, set()
            for name in wanting - {backend}:
                self.backends[name].dispatcher(name).wake()

    def note_want(self, backend: str) -> None:
        """A dispatcher found no free place: wake it if one that is reserved for another is given back."""
        if any(self._reserved.values()):
            self._wanting.add(backend)

    # Jobs in hand

    def assign(self, claimed: Sequence[Claimed]) -> None:
        """Jobs were claimed for it."""
        for one in claimed:
            self._hold(one.job)
        self.worked_since_renewal = True
        self.mailbox.assign(claimed)

    def take_over(self, job: Job) -> None:
        """A job of an earlier session goes on in this one."""
        self._hold(job)
        self.worked_since_renewal = True

    def _hold(self, job: Job) -> None:
        holder = job.holder
        if holder is not None:
            if job.key not in self.held:
                self._in_hand[job.key.backend] += 1
            self.held[job.key] = Held(job, holder.token)

    def update_held(self, job: Job) -> None:
        """A job in hand has changed."""
        held = self.held.get(job.key)
        if held is not None:
            held.job = job
            if job.state is State.RUNNING:
                self._penalty_s = 0.0

    def known(self, key: JobKey, token: str) -> Job | None:
        """A job in hand as last seen, if it is held by this token."""
        held = self.held.get(key)
        return held.job if held is not None and held.token == token else None

    def drop(self, key: JobKey, token: str) -> None:
        """A job is no longer in hand."""
        held = self.held.get(key)
        if held is not None and held.token == token:
            del self.held[key]
            self._in_hand[key.backend] -= 1
            self.worked_since_renewal = True

    def cancel(self, job: Job, grace: timedelta) -> None:
        """Tell the spooler, once, to stop a job."""
        held = self.held.get(job.key)
        if held is not None and not held.cancel_sent:
            held.cancel_sent = True
            self.mailbox.cancel(job.key, held.token, job.reason, grace)

    def revoke(self, key: JobKey, token: str, reason: str) -> None:
        """Tell the spooler that a lease is gone."""
        self.mailbox.revoke(key, token, reason)

    def end(self, reason: str) -> None:
        """The session is over: no more jobs, and the spooler is told why."""
        if not self.closed:
            self.closed = True
            self.mailbox.end(reason)


def ending(reason: str) -> str:
    """What a spooler is told of a session that is not live any more for this reason."""
    return reason if reason in {"SESSION_REPLACED", SPOOLER_REVOKED} else "SESSION_CLOSED"
