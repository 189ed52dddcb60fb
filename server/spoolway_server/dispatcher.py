"""Hands the jobs of one backend to the sessions that wait for them."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import TYPE_CHECKING

import structlog

from spoolway_providers.errors import ProviderError, Uncertain
from spoolway_providers.interface import Claimed, Order, Query
from spoolway_providers.model import ACTIVE_STATES, new_token
from spoolway_providers.rules import Withdraw
from spoolway_server.leases import Update
from spoolway_server.sessions import Session
from spoolway_server.uploads import read_pieces

if TYPE_CHECKING:
    from spoolway_server.storage import Storage

__all__ = ["Dispatcher"]

_log = structlog.get_logger(__name__)

MAX_ORDERS = 256
"""Places filled by one claim."""
FIRST_POLL_S = 0.2
FIRST_RETRY_S = 0.2
LONGEST_RETRY_S = 5.0


class Dispatcher:
    """One a backend and process: claims for all waiting sessions at once.

    Woken by submits and by the storage's hints; beneath that a poll that backs off, which runs only while
    somebody waits with credit.
    """

    def __init__(self, storage: "Storage", backend: str) -> None:
        """Idle until a session joins."""
        self._storage = storage
        self._backend = backend
        self._sessions: dict[Session, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def join(self, session: Session) -> None:
        """A session wants jobs of this backend, as far as its credit goes."""
        self._sessions[session] = None
        self._wake.set()
        if self._task is None or self._task.done():
            # Nothing of the call that happens to start it: neither its caller in logs nor its trace.
            self._task = asyncio.create_task(self._run(), context=Context())

    def leave(self, session: Session) -> None:
        """A session wants no more; the last one ends the loop."""
        self._sessions.pop(session, None)
        self._wake.set()

    def wake(self) -> None:
        """There may be jobs, or credit."""
        self._wake.set()

    def stop(self) -> asyncio.Task[None] | None:
        """End the loop; returns its task, which ends once it has been cancelled."""
        self._sessions.clear()
        return self._task

    @property
    def waiting_places(self) -> int:
        """Free places of all sessions."""
        return sum(session.free(self._backend) for session in self._sessions)

    @property
    def session_count(self) -> int:
        """Sessions of this process that want jobs of this backend."""
        return len(self._sessions)

    @property
    def has_sessions(self) -> bool:
        """Whether any session wants jobs of this backend."""
        return bool(self._sessions)

    async def _run(self) -> None:
        poll_s = FIRST_POLL_S
        retry_s = FIRST_RETRY_S
        while self._sessions:
            woken = await self._wait(poll_s)
            poll_s = FIRST_POLL_S if woken else min(poll_s * 2, self._storage.poll_max_s)
            self._wake.clear()
            try:
                found = await self._claim_while_there_are()
                if found and not woken:
                    self._storage.metrics.wakeup_misses.inc(found)
                retry_s = FIRST_RETRY_S
            except ProviderError as error:
                self._storage.report(error)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, LONGEST_RETRY_S)
                self._wake.set()
            except Exception:  # noqa: BLE001  # the loop is the backend's life: whatever happened, it goes on
                _log.exception("dispatch failed", backend=self._backend)
                await asyncio.sleep(LONGEST_RETRY_S)
                self._wake.set()

    async def _wait(self, poll_s: float) -> bool:
        """Wait to be woken; at most `poll_s` if there is credit, and no longer than to a penalty's end."""
        timeout: float | None = poll_s if self.waiting_places else None
        penalties = [s.penalty_left_s for s in self._sessions if s.penalty_left_s > 0]
        if penalties:
            timeout = min([*penalties, *([timeout] if timeout else [])])
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    async def _claim_while_there_are(self) -> int:
        """Returns how many jobs were claimed."""
        count = 0
        while self._storage.active and self._storage.opened.is_set():
            orders = self._orders()
            if not orders:
                break
            claimed = await self._claim(orders)
            count += len(claimed)
            if len(claimed) < len(orders):
                break
        return count

    def _orders(self) -> dict[str, tuple[Session, Order]]:
        """By token, one order for each free place: in turn over the sessions, the least busy first."""
        places = {session: session.free(self._backend) for session in self._sessions}
        for session, free in places.items():
            if not free:
                session.note_want(self._backend)
        turn = sorted((s for s, free in places.items() if free), key=lambda session: len(session.held))
        orders: dict[str, tuple[Session, Order]] = {}
        while turn and len(orders) < MAX_ORDERS:
            for session in turn[: MAX_ORDERS - len(orders)]:
                token = new_token()
                orders[token] = (session, Order(session.id, session.spooler_id, token))
                places[session] -= 1
            turn = [session for session in turn if places[session]]
        return orders

    async def _claim(self, orders: Mapping[str, tuple[Session, Order]]) -> list[Claimed]:
        places = Counter(session for session, _ in orders.values())
        for session, number in places.items():
            session.reserve(self._backend, number)
        try:
            claimed = await self._take(orders)
        finally:
            for session, number in places.items():
                session.reserve(self._backend, -number)
        # No await since the places were given back: nobody else has filled them.
        await self._deliver(claimed, orders)
        if self._storage.trouble:
            self._storage.report(None)
        self._rotate()
        return claimed

    async def _take(self, orders: Mapping[str, tuple[Session, Order]]) -> list[Claimed]:
        """Claim jobs and read their contents, as far as they fit into their sessions' messages."""
        asked = [order for _, order in orders.values()]
        try:
            claimed = await self._storage.provider.claim(self._backend, asked)
        except Uncertain:
            claimed = await self._read_back(asked)
        taken: list[Claimed] = []
        for one in claimed:
            holder = one.job.holder
            limit = orders[holder.token][0].max_content_bytes if holder else 0
            taken.append(Claimed(one.job, await self._content(one, limit)))
        return taken

    def _rotate(self) -> None:
        """Equals take turns at being first."""
        if self._sessions:
            first = next(iter(self._sessions))
            del self._sessions[first]
            self._sessions[first] = None

    async def _read_back(self, orders: Sequence[Order]) -> list[Claimed]:
        """What a claim of unknown outcome took, by its tokens."""
        tokens = {order.token for order in orders}
        claimed: list[Claimed] = []
        for session_id in {order.session for order in orders}:
            query = Query(session=session_id, states=tuple(ACTIVE_STATES), limit=1000)
            held = (await self._storage.provider.find(query)).jobs
            claimed += [Claimed(job, None) for job in held if job.holder and job.holder.token in tokens]
        return claimed

    async def _deliver(self, claimed: Sequence[Claimed], orders: Mapping[str, tuple[Session, Order]]) -> None:
        by_session: dict[Session, list[Claimed]] = {}
        for one in claimed:
            holder = one.job.holder
            if holder is not None:
                by_session.setdefault(orders[holder.token][0], []).append(one)
        unsent: list[Claimed] = []
        counters = self._storage.metrics.backend(self._backend)
        for session, jobs in by_session.items():
            # Credit that fell while the claim was under way: the jobs beyond it go back unsent.
            room = session.free(self._backend) if session in self._sessions else 0
            unsent += jobs[room:]
            if room:
                for one in jobs[:room]:
                    counters.claimed(one.job)
                session.assign(jobs[:room])
                self._storage.expect_accept(session, jobs[:room])
        if unsent:
            await self._withdraw(unsent, "the spooler left, or takes fewer jobs by now")

    async def _content(self, one: Claimed, limit: int) -> bytes | None:
        """The content, as far as it fits into a message; the spooler reads a longer one by itself."""
        if one.job.content.size > limit:
            return None
        if one.content is not None:
            return one.content
        content = bytearray()
        async for piece in read_pieces(self._storage, one.job.content, 0):
            content += piece
        return bytes(content)

    async def _withdraw(self, jobs: Sequence[Claimed], reason: str) -> None:
        holders = [(one.job, one.job.holder) for one in jobs]
        await self._storage.leases.apply(
            [Update(job.key, Withdraw(holder.token, reason), known=job) for job, holder in holders if holder]
        )
