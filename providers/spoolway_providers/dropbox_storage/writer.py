"""The one writer of an account: what waits while a round of writes is under way is the next round.

Dropbox locks the whole account for each write, so two at once only stand in each other's way. A single
write is one call; many are few: their data goes into upload sessions, which need no lock, and one call
stores them all. An answer that was lost is settled by looking at what is there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from spoolway_providers.dropbox_storage.calls import Calls, unavailable
from spoolway_providers.dropbox_storage.client import Commit, FileInfo
from spoolway_providers.dropbox_storage.faults import (
    CallFailed,
    LostAnswer,
    NotDone,
    PathConflict,
    PathMissing,
    SessionSpent,
)
from spoolway_providers.dropbox_storage.mirror import Mirror
from spoolway_providers.dropbox_storage.rounds import Rounds
from spoolway_providers.dropbox_storage.writes import Delete, Move, Put, Uploaded, Write
from spoolway_providers.errors import ProviderError, Uncertain

__all__ = ["Writer"]


class Writer:
    """Writes files, one round after the other; `mirror` knows each of them as soon as it is done.

    All methods raise PathConflict or PathMissing (the storage is not as the caller thought),
    Unavailable (surely nothing was done), Uncertain (it may have been) or NotOwner.
    """

    def __init__(self, calls: Calls, mirror: Mirror) -> None:
        self.turn = asyncio.Lock()
        """Held while a round is under way; whoever holds it sees no write half done."""
        self.started = 0
        """Writes so far, those under way included: Dropbox may tell of one before it answers it."""
        self._calls = calls
        self._mirror = mirror
        self._rounds = Rounds(calls)
        self._pending: list[Write] = []
        self._current: list[Write] = []
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serve; until `stop`."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; what is still waiting fails, as surely not done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for write in self._current:
            write.doubted = True
        for write in (*self._current, *self._pending):
            self._fail(write, NotDone("the storage is closed"))
        self._current, self._pending = [], []

    async def put(
        self, path: str, data: bytes, mode: str, client_modified: datetime | None = None
    ) -> FileInfo:
        """Store a file; `mode` as in Commit."""
        info: FileInfo = await self._ask(Put(Commit(path, mode, client_modified), data=data))
        return info

    async def put_uploaded(
        self, path: str, uploaded: Uploaded, mode: str, client_modified: datetime | None = None
    ) -> FileInfo:
        """Store a file whose data lies in a closed upload session."""
        info: FileInfo = await self._ask(Put(Commit(path, mode, client_modified), uploaded=uploaded))
        return info

    async def move(self, source: str, target: str) -> FileInfo:
        """Move a file to where nothing is."""
        known = self._mirror.get(source)
        info: FileInfo = await self._ask(Move(source, target, known.content_hash if known else ""))
        return info

    async def delete(self, path: str, rev: str | None = None) -> None:
        """Remove a file, if it has `rev`; one that is not there is no mistake."""
        try:
            await self._ask(Delete(path, rev))
        except PathMissing:
            self._mirror.drop(path)

    async def _ask(self, write: Write) -> Any:
        write.until = self._calls.monotonic() + self._calls.timings.patience_s
        self._pending.append(write)
        self._wanted.set()
        return await write.future

    # Rounds

    async def _run(self) -> None:
        attempt = 0
        while True:
            await self._wanted.wait()
            # One turn of the loop, so that what is asked for together goes together.
            await asyncio.sleep(0)
            async with self.turn:
                self._wanted.clear()
                self._current = [write for write in self._pending if not write.future.done()]
                self._pending = []
                self.started += len(self._current)
                wait_s = await self._round(self._current, attempt)
                self._current = []
            attempt = attempt + 1 if wait_s else 0
            if wait_s:
                await asyncio.sleep(wait_s)

    async def _round(self, writes: Sequence[Write], attempt: int) -> float:
        """Try each write once; how long to wait before what must be tried again."""
        wait_s = 0.0
        kinds: list[tuple[type[Write], Callable[[Any], Awaitable[list[Any]]]]] = [
            (Put, self._rounds.put),
            (Move, self._rounds.move),
            (Delete, self._rounds.delete),
        ]
        for kind, do in kinds:
            these = [write for write in writes if isinstance(write, kind)]
            if not these:
                continue
            outcomes = await self._outcomes(do, these)
            settled = await asyncio.gather(
                *(self._settle(w, o, attempt) for w, o in zip(these, outcomes, strict=True))
            )
            wait_s = max(wait_s, *settled)
        return wait_s

    @staticmethod
    async def _outcomes(do: Callable[[Any], Awaitable[list[Any]]], writes: list[Any]) -> list[Any]:
        try:
            return await do(writes)
        except (CallFailed, ProviderError) as error:
            return [error] * len(writes)

    async def _settle(self, write: Write, outcome: Any, attempt: int) -> float:
        """Tell the caller, or see to it that the write is tried again after the returned time."""
        if isinstance(outcome, LostAnswer):
            write.doubted = True
        needs_look = isinstance(outcome, LostAnswer) or (
            write.doubted and isinstance(outcome, PathConflict | PathMissing)
        )
        if needs_look:
            try:
                outcome = await self._look(write)
            except ProviderError as error:
                outcome = NotDone(str(error))
        if isinstance(outcome, NotDone | SessionSpent):
            return self._again(write, outcome, attempt)
        if isinstance(outcome, Exception):
            self._fail(write, outcome)
        else:
            self._done(write, outcome)
        return 0.0

    def _again(self, write: Write, error: CallFailed, attempt: int) -> float:
        wait_s = self._calls.backoff_s(attempt, error)
        if self._calls.monotonic() + wait_s >= write.until:
            self._fail(write, error)
            return 0.0
        if not write.future.done():
            self._calls.counters["retries"] += 1
            self._pending.append(write)
            self._wanted.set()
        return wait_s

    def _done(self, write: Write, info: FileInfo | None) -> None:
        write.apply(self._mirror, info)
        if not write.future.done():
            write.future.set_result(info)

    def _fail(self, write: Write, error: Exception) -> None:
        if isinstance(error, PathConflict | PathMissing):
            failure: Exception = error
        elif write.doubted:
            failure = Uncertain(f"it may have been done, or not: {error}")
        elif isinstance(error, CallFailed):
            failure = unavailable(error)
        else:
            failure = error
        if not write.future.done():
            write.future.set_exception(failure)

    # Looking

    async def _look(self, write: Write) -> FileInfo | CallFailed | None:
        """What became of a write whose answer was lost."""
        read, metadata = self._calls.read, self._calls.client.metadata
        there: FileInfo | None = await read(metadata, write.target)
        match write:
            case Put(commit=commit):
                return _looked_at_put(write, commit, there)
            case Move():
                if there is not None and there.content_hash == write.content_hash:
                    return there
                if await read(metadata, write.source) is None:
                    return PathMissing(f"{write.source} is gone")
                return NotDone("it was not moved") if there is None else PathConflict(write.target)
            case _:
                if there is None:
                    return None
                is_other = isinstance(write, Delete) and write.rev not in {None, there.rev}
                return PathConflict(write.target) if is_other else NotDone("it was not removed")


def _looked_at_put(write: Put, commit: Commit, there: FileInfo | None) -> FileInfo | CallFailed:
    if there is None or there.rev == commit.mode:
        return NotDone("it was not stored")
    if there.content_hash == write.content_hash:
        return there
    return NotDone("it was not stored") if commit.mode == "overwrite" else PathConflict(commit.path)
