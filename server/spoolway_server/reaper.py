"""What happens when nobody does anything: due times, silent sessions, claims that nobody accepted."""

import asyncio
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import structlog

from spoolway_providers.errors import Conflict, NotFound, ProviderError, SessionClosed
from spoolway_providers.interface import Query, SessionView
from spoolway_providers.model import Job, State
from spoolway_providers.rules import Due, SessionGone, Withdraw
from spoolway_server.leases import Update
from spoolway_server.sessions import Session, ending

if TYPE_CHECKING:
    from spoolway_server.storage import Storage

__all__ = ["Reaper"]

_log = structlog.get_logger(__name__)

BUSY_LOOK_S = 2.0
"""Between two looks while any session holds a job."""
IDLE_LOOK_S = 15.0
"""Between two looks while none does, but something changes: other processes may leave work behind."""
QUIET_LOOK_S = 600.0
"""Between two looks while nothing changes: only what no hint told of can be found then."""
ORPHAN_PATIENCE_S = 2.0
"""A job must be seen orphaned for so long: a hello under way closes the old session before it takes over."""
CLAIM_PATIENCE_S = 10.0
"""A job seen CLAIMED by one token for so long is withdrawn, whoever claimed it."""
IDLE_SESSION_LIMIT = timedelta(minutes=25)
"""A stream that holds nothing renews each 10 minutes; one silent for so long is a ghost. Its end is
told, where its server lives; a session of unary calls just falls silent, so it renews as if it held a job."""
STALL_S = 5.0
"""A look that comes so much too late says that this process slept: what it saw before does not count."""
BATCH = 500


class _Seen(msgspec.Struct):
    what: object
    since: float


