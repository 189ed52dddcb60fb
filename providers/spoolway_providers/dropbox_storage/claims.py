"""Claims: the first files of the queue move to the running ones, and then their statuses name who has them.

The move keeps spoolers of today's systems off; the status, by its rev, is the commit. A job that lies
among the running ones with a status that says QUEUED was given to nobody, and returns.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from spoolway_providers import rules
from spoolway_providers.dropbox_storage.blobs import read_whole
from spoolway_providers.dropbox_storage.commits import write_status
from spoolway_providers.dropbox_storage.entries import Entry, QueuePlace
from spoolway_providers.dropbox_storage.names import Place
from spoolway_providers.dropbox_storage.placing import bring, spoil
from spoolway_providers.dropbox_storage.reading import Reader
from spoolway_providers.dropbox_storage.submits import trouble_of
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.errors import Corrupt, NotFound, ProviderError, Uncertain
from spoolway_providers.interface import Claimed, Order
from spoolway_providers.model import Job, State

__all__ = ["claim"]


class _Ready(msgspec.Struct, frozen=True):
    """A job whose file lies among the running ones; its entry is locked."""

    entry: Entry
    content: bytes | None


async def claim(tenure: Tenure, reader: Reader, backend: str, orders: Sequence[Order]) -> list[Claimed]:
    """Take the first jobs; see the interface."""
    tenure.ownership.check()
    wanted = [order for order in orders if tenure.sessions.is_live(order.session)]
    claimed: list[Claimed] = []
    while wanted and not tenure.policy(backend).paused and tenure.is_registered(backend):
        heads = tenure.index.reserve_heads(backend, len(wanted), tenure.clock())
        if not heads:
            break
        outcomes = await asyncio.gather(*(_make_ready(tenure, reader, *head) for head in heads))
        wanted = [order for order in wanted if tenure.sessions.is_live(order.session)]
        ready = [outcome for outcome in outcomes if isinstance(outcome, _Ready)]
        given, wanted = wanted[: len(ready)], wanted[len(ready) :]
        for one in ready[len(given) :]:
            _let_go(tenure, one.entry)
        answers = await asyncio.gather(
            *(_give(tenure, reader, *pair) for pair in zip(ready, given, strict=False))
        )
        claimed += [answer for answer in answers if isinstance(answer, Claimed)]
        failed = [one for one in (*outcomes, *answers) if isinstance(one, ProviderError)]
        if failed and not claimed:
            raise trouble_of(failed) or failed[0]
        if failed:
            break
    return claimed


async def _make_ready(
    tenure: Tenure, reader: Reader, entry: Entry, place: QueuePlace
) -> _Ready | ProviderError | None:
    """Lock a reserved job and bring its file to the running ones; None: it can't be claimed by now."""
    await entry.lock.acquire()
    ready: _Ready | ProviderError | None = None
    try:
        ready = await _try_ready(tenure, reader, entry, place)
    except ProviderError as error:
        ready = error
        if isinstance(error, Uncertain):
            entry.doubted = True
    finally:
        if not isinstance(ready, _Ready):
            _let_go(tenure, entry)
    return ready


async def _try_ready(tenure: Tenure, reader: Reader, entry: Entry, place: QueuePlace) -> _Ready | None:
    await reader.ensure(entry)
    job = entry.job
    # One that was sent to run again has its place further back than its name says.
    if job is None or job.state is not State.QUEUED or (job.rank, job.seq, job.key) != place:
        return None
    if entry.is_past(tenure.clock()):
        return None
    if not await bring(tenure, entry, Place.RUNNING):
        return None
    content = None
    if job.content.size <= tenure.capabilities.max_document_bytes:
        try:
            content = await read_whole(tenure, entry, job.content)
        except (Corrupt, NotFound) as error:
            spoil(tenure, entry, str(error))
            return None
    return _Ready(entry, content)


def _let_go(tenure: Tenure, entry: Entry) -> None:
    if entry.doubted:
        # Where its file lies is looked up before anybody can have it.
        tenure.doubts.add(entry.key)
    else:
        tenure.index.release(entry)
    tenure.note_place(entry)
    entry.lock.release()


async def _give(
    tenure: Tenure, reader: Reader, ready: _Ready, order: Order
) -> Claimed | ProviderError | None:
    """Write into a job's status whose it is, and unlock it; None: it has changed meanwhile."""
    entry = ready.entry
    event = rules.Claim(order.token, order.session, order.spooler)
    job = entry.job and rules.decide(entry.job, event, tenure.clock(), tenure.policy(entry.key.backend))
    try:
        if not isinstance(job, Job) or not await write_status(tenure, reader, entry, job):
            return None
        entry.reserved = False
        tenure.index.put(entry, job)
        return Claimed(job, ready.content)
    except ProviderError as error:
        return error
    finally:
        _let_go(tenure, entry)
