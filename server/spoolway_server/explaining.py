"""Why a job stands where it stands, above all why it does not run; each reason with advice."""

from datetime import datetime
from enum import StrEnum

import msgspec

from spoolway_providers.interface import SessionView
from spoolway_providers.model import ACTIVE_STATES, Job, Reason, SessionState, State
from spoolway_server.storage import Storage

__all__ = ["POSITION_LIMIT", "Cause", "Explanation", "explain"]

POSITION_LIMIT = 1001
"""Queue positions are exact below it; it says "over 1,000"."""


class Cause(StrEnum):
    """What keeps a job where it is; the contract's words."""

    NO_SPOOLER = "NO_SPOOLER"
    NO_CREDIT = "NO_CREDIT"
    BACKEND_PAUSED = "BACKEND_PAUSED"
    STORAGE_INACTIVE = "STORAGE_INACTIVE"
    BEHIND_OTHERS = "BEHIND_OTHERS"
    NEXT = "NEXT"
    DELAYED = "DELAYED"
    HELD_BY_OPERATOR = "HELD_BY_OPERATOR"
    IMPORTED = "IMPORTED"
    SPOOLER_LOST = "SPOOLER_LOST"
    FOREIGN = "FOREIGN"
    IN_HAND = "IN_HAND"
    ENDED = "ENDED"


class Explanation(msgspec.Struct, frozen=True):
    """One reason."""

    cause: Cause
    message: str
    advice: str = ""
    until: datetime | None = None
    jobs_before: int = 0


_HELD = {
    Reason.DELAYED: (
        Cause.DELAYED,
        "it waits for its time: its not_before, or the delay before its next attempt",
        "",
    ),
    Reason.OPERATOR: (Cause.HELD_BY_OPERATOR, "an operator holds it", "ask the operator to resume it"),
    Reason.IMPORTED: (
        Cause.IMPORTED,
        "it was found running when its storage was imported, and nobody knows where",
        "the operator makes sure that nothing runs it, then resumes or fails it",
    ),
    Reason.SPOOLER_LOST: (
        Cause.SPOOLER_LOST,
        "the spooler that ran it is lost, and it may not run again by itself",
        "bring the spooler back: it may still deliver; or the operator resumes or fails the job",
    ),
}


async def explain(storage: Storage, job: Job) -> list[Explanation]:
    """Why `job` stands where it stands, the most important reason first; at least one."""
    if job.state is State.QUEUED:
        return await _waiting(storage, job)
    if job.state is State.HELD:
        cause, message, advice = _HELD[job.reason]
        return [Explanation(cause, message, advice, until=job.due_at)]
    if job.state in ACTIVE_STATES:
        return [_in_hand(job)]
    return [_ended(job)]


async def _waiting(storage: Storage, job: Job) -> list[Explanation]:
    found: list[Explanation] = []
    backend = job.key.backend
    # The pause may be another server's doing: see that what is known of the backend is fresh.
    await storage.backend(backend)
    if not storage.active:
        message = f"storage {storage.name} is inactive: it hands out no jobs"
        found.append(Explanation(Cause.STORAGE_INACTIVE, message, "ask the operator to activate it"))
    if storage.policy(backend).paused:
        message = f"backend {backend} is paused by an operator"
        found.append(Explanation(Cause.BACKEND_PAUSED, message, "ask the operator to resume the backend"))
    spoolers = [
        view
        for view in await storage.provider.sessions()
        if view.session.state is SessionState.LIVE
        and not view.session.detached
        and backend in view.session.backends
    ]
    before = await storage.provider.position(job, POSITION_LIMIT)
    if not spoolers:
        message = f"no spooler of backend {backend} is connected"
        found.append(
            Explanation(Cause.NO_SPOOLER, message, "start the spooler, or ask whoever looks after it")
        )
    elif _are_full(storage, backend, spoolers):
        found.append(_no_credit(spoolers))
    if before:
        number = f"{before} jobs come" if before < POSITION_LIMIT else "over 1,000 jobs come"
        message = f"{'1 job comes' if before == 1 else number} first"
        found.append(Explanation(Cause.BEHIND_OTHERS, message, jobs_before=before))
    return found or [Explanation(Cause.NEXT, "nothing is in its way: it is handed out in a moment")]


def _are_full(storage: Storage, backend: str, spoolers: list[SessionView]) -> bool:
    """Whether no spooler takes a further job now, as far as this server can tell.

    The credit of a spooler is known to the server that it is connected to. Of the others' it is known how
    many jobs they hold: one that holds none is taken for free.
    """
    if storage.dispatcher(backend).waiting_places:
        return False
    mine = storage.leases.sessions
    return all(view.leases or view.session.id in mine for view in spoolers)


def _no_credit(spoolers: list[SessionView]) -> Explanation:
    held = sum(view.leases for view in spoolers)
    names = ", ".join(sorted({view.session.spooler_id for view in spoolers})[:10])
    if held:
        message = f"all spoolers are busy ({names}): {held} in hand"
        return Explanation(Cause.NO_CREDIT, message, "wait, or connect another spooler")
    message = f"the spoolers take no job now ({names})"
    return Explanation(
        Cause.NO_CREDIT, message, "look at the spooler: it has paused itself, or is about to stop"
    )


def _in_hand(job: Job) -> Explanation:
    holder = job.holder
    if holder is None:
        message = "a program that is not a spooler of ours has taken it, and may be running it"
        advice = "wait for its result; if that program is gone the operator resumes or fails the job"
        return Explanation(Cause.FOREIGN, message, advice, until=job.due_at)
    doing = {
        State.CLAIMED: "has been handed it, and is about to start it",
        State.RUNNING: "runs it" + (f": {job.stage}" if job.stage else ""),
        State.CANCELLING: "has been asked to stop it",
    }[job.state]
    return Explanation(Cause.IN_HAND, f"spooler {holder.spooler} {doing}", until=job.due_at)


def _ended(job: Job) -> Explanation:
    why = f": {job.error.message}" if job.error else ""
    advice = "" if job.state is State.DONE else "run it anew with RetryJob, or submit another"
    return Explanation(Cause.ENDED, f"it ended {job.state}{why[:1000]}", advice)
