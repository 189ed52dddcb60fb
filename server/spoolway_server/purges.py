"""Purging a backend: what has ended goes, in steps that are bounded whatever the size of the queue."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import grpc
import msgspec
import structlog

from spoolway_providers.errors import Conflict, NotFound
from spoolway_providers.interface import Query
from spoolway_providers.model import TERMINAL_STATES, Job, State
from spoolway_providers.rules import Cancel
from spoolway_server.errors import ServiceError
from spoolway_server.leases import Update
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.tokens import bad_token, decode_token, encode_token

__all__ = ["Purges", "Step"]

_log = structlog.get_logger(__name__)

STEP_S = 3.0
"""A step takes no further page after so long; a page is some hundred milliseconds, also on a slow storage."""
PAGE = 100
CANCELLING, DELETING = "cancelling", "deleting"
_STATES = {CANCELLING: (State.QUEUED, State.HELD), DELETING: tuple(TERMINAL_STATES)}


class Step(msgspec.Struct):
    """What one step did, and how to go on."""

    deleted: int = 0
    cancelled: int = 0
    next_page_token: str = ""


class _Place(msgspec.Struct):
    """How far a purge has come."""

    phase: str
    before: datetime
    cursor: str = ""


class Purges:
    """Purges backends step by step; who asks holds the place, so that any server can take the next step."""

    def __init__(self, storages: Storages) -> None:
        """Work on `storages`."""
        self._storages = storages

    async def step(
        self, name: str, by: str, *, before: datetime | None, cancel_queued: bool, page_token: str
    ) -> Step:
        """Cancel what waits, if asked to, then delete what ended before the first step, for some seconds."""
        storage, backend = await self._storages.find_backend(name, field="name")
        storage.require_usable()
        name = backend.name
        asked = {
            "purge": name,
            "asked": before.isoformat() if before else "",
            "cancel": str(cancel_queued),
        }
        place = _place(asked, page_token) or _first_place(storage, before, cancel_queued=cancel_queued)
        step = Step()
        ends_at = asyncio.get_running_loop().time() + STEP_S
        with storage.noting_trouble():
            while True:
                going_on = await self._take_page(storage, name, by, place, step)
                if not going_on or asyncio.get_running_loop().time() >= ends_at:
                    break
        _log.info("backend purged", backend=name, by=by, deleted=step.deleted, cancelled=step.cancelled)
        if going_on:
            here = {"phase": place.phase, "before": place.before.isoformat(), "cursor": place.cursor}
            step.next_page_token = encode_token(asked | here)
        return step

    @staticmethod
    async def _take_page(storage: Storage, name: str, by: str, place: _Place, step: Step) -> bool:
        """Work through one page; whether there is more."""
        query = Query(backend=name, states=_STATES[place.phase], limit=PAGE, cursor=place.cursor)
        page = await storage.provider.find(query)
        # It began with what was there: under traffic it comes to an end all the same.
        due = [job for job in page.jobs if _began(job, place.phase) < place.before]
        if place.phase == CANCELLING:
            step.cancelled += await _cancel(storage, due, by)
        else:
            step.deleted += await _delete(storage, due)
        place.cursor = page.cursor
        if not page.cursor and place.phase == CANCELLING:
            place.phase = DELETING
            return True
        return bool(page.cursor)


def _began(job: Job, phase: str) -> datetime:
    return job.created_at if phase == CANCELLING else job.updated_at


async def _cancel(storage: Storage, jobs: Sequence[Job], by: str) -> int:
    outcomes = await storage.leases.apply([Update(job.key, Cancel(by), known=job) for job in jobs])
    for outcome in outcomes:
        if isinstance(outcome, ServiceError) and outcome.code is grpc.StatusCode.UNAVAILABLE:
            raise outcome
    return sum(isinstance(outcome, Job) and outcome.state is State.CANCELLED for outcome in outcomes)


async def _delete(storage: Storage, jobs: Sequence[Job]) -> int:
    outcomes = await asyncio.gather(
        *(storage.provider.delete(job.key, job.revision) for job in jobs), return_exceptions=True
    )
    for outcome in outcomes:
        # Retried or deleted by somebody meanwhile: not ours any more.
        if isinstance(outcome, BaseException) and not isinstance(outcome, Conflict | NotFound):
            raise outcome
    return sum(outcome is None for outcome in outcomes)


def _first_place(storage: Storage, before: datetime | None, *, cancel_queued: bool) -> _Place:
    now = storage.clock.now()
    if before is not None and before > now:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "TIME_INVALID",
            "end_time_before lies in the future; leave it out to purge all that has ended",
            field="end_time_before",
        )
    return _Place(CANCELLING if cancel_queued else DELETING, before or now)


def _place(asked: dict[str, str], page_token: str) -> _Place | None:
    """Where the step before ended; None: there was none."""
    if not page_token:
        return None
    token = decode_token(page_token, "page_token")
    if not token.items() >= asked.items() or token.keys() != {*asked, "phase", "before", "cursor"}:
        raise bad_token("page_token", "it goes with the same backend and options only")
    try:
        return _Place(_known(token["phase"]), datetime.fromisoformat(token["before"]), token["cursor"])
    except ValueError as error:
        raise bad_token("page_token", "it is not one of this call's") from error


def _known(phase: str) -> str:
    if phase not in _STATES:
        raise ValueError(phase)
    return phase
