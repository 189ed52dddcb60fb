"""Claims: the first files of the queue move to the running ones; with that they are ours to give.

The claim's token is in memory at first, as the sessions are. It is written with the accept, or a little
later if that does not come: a job that lies among the running ones with a status that says QUEUED was given
to nobody who runs it, and returns.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from spoolway_providers import rules
from spoolway_providers.dropbox_storage.blobs import read_whole
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.names import Place, rank_of
from spoolway_providers.dropbox_storage.placing import bring, spoil
from spoolway_providers.dropbox_storage.reading import Reader
from spoolway_providers.dropbox_storage.submits import trouble_of
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.errors import Corrupt, NotFound, ProviderError, Uncertain
from spoolway_providers.interface import Claimed, Order
from spoolway_providers.model import Policy, State

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
    while wanted and not _policy(tenure, backend).paused and backend in tenure.backends:
        heads = tenure.index.reserve_heads(backend, len(wanted))
        if not heads:
            break
        outcomes = await asyncio.gather(*(_make_ready(tenure, reader, entry) for entry in heads))
        wanted = [order for order in wanted if tenure.sessions.is_live(order.session)]
        for outcome in outcomes:
            if isinstance(outcome, _Ready):
                claimed += _give(tenure, outcome, wanted)
        trouble = trouble_of([o for o in outcomes if o is not None])
        if trouble is not None and not claimed:
            raise trouble
        if any(isinstance(outcome, ProviderError) for outcome in outcomes):
            break
    return claimed


def _policy(tenure: Tenure, backend: str) -> Policy:
    known = tenure.backends.get(backend)
    return (known and known.policy) or Policy()


async def _make_ready(tenure: Tenure, reader: Reader, entry: Entry) -> _Ready | ProviderError | None:
    """Lock a reserved job and bring its file to the running ones; None: it can't be claimed by now."""
    await entry.lock.acquire()
    ready: _Ready | ProviderError | None = None
    try:
        ready = await _try_ready(tenure, reader, entry)
    except ProviderError as error:
        ready = error
        if isinstance(error, Uncertain):
            entry.doubted = True
    finally:
        if not isinstance(ready, _Ready):
            _let_go(tenure, entry)
    return ready


async def _try_ready(tenure: Tenure, reader: Reader, entry: Entry) -> _Ready | None:
    place = None if entry.job is None else (entry.job.rank, entry.job.seq)
    await reader.ensure(entry)
    job = entry.job
    if job is None or job.state is not State.QUEUED:
        return None
    if place is None and (job.rank, job.seq) != _place_by_name(entry):
        # It was sent to run again: its place is further back than its name says.
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


def _place_by_name(entry: Entry) -> tuple[int, int]:
    return rank_of(entry.seq), entry.seq


def _let_go(tenure: Tenure, entry: Entry) -> None:
    if entry.doubted:
        # Where its file lies is looked up before anybody can have it.
        tenure.doubts.add(entry.key)
    elif entry.key not in tenure.embargoed:
        tenure.index.release(entry)
    tenure.note_place(entry)
    entry.lock.release()


def _give(tenure: Tenure, ready: _Ready, wanted: list[Order]) -> list[Claimed]:
    """Give a job to the first of the orders, which is used up; without one it goes back."""
    entry = ready.entry
    if not wanted or entry.job is None:
        _let_go(tenure, entry)
        return []
    order = wanted.pop(0)
    event = rules.Claim(order.token, order.session, order.spooler)
    job = rules.decide(entry.job, event, tenure.clock(), _policy(tenure, entry.key.backend))
    if isinstance(job, rules.Refusal):  # pragma: no cover - a queued job can always be claimed
        _let_go(tenure, entry)
        return []
    entry.reserved = False
    tenure.index.put(entry, job)
    tenure.write_later(entry, tenure.timings.claim_record_after_s)
    tenure.note_place(entry)
    entry.lock.release()
    return [Claimed(job, ready.content)]
