"""Sessions: each step is one write of one document; a unique index keeps one live session a spooler."""

from pymongo import ReturnDocument

from spoolway_providers import rules
from spoolway_providers.errors import Conflict, ProviderError, SessionClosed, Unavailable, Uncertain
from spoolway_providers.interface import Attention, LeaseView, SessionView
from spoolway_providers.model import Session, SessionState
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import (
    JOB_FIELDS,
    Document,
    job_of,
    session_fields,
    session_of,
)
from spoolway_providers.mongodb.faults import is_duplicate

__all__ = ["close_session", "open_session", "renew", "sessions"]

_LIVE = SessionState.LIVE.value
_CLOSED = SessionState.CLOSED.value
_MOST_TRIES = 50
"""Sessions that one spooler opens at the same time, at most."""


async def open_session(connection: Connection, new: Session, *, predecessor_dead: bool) -> list[Session]:
    """End what it supersedes, then store it; see the interface.

    If this breaks off in between, the spooler has no live session and opens one again.
    """
    superseded: list[Session] = []
    for _ in range(_MOST_TRIES):
        try:
            # Before anything is ended, and again once it is stored: both may have happened at once.
            await _refuse_revoked(connection, new)
            await _supersede(connection, new, superseded, predecessor_dead=predecessor_dead)
            if await _insert(connection, new):
                await _leave_if_revoked(connection, new)
                return superseded
        except Unavailable as error:
            if superseded:
                raise Uncertain(f"the session before was ended, but: {error}") from error
            raise
    raise Unavailable(f"spooler {new.spooler_id} opens sessions all the time; try again")


async def _refuse_revoked(connection: Connection, new: Session) -> None:
    query = {
        "principal": new.principal,
        "spooler": new.spooler_id,
        "reason": rules.SPOOLER_REVOKED,
        "state": _CLOSED,
        "session.instance_id": new.instance_id,
    }
    with connection.reading():
        found = await connection.newest("sessions").find_one(query, {"_id": 1})
    if found is not None:
        raise SessionClosed(rules.SPOOLER_REVOKED)


async def _leave_if_revoked(connection: Connection, new: Session) -> None:
    try:
        await _refuse_revoked(connection, new)
    except SessionClosed:
        await close_session(connection, new.id, None, rules.SPOOLER_REVOKED)
        raise


async def _supersede(
    connection: Connection, new: Session, superseded: list[Session], *, predecessor_dead: bool
) -> None:
    """End the live sessions of the same spooler, and note those that were ended."""
    query = {"principal": new.principal, "spooler": new.spooler_id, "state": _LIVE}
    with connection.reading():
        found = await connection.newest("sessions").find(query).to_list()
    for document in found:
        old = session_of(document)
        changed = rules.supersede(old, new, predecessor_dead=predecessor_dead)
        if old.id != new.id and await _end(connection, old, changed):
            superseded.append(changed)


async def _end(connection: Connection, old: Session, changed: Session) -> bool:
    """Store a session that is not LIVE any more, if it is still as it was when that was decided."""
    fields: Document = {"state": changed.state.value, "reason": {"$literal": changed.reason}}
    if changed.state is SessionState.CLOSED:
        fields["closed_at"] = connection.numbers.now()
    expected = {"_id": old.id, "state": _LIVE, "detached": old.detached}
    with connection.writing():
        return bool((await connection["sessions"].update_one(expected, [{"$set": fields}])).matched_count)


async def _insert(connection: Connection, new: Session) -> bool:
    """Whether it was stored; not if another live session of the spooler came first."""
    document: Document = {"_id": new.id, **session_fields(new)}
    try:
        with connection.writing():
            await connection["sessions"].insert_one(document)
    except ProviderError as error:
        if not (isinstance(error, Uncertain) or is_duplicate(error.__cause__)):
            raise
        unknown = error if isinstance(error, Uncertain) else Uncertain(str(error))
        with connection.settling(unknown):
            found = await connection.newest("sessions").find_one({"_id": new.id})
        if found is None:
            if isinstance(error, Uncertain):
                raise
            return False
        if not isinstance(error, Uncertain):
            raise Conflict(f"there is a session {new.id!r} already", session_of(found)) from error
    return True


async def renew(connection: Connection, session_id: str, beat: int, *, detached: bool) -> Attention:
    """Record a sign of life; see the interface.

    The beat never falls: an old renewal that comes late must not look like silence.
    """
    with connection.writing():
        done = await connection["sessions"].update_one(
            {"_id": session_id, "state": _LIVE}, {"$max": {"beat": beat}, "$set": {"detached": detached}}
        )
    if not done.matched_count:
        raise SessionClosed(await _reason(connection, session_id))
    with connection.settling(Uncertain("the sign of life is recorded, but what is held can't be read")):
        query = {"session": session_id}
        found = await connection["jobs"].find(query, JOB_FIELDS).sort([("seq", 1), ("_id", 1)]).to_list()
    jobs = [job_of(document) for document in found]
    return Attention([LeaseView(job.key, job.attempts[-1].token, job.state, job.reason) for job in jobs])


async def _reason(connection: Connection, session_id: str) -> str:
    with connection.reading():
        found = await connection.newest("sessions").find_one({"_id": session_id}, {"reason": 1})
    return "SESSION_UNKNOWN" if found is None else str(found["reason"])


async def close_session(connection: Connection, session_id: str, beat: int | None, reason: str) -> bool:
    """Close a session that was silent; see the interface."""
    expected: Document = {"_id": session_id, "state": {"$ne": _CLOSED}}
    if beat is not None:
        expected["beat"] = beat
    fields = {
        "state": _CLOSED,
        "reason": {"$literal": reason},
        "closed_at": connection.numbers.now(),
    }
    with connection.writing():
        closed = await connection["sessions"].find_one_and_update(
            expected, [{"$set": fields}], projection={"_id": 1}, return_document=ReturnDocument.AFTER
        )
    return closed is not None


async def sessions(connection: Connection, *, closed: bool) -> list[SessionView]:
    """All sessions, closed ones only if asked for, and how many jobs each holds."""
    states = [_LIVE, SessionState.REPLACED.value, *([_CLOSED] if closed else [])]
    stages: list[Document] = [
        {"$match": {"state": {"$in": states}}},
        {"$sort": {"_id": 1}},
        {
            "$lookup": {
                "from": "jobs",
                "localField": "_id",
                "foreignField": "session",
                "pipeline": [{"$project": {"_id": 1}}],
                "as": "held",
            }
        },
    ]
    with connection.reading():
        found = await (await connection["sessions"].aggregate(stages)).to_list()
    return [
        SessionView(session_of(document), len(document["held"]), document.get("closed_at"))
        for document in found
    ]
