"""What the owner does by itself: renew, write what may be late, move what lies elsewhere."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from spoolway_providers.dropbox_storage.commits import write_status
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.placing import bring, follow_file
from spoolway_providers.dropbox_storage.reading import ENDED, Reader
from spoolway_providers.dropbox_storage.snapshot import SnapshotKeeper
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.errors import Corrupt, NotOwner, ProviderError
from spoolway_providers.model import JobKey

__all__ = ["Care"]

_log = logging.getLogger(__name__)

GARBAGE_EVERY_S = 30.0
TROUBLE_S = 5.0
"""Between two tries while Dropbox does not answer."""
AT_ONCE = 500
"""Files moved, or statuses written, in one go."""


class Care:
    """The loops of an owner; `on_lost` is called once, when another has taken over."""

    def __init__(
        self,
        tenure: Tenure,
        reader: Reader,
        snapshots: SnapshotKeeper,
        on_lost: Callable[[NotOwner], None],
    ) -> None:
        self._tenure = tenure
        self._reader = reader
        self._snapshots = snapshots
        self._on_lost = on_lost
        self._garbage_at = 0.0

    # Ownership

    async def keep_office(self) -> None:
        """Renew the ownership, again and again, until it is lost."""
        timings = self._tenure.timings
        wait_s = timings.renew_every_s
        while True:
            await asyncio.sleep(wait_s)
            wait_s = timings.renew_every_s
            try:
                async with self._turn():
                    await self._tenure.ownership.renew()
            except NotOwner as error:
                self._on_lost(error)
                return
            except ProviderError:
                wait_s = min(TROUBLE_S, timings.renew_every_s / 6)

    def _turn(self) -> "_Turn":
        return _Turn(self._tenure.writer.turn, self._tenure.timings.renew_every_s / 12)

    # What may be late

    async def run(self) -> None:
        """Do what is due, for ever."""
        wait_s = self._tenure.timings.care_every_s
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self._tenure.timings.care_every_s
            try:
                await self.tick()
            except NotOwner:
                # The next renewal says so too, and acts upon it.
                wait_s = TROUBLE_S
            except ProviderError:
                wait_s = TROUBLE_S
            except Exception:  # noqa: BLE001 - whatever it was, the owner goes on
                _log.exception("the care of the account failed")
                wait_s = TROUBLE_S

    async def tick(self) -> None:
        """Do what is due now."""
        tenure = self._tenure
        now = tenure.calls.monotonic()
        await self._settle_doubts()
        await self._settle_unsaid(now)
        await self._write(self._due_statuses(now))
        since = min(tenure.misplaced.values(), default=now)
        if now - since >= tenure.timings.place_after_s:
            await self._place(list(tenure.misplaced))
        if (tenure.garbage or tenure.staging.rubbish) and now - self._garbage_at >= GARBAGE_EVERY_S:
            self._garbage_at = now
            await self._clear()
        if self._snapshots.is_due:
            await self._snapshots.write()

    async def finish(self) -> None:
        """Do all that is left, for nobody comes after."""
        await self._settle_doubts()
        await self._write(list(self._tenure.unwritten))
        await self._place(list(self._tenure.misplaced))
        await self._clear()
        if self._tenure.changed_statuses:
            await self._snapshots.write()

    def _due_statuses(self, now: float) -> list[JobKey]:
        entries = self._tenure.index.entries
        due = []
        for key in list(self._tenure.unwritten):
            entry = entries.get(key)
            if entry is None or entry.unwritten_until is None:
                self._tenure.unwritten.discard(key)
            elif entry.unwritten_until <= now:
                due.append(key)
        return due

    async def _write(self, keys: Iterable[JobKey]) -> None:
        await _each(self._entries(keys), self._write_one)

    async def _write_one(self, entry: Entry) -> None:
        async with entry.lock:
            if entry.unwritten_until is None or entry.job is None:
                return
            if entry.doubted:
                await self._reader.ensure(entry)
            await write_status(self._tenure, self._reader, entry, entry.job)
            self._tenure.note_place(entry)

    async def _place(self, keys: Iterable[JobKey]) -> None:
        await _each(self._entries(keys), self._place_one)

    async def _place_one(self, entry: Entry) -> None:
        async with entry.lock:
            await bring(self._tenure, entry, entry.wanted_place)
            # Whatever came of it, it is not tried again until something happens to the job.
            self._tenure.misplaced.pop(entry.key, None)

    async def _settle_doubts(self) -> None:
        await _each(self._entries(list(self._tenure.doubts)), self._settle_doubt)

    async def _settle_doubt(self, entry: Entry) -> None:
        tenure = self._tenure
        async with entry.lock:
            await follow_file(tenure, entry, by_another=False)
            await self._reader.ensure(entry)
            tenure.doubts.discard(entry.key)
            tenure.index.release(entry)
            tenure.note_place(entry)

    async def _settle_unsaid(self, now: float) -> None:
        """End jobs that another program has ended without a word, or with one that we have not heard of."""
        tenure = self._tenure
        due = [key for key, at in tenure.unsaid.items() if now - at >= tenure.timings.word_after_s]
        await _each(self._entries(due), self._settle_unsaid_one)
        for key in due:
            tenure.unsaid.pop(key, None)

    async def _settle_unsaid_one(self, entry: Entry) -> None:
        async with entry.lock:
            job = entry.job
            if job is None or job.is_terminal or job.holder is not None or entry.place not in ENDED:
                return
            self._tenure.index.put(entry, await self._reader.ended_at_last(entry, job))
            self._tenure.write_later(entry, 0.0)
            self._tenure.note_place(entry)

    async def _clear(self) -> None:
        """Remove what nobody needs."""
        tenure = self._tenure
        paths = [path for path in tenure.garbage if tenure.mirror.get(path) is not None]
        tenure.garbage.clear()
        outcomes = await asyncio.gather(
            *(tenure.writer.delete(path) for path in paths), return_exceptions=True
        )
        failed = [path for path, o in zip(paths, outcomes, strict=True) if isinstance(o, ProviderError)]
        tenure.garbage.update(failed)
        await tenure.staging.clear()

    def _entries(self, keys: Iterable[JobKey]) -> list[Entry]:
        entries = self._tenure.index.entries
        return [entry for key in keys if (entry := entries.get(key)) is not None]


async def _each(entries: list[Entry], do: Callable[[Entry], Coroutine[Any, Any, None]]) -> None:
    """Do something for each, side by side; raise the first trouble once all are done."""
    for at in range(0, len(entries), AT_ONCE):
        outcomes = await asyncio.gather(
            *(do(entry) for entry in entries[at : at + AT_ONCE]),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, Corrupt):
                raise outcome


class _Turn:
    """The writer's turn, if it comes soon: a renewal does not wait for a round that takes long."""

    def __init__(self, lock: asyncio.Lock, patience_s: float) -> None:
        self._lock = lock
        self._patience_s = patience_s
        self._has_it = False

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._lock.acquire()
        except TimeoutError:
            return
        self._has_it = True

    async def __aexit__(self, *error: object) -> None:
        if self._has_it:
            self._lock.release()