class Reaper:
    """One a storage and process; any number of them may work on one storage.

    It never compares clocks: a session is closed when *this* process saw its beat unchanged for the
    session's silence limit on its own monotonic clock while the storage answered throughout. An outage or
    a pause of this process therefore is an amnesty for all.
    """

    def __init__(self, storage: "Storage") -> None:
        """Idle until `run`."""
        self._storage = storage
        self._clock = storage.clock
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._next_due: datetime | None = None
        self._busy = False
        self._has_work = False
        self._changed = False
        """Whether there was work, or anything has changed, since the last look began."""
        self._noted_at = float("-inf")
        """When either began, by the loop's clock."""
        self._wake = asyncio.Event()
        self._look_s = IDLE_LOOK_S

    def note_due(self, due_at: datetime) -> None:
        """A job with a due time was committed."""
        if self._next_due is None or due_at < self._next_due:
            self._next_due = due_at
            self._wake.set()

    def note_work(self) -> None:
        """A session of this process holds something: look soon, and more often."""
        self._has_work = True
        if not self._busy:
            self._busy = True
            self._note()

    def note_change(self) -> None:
        """A job, a backend or a session may have changed, by whichever process: look before long."""
        if not self._changed:
            self._changed = True
            self._note()

    def _note(self) -> None:
        self._noted_at = asyncio.get_running_loop().time()
        self._wake.set()

    def pardon(self) -> None:
        """The storage did not take what it should have: whatever was silent until now begins anew."""
        self._seen.clear()

    async def run(self) -> None:
        """Look, act, sleep until something is due; for ever."""
        await self._storage.opened.wait()
        looked_at, slept_s = self._clock.monotonic(), 0.0
        while True:
            try:
                if self._clock.monotonic() - looked_at > slept_s + STALL_S:
                    self.pardon()
                looked_at = self._clock.monotonic()
                await self.look()
            except ProviderError as error:
                self._storage.report(error)
                self._start_over()
            except Exception:  # noqa: BLE001  # the loop is the storage's recovery: whatever happened, it goes on
                _log.exception("reaper failed", storage=self._storage.name)
                self._start_over()
            slept_s = await self._sleep()

    def _start_over(self) -> None:
        """A look failed: what was seen before does not count, and what was to be done is still to do."""
        self.pardon()
        self._changed = True

    async def look(self) -> None:
        """One look at everything; a test may call it by itself."""
        # What is noted during the look calls for another one: the look may have been past it already.
        self._has_work = self._changed = False
        self._next_due = None
        # Policies that other processes have changed count here within a look.
        await self._storage.backends()
        all_applied = await self._apply_due()
        mine = list(self._storage.leases.sessions.values())
        views = await self._storage.provider.sessions()
        await self._end_closed({view.session.id for view in views if view.session.state == "LIVE"}, mine)
        await self._close_silent(views)
        watched = await self._sweep_orphans()
        watched += await self._withdraw_unaccepted({v.session.id for v in views if v.session.detached})
        self._busy = self._has_work or watched > 0 or any(view.leases for view in views)
        self._look_s = self._interval_s(views)
        stored = await self._storage.provider.next_due()
        if not all_applied and stored is not None and stored <= self._clock.now():
            stored = None  # of a job that is passed by; routes that turn call for another look
        self._next_due = min((t for t in (stored, self._next_due) if t is not None), default=None)

    def _interval_s(self, views: Sequence[SessionView]) -> float:
        """How long nothing can become overdue that was seen in a look, if nothing changes."""
        if self._busy:
            return min([BUSY_LOOK_S, *(_quarter_s(view) for view in views if view.leases)])
        # These are closed after their silence also when they hold nothing.
        silent = [_quarter_s(view) for view in views if not view.session.has_stream]
        quiet_s = QUIET_LOOK_S if self._storage.provider.capabilities.wakes else IDLE_LOOK_S
        return min([quiet_s, *silent])

    async def _sleep(self) -> float:
        """Until it is time for the next look; returns how long that was to last at most."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            slept_s = loop.time() - began
            left_s = self._left_s(slept_s)
            self._wake.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
            except TimeoutError:
                return slept_s + left_s

    def _left_s(self, slept_s: float) -> float:
        """How long to sleep on, by what is known now."""
        interval_s = self._look_s
        if self._changed:
            interval_s = min(interval_s, IDLE_LOOK_S)
        if self._busy:
            interval_s = min(interval_s, BUSY_LOOK_S)
        # What follows in the next moments has its look too: a job that is soon done costs one, not three.
        noted_s = asyncio.get_running_loop().time() - self._noted_at
        left_s = max(interval_s - slept_s, min(interval_s, BUSY_LOOK_S) - noted_s, 0.0)
        if self._next_due is not None:
            due_in_s = (self._next_due - self._clock.now()).total_seconds()
            left_s = min(left_s, max(due_in_s, 0.01))
        return left_s

    async def _apply_due(self) -> bool:
        """Do what is due; whether nothing was passed by."""
        passed_by = 0
        while True:
            page = await self._storage.provider.find(Query(due_before=self._clock.now(), limit=BATCH))
            purged = await self._purge([job for job in page.jobs if job.is_terminal])
            living = [job for job in page.jobs if not job.is_terminal]
            due = [Update(job.key, Due(), known=job) for job in self._at_home(living)]
            passed_by += len(living) - len(due)
            await self._storage.leases.apply(due)
            if len(page.jobs) < BATCH or not (purged or due):
                return not passed_by

    def _at_home(self, jobs: Iterable[Job]) -> list[Job]:
        """Without the copies of jobs that another storage has: two reapers would decide apart."""
        return [job for job in jobs if self._storage.is_home(job.key.backend)]

    async def _end_closed(self, live: Container[str], mine: Iterable[Session]) -> None:
        """Tell streams of this process whose sessions others have ended."""
        for session in mine:
            if session.id not in live and not session.closed:
                try:
                    await self._storage.provider.renew(session.id, 0)
                except SessionClosed as error:
                    session.end(ending(error.reason))

    async def _purge(self, jobs: Sequence[Job]) -> int:
        """Delete jobs that have been kept as long as they were to be; how many that are."""
        purged = 0
        for job in jobs:
            # Another process may have been quicker, or its owner had it retried.
            with suppress(NotFound, Conflict):
                await self._storage.provider.delete(job.key, job.revision)
                purged += 1
        if purged:
            _log.info("purged", storage=self._storage.name, jobs=purged, first=str(jobs[0].key))
            self._storage.metrics.purged.inc(purged)
        return purged

    async def _close_silent(self, views: list[SessionView]) -> None:
        for view in views:
            session = view.session
            renews_while_idle = view.leases or not session.has_stream
            limit = session.silence_limit if renews_while_idle else IDLE_SESSION_LIMIT
            # Leases that come and go restart the count: only an unbroken silence in work counts.
            what = (session.beat, bool(view.leases))
            if self._unchanged_for(("session", session.id), what) < limit.total_seconds():
                continue
            reason = session.reason or "SPOOLER_SILENT"
            if await self._storage.provider.close_session(session.id, session.beat, reason):
                _log.warning("session closed", session=session.id, spooler=session.spooler_id, reason=reason)
                await self.sweep_session(session.id, reason)
        self._forget("session", {view.session.id for view in views})

    async def sweep_session(self, session_id: str, reason: str) -> None:
        """Take back the jobs of a session that is closed."""
        page = await self._storage.provider.find(Query(session=session_id, limit=BATCH))
        await self._take_back(page.jobs, reason)

    async def _sweep_orphans(self) -> int:
        """Take back what nobody holds any more; how many jobs were seen to be so."""
        page = await self._storage.provider.find(Query(orphaned=True, limit=BATCH))
        ripe: list[Job] = []
        jobs = self._at_home(page.jobs)
        for job in jobs:
            token = job.holder.token if job.holder else ""
            if self._unchanged_for(("orphan", str(job.key)), token) >= ORPHAN_PATIENCE_S:
                ripe.append(job)
        self._forget("orphan", {str(job.key) for job in jobs})
        await self._take_back(ripe, "its session is closed")
        return len(jobs)

    async def _take_back(self, jobs: Iterable[Job], reason: str) -> None:
        updates = [
            Update(job.key, SessionGone(job.holder.session, reason), known=job) for job in jobs if job.holder
        ]
        if updates:
            _log.info("jobs taken back", storage=self._storage.name, jobs=len(updates), reason=reason)
            await self._storage.leases.apply(updates)

    async def _withdraw_unaccepted(self, detached: Container[str]) -> int:
        """Take back claims that nobody accepts; how many claims were seen.

        Whose session has no stream any more may have been killed by the job: that counts as a crash.
        """
        page = await self._storage.provider.find(Query(states=(State.CLAIMED,), limit=BATCH))
        jobs = self._at_home(page.jobs)
        updates: list[Update] = []
        for job in jobs:
            holder = job.holder
            if (
                holder is None
                or self._unchanged_for(("claim", str(job.key)), holder.token) < CLAIM_PATIENCE_S
            ):
                continue
            event: SessionGone | Withdraw = Withdraw(holder.token, "not accepted in time")
            if holder.session in detached:
                event = SessionGone(holder.session, "its stream ended before the job was accepted")
            updates.append(Update(job.key, event, known=job))
        self._forget("claim", {str(job.key) for job in jobs})
        if updates:
            await self._storage.leases.apply(updates)
        return len(jobs)

    def _unchanged_for(self, subject: tuple[str, str], what: object) -> float:
        """Seconds for which this process has seen `subject` be `what`."""
        now = self._clock.monotonic()
        seen = self._seen.get(subject)
        if seen is None or seen.what != what:
            self._seen[subject] = _Seen(what, now)
            return 0.0
        return now - seen.since

    def session_seen_at(self, session_id: str) -> float | None:
        """When, by the monotonic clock, this process saw the session change; None: not seen yet."""
        seen = self._seen.get(("session", session_id))
        return seen.since if seen else None

    def _forget(self, kind: str, present: set[str]) -> None:
        for subject in [s for s in self._seen if s[0] == kind and s[1] not in present]:
            del self._seen[subject]


def _quarter_s(view: SessionView) -> float:
    """Of the silence that a session is allowed."""
    return view.session.silence_limit.total_seconds() / 4
