"""Sessions: each step is one small write."""

import sqlite3

import msgspec

from spoolway_providers import rules
from spoolway_providers.errors import Conflict, SessionClosed
from spoolway_providers.interface import Attention, LeaseView, SessionView
from spoolway_providers.model import Session, SessionState
from spoolway_providers.sqlite.documents import (
    SESSION_COLUMNS,
    decode_job,
    from_microseconds,
    session_of,
    to_microseconds,
    to_text,
)
from spoolway_providers.sqlite.writer import Transaction

__all__ = ["Closing", "Opening", "Renewal", "close_session", "open_session", "renew", "sessions"]


class Opening(msgspec.Struct, frozen=True):
    """A new session, and whether the one before it is known to be dead."""

    session: Session
    predecessor_dead: bool


class Renewal(msgspec.Struct, frozen=True):
    """A sign of life."""

    session_id: str
    beat: int
    detached: bool


class Closing(msgspec.Struct, frozen=True):
    """The end of a session whose beat is still `beat`."""

    session_id: str
    beat: int | None
    reason: str


def open_session(transaction: Transaction, opening: Opening) -> list[Session]:
    """Store a new session; see the interface."""
    new = opening.session
    known = _find(transaction.connection, new.id)
    if known is not None:
        raise Conflict(f"there is a session {new.id!r} already", known)
    _refuse_revoked(transaction.connection, new)
    rows = transaction.connection.execute(
        f"SELECT {SESSION_COLUMNS} FROM sessions"  # noqa: S608
        " WHERE principal = ? AND spooler_id = ? AND state = 'LIVE' ORDER BY rowid",
        (new.principal, new.spooler_id),
    ).fetchall()
    superseded = [
        rules.supersede(session_of(row), new, predecessor_dead=opening.predecessor_dead) for row in rows
    ]
    for old in superseded:
        _end(transaction, old)
    transaction.connection.execute(
        "INSERT INTO sessions(id, principal, spooler_id, state, beat, detached, reason, doc)"
        " VALUES (?, ?, ?, 'LIVE', ?, ?, '', ?)",
        (new.id, new.principal, new.spooler_id, new.beat, new.detached, to_text(new)),
    )
    return superseded


def _refuse_revoked(connection: sqlite3.Connection, new: Session) -> None:
    rows = connection.execute(
        f"SELECT {SESSION_COLUMNS} FROM sessions"  # noqa: S608
        " WHERE principal = ? AND spooler_id = ? AND reason = ?",
        (new.principal, new.spooler_id, rules.SPOOLER_REVOKED),
    )
    if any(rules.bars(session_of(row), new) for row in rows):
        raise SessionClosed(rules.SPOOLER_REVOKED)


def _find(connection: sqlite3.Connection, session_id: str) -> Session | None:
    row = connection.execute(
        f"SELECT {SESSION_COLUMNS} FROM sessions WHERE id = ?",  # noqa: S608
        (session_id,),
    ).fetchone()
    return None if row is None else session_of(row)


def _end(transaction: Transaction, session: Session) -> None:
    """Store a session that is not LIVE any more; the process that has its stream is woken."""
    transaction.next_change()
    closed_at = to_microseconds(transaction.now) if session.state is SessionState.CLOSED else None
    transaction.connection.execute(
        "UPDATE sessions SET state = ?, reason = ?, closed_at = ? WHERE id = ?",
        (session.state.value, session.reason, closed_at, session.id),
    )


def renew(transaction: Transaction, renewal: Renewal) -> Attention:
    """Record a sign of life; see the interface.

    The beat never falls: an old renewal that comes late must not look like silence.
    """
    connection = transaction.connection
    renewed = connection.execute(
        "UPDATE sessions SET beat = max(beat, ?), detached = ? WHERE id = ? AND state = 'LIVE'",
        (renewal.beat, renewal.detached, renewal.session_id),
    ).rowcount
    if not renewed:
        session = _find(connection, renewal.session_id)
        raise SessionClosed("SESSION_UNKNOWN" if session is None else session.reason)
    rows = connection.execute(
        "SELECT doc FROM jobs WHERE session = ? ORDER BY seq", (renewal.session_id,)
    ).fetchall()
    jobs = [decode_job(row[0]) for row in rows]
    return Attention([LeaseView(job.key, job.attempts[-1].token, job.state, job.reason) for job in jobs])


def close_session(transaction: Transaction, closing: Closing) -> bool:
    """Close a session that was silent; see the interface."""
    closed = transaction.connection.execute(
        "UPDATE sessions SET state = 'CLOSED', reason = ?1, closed_at = ?2"
        " WHERE id = ?3 AND state <> 'CLOSED' AND (?4 IS NULL OR beat = ?4)",
        (closing.reason, to_microseconds(transaction.now), closing.session_id, closing.beat),
    ).rowcount
    if closed:
        transaction.next_change()
    return closed == 1


def sessions(connection: sqlite3.Connection, closed: bool) -> list[SessionView]:
    """All sessions, closed ones only if asked for, and how many jobs each holds."""
    which = "" if closed else " WHERE state <> 'CLOSED'"
    rows = connection.execute(
        "SELECT (SELECT count(*) FROM jobs WHERE jobs.session = sessions.id), closed_at,"  # noqa: S608
        f" {SESSION_COLUMNS} FROM sessions{which} ORDER BY rowid"
    ).fetchall()
    return [
        SessionView(session_of(row), leases, None if at is None else from_microseconds(at))
        for leases, at, *row in rows
    ]
