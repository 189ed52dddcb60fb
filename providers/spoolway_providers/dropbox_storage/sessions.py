"""Spoolers' sessions: in the owner's memory, and gone with it."""

from collections.abc import Callable
from datetime import datetime

from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.errors import Conflict, SessionClosed
from spoolway_providers.model import Session, SessionState

__all__ = ["Sessions"]


class Sessions:
    """All sessions of one time in office, and the names of those of the one before."""

    def __init__(self, clock: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._sessions: dict[str, Session] = {}
        self._closed_at: dict[str, datetime] = {}
        self._pardoned: set[str] = set()
        self._amnesty_ends_at = float("-inf")

    def pardon(self, until: float) -> None:
        """Count no session of the owner before as lost until then: its spooler may be on its way here."""
        self._amnesty_ends_at = until

    def remember_former(self, session_id: str) -> None:
        """A session of the owner before holds something."""
        if session_id not in self._sessions:
            self._pardoned.add(session_id)

    def is_live(self, session_id: str) -> bool:
        """Whether it may claim and renew."""
        session = self._sessions.get(session_id)
        return session is not None and session.state is SessionState.LIVE

    def is_gone(self, session_id: str) -> bool:
        """Whether what it holds is orphaned."""
        session = self._sessions.get(session_id)
        if session is not None:
            return session.state is SessionState.CLOSED
        return session_id not in self._pardoned or self._monotonic() >= self._amnesty_ends_at

    def open(self, session: Session, *, predecessor_dead: bool) -> list[Session]:
        """See the interface."""
        if session.id in self._sessions:
            raise Conflict(f"there is a session {session.id!r} already", self._sessions[session.id])
        if any(rules.bars(old, session) for old in self._sessions.values()):
            raise SessionClosed(rules.SPOOLER_REVOKED)
        superseded = [
            rules.supersede(old, session, predecessor_dead=predecessor_dead)
            for old in self._sessions.values()
            if old.state is SessionState.LIVE
            and (old.principal, old.spooler_id) == (session.principal, session.spooler_id)
        ]
        for changed in (*superseded, session):
            self._put(changed)
        return superseded

    def renew(self, session_id: str, beat: int, *, detached: bool) -> None:
        """See the interface."""
        session = self._sessions.get(session_id)
        if session is None:
            raise SessionClosed("SESSION_UNKNOWN")
        if session.state is not SessionState.LIVE:
            raise SessionClosed(session.reason)
        self._put(replace(session, beat=max(beat, session.beat), detached=detached))

    def close(self, session_id: str, beat: int | None, reason: str) -> bool:
        """See the interface."""
        session = self._sessions.get(session_id)
        if session is None or session.state is SessionState.CLOSED:
            return False
        if beat is not None and beat != session.beat:
            return False
        self._put(replace(session, state=SessionState.CLOSED, reason=reason))
        return True

    def all(self, *, closed: bool) -> list[tuple[Session, datetime | None]]:
        """All sessions, closed ones only if asked for, and when they were closed."""
        return [
            (one, self._closed_at.get(one.id))
            for one in self._sessions.values()
            if closed or one.state is not SessionState.CLOSED
        ]

    def sweep(self, before: datetime) -> None:
        """Forget those that were closed before a time."""
        for session_id in [one for one, at in self._closed_at.items() if at < before]:
            del self._sessions[session_id], self._closed_at[session_id]

    def _put(self, session: Session) -> None:
        self._sessions[session.id] = session
        if session.state is SessionState.CLOSED:
            self._closed_at[session.id] = self._clock()
