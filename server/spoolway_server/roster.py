"""Who spools: the sessions of all servers as operators see them, and how one is ended for good."""

from datetime import datetime, timedelta

import grpc
import msgspec
import structlog

from spoolway_providers.errors import ProviderError
from spoolway_providers.interface import SessionView
from spoolway_providers.model import Session as StoredSession
from spoolway_providers.model import SessionState
from spoolway_providers.rules import SPOOLER_REVOKED
from spoolway_server.errors import ServiceError
from spoolway_server.sessions import Session
from spoolway_server.spoolers import Spoolers
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages

__all__ = ["Listed", "Roster"]

_log = structlog.get_logger(__name__)

MAX_LOOKS = 5
"""An instance that is being revoked may open one more session meanwhile: it is looked for again."""


class Listed(msgspec.Struct):
    """One session, put together from all its storages."""

    session: StoredSession
    storages: list[str]
    leases: int
    closed_at: datetime | None
    last_beat_at: datetime | None
    here: Session | None
    """Its stream, if that ends in this process."""

    @property
    def place(self) -> tuple[str, str]:
        """Its place in the list."""
        return self.session.spooler_id, self.session.id


class Roster:
    """The spoolers' sessions of all storages."""

    def __init__(self, storages: Storages, spoolers: Spoolers) -> None:
        """Look into `storages`; `spoolers` are those of this process."""
        self._storages = storages
        self._spoolers = spoolers

    async def list_all(self, *, closed: bool) -> tuple[list[Listed], list[str]]:
        """All sessions by spooler_id, and the names of storages that did not answer."""
        found: dict[str, Listed] = {}
        unreachable: list[str] = []
        # A copy: storages come and go meanwhile.
        for storage in sorted(self._storages.by_name.values(), key=lambda storage: storage.name):
            try:
                views = await _views(storage, closed=closed)
            except (ServiceError, ProviderError):
                unreachable.append(storage.name)
                continue
            for view in views:
                self._note(found, storage, view)
        return sorted(found.values(), key=lambda listed: listed.place), unreachable

    def _note(self, found: dict[str, Listed], storage: Storage, view: SessionView) -> None:
        known = found.get(view.session.id)
        if known is None:
            here = self._spoolers.sessions.get(view.session.id)
            beat_at = _last_beat_at(storage, view, here)
            found[view.session.id] = Listed(
                view.session, [storage.name], view.leases, view.closed_at, beat_at, here
            )
            return
        known.storages.append(storage.name)
        known.leases += view.leases
        if view.session.state is not SessionState.LIVE and known.session.state is SessionState.LIVE:
            # Ended in one storage, it is about to end in the others.
            known.session, known.closed_at = view.session, view.closed_at

    async def revoke(self, session_id: str, by: str) -> tuple[Listed, int]:
        """End an instance for good.

        Returns:
            The session that was named as it is then, and how many jobs were taken back.
        """
        named = (await self._find(session_id)).session
        is_revoked, taken_back = named.reason == SPOOLER_REVOKED, 0
        for _ in range(MAX_LOOKS):
            listed, unreachable = await self.list_all(closed=False)
            theirs = [one for one in listed if _is_same_instance(one.session, named)]
            for one in theirs:
                taken_back += await self._end(one)
                is_revoked = True
            if not theirs:
                break
        for here in list(self._spoolers.sessions.values()):
            if is_revoked and _is_same_instance(here, named):
                here.end(SPOOLER_REVOKED)
        if unreachable:
            raise _unreachable("the rest is done; repeat it once", unreachable)
        if not is_revoked:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "SESSION_CLOSED",
                f"the session is over already ({named.reason}), and its instance has no other: there is "
                "nothing to revoke",
                field="session",
            )
        _log.warning("spooler revoked", session=session_id, spooler=named.spooler_id, by=by, jobs=taken_back)
        return await self._find(session_id), taken_back

    async def _find(self, session_id: str) -> Listed:
        listed, unreachable = await self.list_all(closed=True)
        found = next((one for one in listed if one.session.id == session_id), None)
        if found is not None:
            return found
        if unreachable:
            raise _unreachable("it may hold this session; try again once", unreachable)
        raise ServiceError(
            grpc.StatusCode.NOT_FOUND,
            "SPOOLER_NOT_FOUND",
            f"there is no session {session_id}; ListSpoolers tells which there are",
            field="session",
        )

    async def _end(self, listed: Listed) -> int:
        closed = msgspec.structs.replace(listed.session, state=SessionState.CLOSED, reason=SPOOLER_REVOKED)
        taken_back = 0
        for name in listed.storages:
            storage = self._storages.get(name)
            with storage.noting_trouble():
                await storage.provider.close_session(closed.id, None, SPOOLER_REVOKED)
                # It is no job's fault: what was not accepted goes back unharmed.
                taken_back += await self._spoolers.take_back(storage, closed, never_reached=True)
        return taken_back


async def _views(storage: Storage, *, closed: bool) -> list[SessionView]:
    storage.require_usable()
    with storage.noting_trouble():
        views = await storage.provider.sessions(closed=closed)
        # Without a principal: the janitor's.
        return [view for view in views if view.session.principal]


def _last_beat_at(storage: Storage, view: SessionView, here: Session | None) -> datetime | None:
    if view.session.state is SessionState.CLOSED:
        return None
    seen_at = here.heard_at if here else storage.reaper.session_seen_at(view.session.id)
    if seen_at is None:
        return view.session.opened_at
    silence = timedelta(seconds=storage.clock.monotonic() - seen_at)
    return max(storage.clock.now() - silence, view.session.opened_at)


def _is_same_instance(one: StoredSession | Session, other: StoredSession) -> bool:
    mine = (one.principal, one.spooler_id, one.instance_id)
    return mine == (other.principal, other.spooler_id, other.instance_id)


def _unreachable(advice: str, storages: list[str]) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "STORAGE_UNAVAILABLE",
        f"storage {', '.join(storages)} does not answer: {advice} it does",
        metadata={"storage": storages[0]},
    )
