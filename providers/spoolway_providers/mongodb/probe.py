"""Trying step by step whether a database does all that is needed of it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import perf_counter
from typing import Any

from spoolway_providers.errors import Conflict, NotFound, ProviderError, Unavailable
from spoolway_providers.interface import Step
from spoolway_providers.model import new_token
from spoolway_providers.mongodb.connection import Connection

__all__ = ["probe"]

Try = tuple[str, Callable[[], Awaitable[Any]], str]

_HEARD_S = 5.0
"""How soon a change must come."""
_RIGHTS = "the database user needs the role readWrite on the database"


async def probe(connection: Connection) -> list[Step]:
    """Connect, write, read back, race, watch and remove; see the interface."""
    tried = _Probe(connection)
    tries: list[Try] = [
        ("login", tried.log_in, "check host, user name, password, and who may connect"),
        ("write", tried.write, _RIGHTS),
        ("read_back", tried.read_back, "is the storage a single server of a replica set?"),
        ("list", tried.list, "is the storage a single server of a replica set?"),
        ("conditional_write_race", tried.race, "is this a real MongoDB?"),
        ("claim_race", tried.race_to_claim, "is this a real MongoDB?"),
        ("server_time", tried.date, "Spoolway needs MongoDB 5.0 or newer"),
        ("wake_up", tried.wake_up, f"without change streams all works, but waits longer; {_RIGHTS}"),
        ("delete", tried.remove, _RIGHTS),
    ]
    steps: list[Step] = []
    for name, attempt, advice in tries:
        steps.append(await _try(name, attempt, advice))
        if not steps[-1].ok:
            break
    return steps


async def _try(name: str, attempt: Callable[[], Awaitable[Any]], advice: str) -> Step:
    started_at = perf_counter()
    try:
        await attempt()
    except ProviderError as error:
        return Step(name, ok=False, elapsed=_since(started_at), advice=f"{error}; {advice}")
    return Step(name, ok=True, elapsed=_since(started_at))


def _since(started_at: float) -> timedelta:
    return timedelta(seconds=perf_counter() - started_at)


class _Probe:
    """One document of its own, in a collection of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._id = new_token()

    async def log_in(self) -> None:
        with self._connection.reading():
            await self._connection.database.command("ping")

    async def write(self) -> None:
        with self._connection.writing():
            await self._connection["probes"].insert_one({"_id": self._id, "rev": 1})

    async def read_back(self) -> None:
        with self._connection.reading():
            if await self._connection["probes"].find_one({"_id": self._id}) is None:
                raise NotFound("what was written is not there")

    async def list(self) -> None:
        with self._connection.reading():
            found = await self._connection["probes"].find({"_id": self._id}).sort("rev").to_list()
        if len(found) != 1:
            raise NotFound("what was written is not listed")

    async def race(self) -> None:
        winners = sum(await asyncio.gather(self._move(), self._move()))
        if winners != 1:
            raise Conflict(f"of two conditional writes {winners} won")

    async def _move(self) -> int:
        with self._connection.writing():
            done = await self._connection["probes"].update_one(
                {"_id": self._id, "rev": 1}, {"$set": {"rev": 2}}
            )
        return done.matched_count

    async def race_to_claim(self) -> None:
        winners = sum(await asyncio.gather(*(self._claim(rival) for rival in range(4))))
        if winners != 1:
            raise Conflict(f"of four claims {winners} won")

    async def _claim(self, rival: int) -> bool:
        """As jobs are claimed: the first that is free, by one find-and-modify."""
        free = {"_id": self._id, "holder": {"$exists": False}}
        with self._connection.writing():
            won = await self._connection["probes"].find_one_and_update(
                free, [{"$set": {"holder": rival}}], sort=[("rev", 1), ("_id", 1)]
            )
        return won is not None

    async def date(self) -> None:
        change = [{"$set": {"change": self._connection.numbers.number(1), "at": "$$NOW"}}]
        with self._connection.writing():
            await self._connection["probes"].update_one({"_id": self._id}, change)

    async def wake_up(self) -> None:
        """See a change of our own come; a lone server has no streams, and needs none."""
        if not self._connection.has_streams:
            return
        ours = [{"$match": {"documentKey._id": self._id}}]
        with self._connection.reading():
            async with await self._connection["probes"].watch(ours, max_await_time_ms=1_000) as stream:
                await self._connection["probes"].update_one({"_id": self._id}, {"$inc": {"rev": 1}})
                give_up_at = perf_counter() + _HEARD_S
                while await stream.try_next() is None:
                    if perf_counter() > give_up_at:
                        raise Unavailable("the change stream did not tell of a change")

    async def remove(self) -> None:
        with self._connection.writing():
            await self._connection["probes"].delete_one({"_id": self._id})
