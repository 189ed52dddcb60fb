"""The rounds of backends on which owners take turns: a counter an owner, moved before the jobs are stored.

A submit that then fails has only passed a round over.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

from bson.int64 import Int64
from pymongo import ReturnDocument

from spoolway_providers.model import Draft, State
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import Document

__all__ = ["take_turns"]


class _Entry(Protocol):
    draft: Draft
    turn: int | None


async def take_turns(connection: Connection, entries: Sequence[_Entry]) -> None:
    """Give each of the drafts its round, in their order; `rules.next_round` for many at once."""
    queues: dict[str, dict[str, list[_Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        queues[entry.draft.backend][entry.draft.owner].append(entry)
    for backend, owners in queues.items():
        serving = await _serving(connection, backend)
        for owner, mine in owners.items():
            last = await _move(connection, backend, owner, serving, len(mine))
            # In an empty queue the first of these is the head.
            serving = last - len(mine) + 1 if serving is None else serving
            for place, entry in enumerate(mine):
                entry.turn = last - len(mine) + 1 + place


async def _serving(connection: Connection, backend: str) -> int | None:
    """The round being served; None if there was none yet."""
    with connection.reading():
        queue = connection.newest("jobs").find({"backend": backend, "state": State.QUEUED.value}, {"rank": 1})
        heads = await queue.sort([("rank", 1)]).limit(1).to_list()
        if heads:
            return int(heads[0]["rank"])
        rounds = connection.newest("rounds").find({"backend": backend}, {"round": 1})
        newest = await rounds.sort([("round", -1)]).limit(1).to_list()
    return int(newest[0]["round"]) if newest else None


async def _move(connection: Connection, backend: str, owner: str, serving: int | None, count: int) -> int:
    """Move an owner's counter by `count` rounds, at least to those from `serving` on; the last of them."""
    first = connection.numbers.now_ms() if serving is None else {"$literal": Int64(serving)}
    # Of an owner without a round yet the second is null, which is less than any number.
    last = {"$max": [{"$add": [first, count - 1]}, {"$add": ["$round", count]}]}
    change: Document = {"backend": {"$literal": backend}, "round": last}
    with connection.writing():
        found: Any = await connection["rounds"].find_one_and_update(
            {"_id": f"{backend}/{owner}"},
            [{"$set": change}],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
    return int(found["round"])
