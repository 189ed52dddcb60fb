"""Reading jobs: what a majority of the servers has, each document whole."""

from datetime import datetime

from spoolway_providers.errors import NotFound
from spoolway_providers.interface import Page, Query
from spoolway_providers.model import ACTIVE_STATES, Job, JobKey, SessionState, State
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import (
    JOB_FIELDS,
    Document,
    from_microseconds,
    job_of,
    label_pairs,
    to_microseconds,
)

__all__ = ["count", "cursor_after", "find", "get", "next_due", "position"]

_OPEN_SESSIONS = [SessionState.LIVE.value, SessionState.REPLACED.value]


async def get(connection: Connection, key: JobKey) -> Job:
    """The committed job."""
    with connection.reading():
        found = await connection["jobs"].find_one(
            {"_id": key.id, "backend": key.backend, "seq": {"$gt": 0}}, JOB_FIELDS
        )
    if found is None:
        raise NotFound(f"there is no {key}")
    return job_of(found)


async def find(connection: Connection, query: Query) -> Page:
    """A page of the jobs that match; one more tells whether there is another page."""
    fields = ("due", "seq", "_id") if query.due_before is not None else ("seq", "_id")
    direction = -1 if query.newest_first else 1
    stages = _stages(query, after=_after(query, fields))
    stages += [
        {"$sort": dict.fromkeys(fields, direction)},
        {"$limit": query.limit + 1},
        {"$project": JOB_FIELDS},
    ]
    with connection.reading():
        rows = await (await connection["jobs"].aggregate(stages)).to_list()
    page = rows[: query.limit]
    more = len(rows) > len(page) and page
    cursor = ":".join(str(page[-1][field]) for field in fields) if more else ""
    return Page([job_of(document) for document in page], cursor)


def cursor_after(job: Job) -> str:
    """The cursor after a job in the order of `seq`."""
    return f"{job.seq}:{job.key.id}"


def _after(query: Query, fields: tuple[str, ...]) -> Document | None:
    """What comes after the query's cursor."""
    if not query.cursor:
        return None
    *numbers, job_id = query.cursor.split(":", len(fields) - 1)
    at = [*(int(number) for number in numbers), job_id]
    beyond = "$lt" if query.newest_first else "$gt"
    alternatives = [
        {**dict(zip(fields[:n], at[:n], strict=True)), field: {beyond: at[n]}}
        for n, field in enumerate(fields)
    ]
    return {"$or": alternatives}


async def count(connection: Connection, query: Query) -> int:
    """How many match, up to the query's limit."""
    stages = [*_stages(query, after=None), {"$limit": query.limit}, {"$count": "n"}]
    with connection.reading():
        rows = await (await connection["jobs"].aggregate(stages)).to_list()
    return int(rows[0]["n"]) if rows else 0


def _stages(query: Query, *, after: Document | None) -> list[Document]:
    match = _conditions(query)
    stages: list[Document] = [{"$match": match if after is None else {"$and": [match, after]}}]
    if query.orphaned:
        stages += [
            {
                "$lookup": {
                    "from": "sessions",
                    "localField": "session",
                    "foreignField": "_id",
                    "pipeline": [{"$match": {"state": {"$in": _OPEN_SESSIONS}}}, {"$project": {"_id": 1}}],
                    "as": "holders",
                }
            },
            {"$match": {"holders": []}},
            {"$unset": "holders"},
        ]
    return stages


def _conditions(query: Query) -> Document:
    """The query in MongoDB's words: all that a user gave is compared as a value."""
    # Tombstones have no seq.
    match: Document = {"seq": {"$gt": 0}}
    if query.id is not None:
        match["_id"] = {"$eq": query.id}
    if query.backend is not None:
        match["backend"] = {"$eq": query.backend}
    if query.owner is not None:
        match["owner"] = {"$eq": query.owner}
    if query.states:
        match["state"] = {"$in": [state.value for state in query.states]}
    if query.labels:
        match["labels"] = {"$all": label_pairs(dict(query.labels))}
    if query.session is not None:
        match["session"] = {"$eq": query.session}
    elif query.orphaned:
        match["session"] = {"$gt": ""}
    elif query.states and ACTIVE_STATES.issuperset(query.states):
        # True of these states anyway: in the words of an index that holds no others.
        match["session"] = {"$exists": True}
    if query.due_before is not None:
        match["due"] = {"$lte": to_microseconds(query.due_before)}
    return match


async def position(connection: Connection, job: Job, limit: int) -> int:
    """How many come before."""
    place = [
        {"rank": {"$lt": job.rank}},
        {"rank": job.rank, "seq": {"$lt": job.seq}},
        {"rank": job.rank, "seq": job.seq, "_id": {"$lt": job.key.id}},
    ]
    query = {"backend": job.key.backend, "state": State.QUEUED.value, "$or": place}
    with connection.reading():
        return await connection["jobs"].count_documents(query, limit=limit)


async def next_due(connection: Connection) -> datetime | None:
    """The earliest due time."""
    with connection.reading():
        found = await connection["jobs"].find_one(
            {"due": {"$exists": True}}, {"due": 1}, sort=[("due", 1), ("seq", 1)]
        )
    return None if found is None else from_microseconds(int(found["due"]))
