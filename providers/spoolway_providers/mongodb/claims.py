"""The claim: look at the head of the queue, decide, compare and set; who loses takes the next.

One process asks for one claim a backend at a time, so only other processes compete. A look is one round
trip; what it finds is taken by a second.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from pymongo import ReturnDocument, UpdateOne

from spoolway_providers import rules
from spoolway_providers.errors import ProviderError, Unavailable, Uncertain
from spoolway_providers.interface import Claimed, Order
from spoolway_providers.model import Job, Policy, SessionState, State
from spoolway_providers.mongodb.changes import Write, write_of
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import JOB_FIELDS, Document, job_of, policy_of

__all__ = ["Claimer"]

_MOST_AT_ONCE = 100
"""Orders served by one look: its answer is one document, of at most 16 MiB."""


class _Look(msgspec.Struct, frozen=True):
    """The state of a backend's queue."""

    policy: Policy
    live: frozenset[str]
    """Which of the asking sessions are LIVE."""
    heads: list[Job]
    now: datetime


class Claimer:
    """Claims jobs for all sessions of this process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def claim(self, backend: str, orders: Sequence[Order]) -> list[Claimed]:
        """See the interface."""
        if not orders:
            return []
        turn = self._turns[backend]
        try:
            async with asyncio.timeout(self._connection.time_limit_s):
                await turn.acquire()
        except TimeoutError:
            raise Unavailable(f"an earlier claim of backend {backend!r} is still under way") from None
        try:
            return await self._claim(backend, orders)
        finally:
            turn.release()

    async def _claim(self, backend: str, orders: Sequence[Order]) -> list[Claimed]:
        claimed: dict[str, Claimed] = {}
        waiting = list(orders)
        while waiting:
            try:
                won, waiting = await self._round(backend, waiting[:_MOST_AT_ONCE], waiting[_MOST_AT_ONCE:])
            except Uncertain:
                raise
            except ProviderError:
                if not claimed:
                    raise
                # What was taken must not be lost with the error.
                break
            claimed |= won
        # Where others took some of the head, an early order may have a later job.
        return sorted(claimed.values(), key=lambda one: (one.job.rank, one.job.seq, one.job.key.id))

    async def _round(
        self, backend: str, orders: Sequence[Order], later: Sequence[Order]
    ) -> tuple[dict[str, Claimed], list[Order]]:
        """Take what is at the head now, by token; and the orders for which there may be more."""
        look = await self._look(backend, orders)
        live = [] if look is None else [order for order in orders if order.session in look.live]
        if look is None or not look.heads:
            return {}, []
        if not live:
            return {}, list(later)
        taken = [_take(job, order, look) for job, order in zip(look.heads, live, strict=False)]
        writes = [write_of(job, job.revision - 1, self._connection.numbers) for job in taken]
        contents = await (self._set_one(writes[0]) if len(writes) == 1 else self._set_all(writes))
        won = {
            order.token: Claimed(job, contents[write.commit])
            for order, job, write in zip(live, taken, writes, strict=False)
            if write.commit in contents
        }
        if len(won) == len(taken) and len(look.heads) < len(orders):
            return won, []
        return won, [*(order for order in live if order.token not in won), *later]

    async def _look(self, backend: str, orders: Sequence[Order]) -> _Look | None:
        """Policy, sessions and head of the queue in one round trip; None if there is nothing to be had."""
        sessions = sorted({order.session for order in orders})
        stages: list[Document] = [
            {"$match": {"_id": backend, "policy.paused": {"$ne": True}, "config_etag": {"$ne": ""}}},
            {"$project": {"policy": 1}},
            _joined("sessions", "live", {"_id": {"$in": sessions}, "state": SessionState.LIVE.value}),
            _joined(
                "jobs",
                "heads",
                {"backend": backend, "state": State.QUEUED.value, "$expr": self._may_start()},
                {"$sort": {"rank": 1, "seq": 1, "_id": 1}},
                {"$limit": len(orders)},
                {"$project": JOB_FIELDS},
            ),
            {"$set": {"now": self._connection.numbers.now()}},
        ]
        with self._connection.reading():
            found = await (await self._connection.newest("backends").aggregate(stages)).to_list()
        if not found:
            return None
        [look] = found
        return _Look(
            policy_of(look) or Policy(),
            frozenset(session["_id"] for session in look["live"]),
            [job_of(document) for document in look["heads"]],
            look["now"].astimezone(UTC),
        )

    def _may_start(self) -> Document:
        """A job whose latest start has passed is the reaper's."""
        now_us = {"$multiply": [self._connection.numbers.now_ms(), 1000]}
        return {"$gt": [{"$ifNull": ["$due", {"$add": [now_us, 1]}]}, now_us]}

    async def _set_one(self, write: Write) -> dict[str, bytes | None]:
        """Store a claim; the content by the write's number if it won."""
        jobs = self._connection["jobs"]
        try:
            with self._connection.writing():
                won = await jobs.find_one_and_update(
                    write.expected,
                    write.change,
                    projection={"content": 1},
                    return_document=ReturnDocument.AFTER,
                )
        except Uncertain as unknown:
            return await self._read_back([write], unknown)
        return {} if won is None else {write.commit: won.get("content")}

    async def _set_all(self, writes: Sequence[Write]) -> dict[str, bytes | None]:
        """Store claims; the contents of those that won, by the writes' numbers."""
        unknown: Uncertain | None = None
        updates = [UpdateOne(write.expected, write.change) for write in writes]
        try:
            with self._connection.writing():
                await self._connection["jobs"].bulk_write(updates, ordered=False)
        except Uncertain as error:
            unknown = error
        return await self._read_back(writes, unknown)

    async def _read_back(self, writes: Sequence[Write], unknown: Uncertain | None) -> dict[str, bytes | None]:
        """Which claims won. If that is unknown, those that are not there may yet come: it stays so."""
        query = {
            "_id": {"$in": [write.key.id for write in writes]},
            "commit": {"$in": [write.commit for write in writes]},
        }
        lost_answer = Uncertain("MongoDB stored claims, but does not say which")
        with self._connection.settling(unknown or lost_answer):
            found = await self._connection["jobs"].find(query, {"commit": 1, "content": 1}).to_list()
        if unknown is not None and len(found) < len(writes):
            raise unknown
        return {document["commit"]: document.get("content") for document in found}


def _joined(collection: str, name: str, match: Document, *stages: Document) -> Document:
    return {"$lookup": {"from": collection, "pipeline": [{"$match": match}, *stages], "as": name}}


def _take(job: Job, order: Order, look: _Look) -> Job:
    taken = rules.decide(job, rules.Claim(order.token, order.session, order.spooler), look.now, look.policy)
    if isinstance(taken, rules.Refusal):
        raise AssertionError(f"a queued job can always be claimed: {taken.message}")
    return taken
