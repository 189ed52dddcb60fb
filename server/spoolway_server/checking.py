"""Looking through a storage: whether each job has what it must have, and on request mending it."""

import hashlib
from collections.abc import AsyncGenerator
from datetime import timedelta

import msgspec

from spoolway_providers.errors import NotFound
from spoolway_providers.interface import Query
from spoolway_providers.model import ACTIVE_STATES, BlobRef, Job, Reason, State
from spoolway_providers.rules import Spoiled
from spoolway_server.leases import Update
from spoolway_server.storage import COUNT_LIMIT, Storage

__all__ = ["CheckStep", "Trouble", "check"]

PAGE = 200
REPAIR_LIMIT = 1000
MOST_REPAIRS = 50
PIECE_BYTES = 1 << 20
OVERDUE = timedelta(minutes=10)
"""What is due for so long has been forgotten by somebody."""


class Trouble(msgspec.Struct, frozen=True):
    """Something that is not as it must be."""

    kind: str
    subject: str
    message: str
    repaired: bool = False


class CheckStep(msgspec.Struct, frozen=True):
    """What was found since the step before, and how far the check is."""

    findings: list[Trouble]
    checked: int
    total: int


async def check(storage: Storage, *, repair: bool, checksums: bool) -> AsyncGenerator[CheckStep, None]:
    """Go through all jobs; what the storage itself can mend comes first, if it is asked for."""
    storage.require_usable()
    with storage.noting_trouble():
        total = await storage.provider.count(Query(limit=COUNT_LIMIT))
        if repair:
            yield CheckStep(await _repair(storage), 0, total)
        strays = await storage.provider.inspect(repair=repair)
        yield CheckStep([Trouble(one.kind, one.subject, one.action, repair) for one in strays], 0, total)
        looker = _Looker(storage, frozenset(await storage.backends(fresh=True)), checksums=checksums)
        checked, cursor = 0, ""
        while True:
            page = await storage.provider.find(Query(limit=PAGE, cursor=cursor))
            findings = [trouble for job in page.jobs for trouble in await looker.look(job)]
            if repair:
                findings = [await _mend(storage, one) for one in findings]
            checked += len(page.jobs)
            yield CheckStep([one.trouble for one in findings], checked, max(total, checked))
            cursor = page.cursor
            if not cursor:
                return


class _Found(msgspec.Struct, frozen=True):
    """A trouble of a job, which may be mended."""

    job: Job
    trouble: Trouble


async def _repair(storage: Storage) -> list[Trouble]:
    """What the storage mends by itself."""
    mended: list[Trouble] = []
    for _ in range(MOST_REPAIRS):
        found = await storage.provider.repair(REPAIR_LIMIT)
        mended += [Trouble(one.kind, one.subject, one.action, repaired=True) for one in found]
        if len(found) < REPAIR_LIMIT:
            break
    return mended


class _Looker:
    """Looks at jobs one by one."""

    def __init__(self, storage: Storage, backends: frozenset[str], *, checksums: bool) -> None:
        self._storage = storage
        self._backends = backends
        self._checksums = checksums
        self._homes: dict[str, str] = {}
        """The backend of each id seen so far."""

    async def look(self, job: Job) -> list[_Found]:
        troubles = self._of_document(job)
        missing = await self._missing(job.content)
        if missing:
            troubles.append(("content_lost", f"its content {missing}; it can't run: cancel or delete it"))
        if job.result is not None and (missing := await self._missing(job.result)):
            troubles.append(
                ("result_lost", f"its result {missing}; take it from a backup, or submit it again")
            )
        return [_Found(job, Trouble(kind, str(job.key), message)) for kind, message in troubles]

    def _of_document(self, job: Job) -> list[tuple[str, str]]:
        troubles = []
        if job.key.backend not in self._backends:
            troubles.append(("backend_missing", "its backend is not there; register it, or delete the job"))
        elsewhere = self._homes.setdefault(job.key.id, job.key.backend)
        if elsewhere != job.key.backend:
            message = f"backend {elsewhere} has a job of the same id; delete the one that is wrong"
            troubles.append(("job_twice", message))
        if job.state is State.DONE and job.result is None:
            troubles.append(("result_missing", "it is DONE and has no result; submit it again"))
        is_held = job.holder is not None or job.reason is Reason.FOREIGN
        if is_held is not (job.state in ACTIVE_STATES):
            message = f"it is {job.state}, and its newest attempt says something else; submit it again"
            troubles.append(("lease_wrong", message))
        if job.due_at is not None and self._storage.clock.now() - job.due_at > OVERDUE:
            message = (
                f"what was due at {job.due_at:%Y-%m-%d %H:%M:%S} UTC was not done; is a server at work on it?"
            )
            troubles.append(("overdue", message))
        return troubles

    async def _missing(self, ref: BlobRef) -> str:
        """What is wrong with a blob; empty: nothing."""
        read = self._storage.provider.read_blob
        try:
            if not self._checksums:
                last = max(ref.size - 1, 0)
                found = await read(ref, last, 2)
                return "" if len(found) == min(ref.size, 1) else "has another length"
            digest, offset = hashlib.sha256(), 0
            while piece := await read(ref, offset, PIECE_BYTES):
                digest.update(piece)
                offset += len(piece)
        except NotFound:
            return "is gone"
        return "" if digest.hexdigest() == ref.sha256 else "is not what was stored"


async def _mend(storage: Storage, found: _Found) -> _Found:
    """End a job that can't run any more as its content is gone; nothing else can be mended here."""
    if found.trouble.kind != "content_lost" or found.job.state not in {State.QUEUED, State.HELD}:
        return found
    event = Spoiled("CONTENT_LOST", "its content is gone or was changed in the storage")
    [outcome] = await storage.leases.apply([Update(found.job.key, event, known=found.job)])
    if not isinstance(outcome, Job):
        return found
    message = "its content is gone or was changed: it has ended in ERROR"
    return msgspec.structs.replace(
        found, trouble=msgspec.structs.replace(found.trouble, message=message, repaired=True)
    )
