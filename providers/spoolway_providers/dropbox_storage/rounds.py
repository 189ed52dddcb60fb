"""How many writes become few calls."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from spoolway_providers.dropbox_storage.calls import Calls
from spoolway_providers.dropbox_storage.client import Commit, FileInfo
from spoolway_providers.dropbox_storage.faults import CallFailed, LostAnswer, NotDone
from spoolway_providers.dropbox_storage.writes import Delete, Move, Put
from spoolway_providers.errors import ProviderError

__all__ = ["Rounds"]

MAX_ENTRIES = 1000
"""Of one batch, as Dropbox allows."""
MAX_ARGUMENT_BYTES = 8_000
"""Of the argument of an append, which travels in a header: what front ends commonly let pass."""
_ENTRY_BYTES = 100
"""Of one entry of it, beside its session's id."""
MAX_APPEND_BYTES = 32 << 20
SESSIONS_AT_ONCE = 200
"""Upload sessions cost nothing until they are used: one call starts many."""
SESSION_LIFE_S = 24 * 3600.0
"""Dropbox keeps them for seven days."""
FEW = 2
"""So many go one by one: a batch has as many calls of its own."""
FIRST_CHECK_S = 0.05

Outcome = FileInfo | Exception | None


class Rounds:
    """Does the writes of a round; the outcome of each, in order."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._client = calls.client
        self._sessions: list[str] = []
        self._sessions_end_at = 0.0

    # Storing

    async def put(self, puts: Sequence[Put]) -> list[Outcome]:
        """Store files."""
        if len(puts) <= FEW and all(put.uploaded is None for put in puts):
            return [await self._one(self._client.upload, put.data, put.commit) for put in puts]
        outcomes: list[Outcome] = []
        for at in range(0, len(puts), MAX_ENTRIES):
            outcomes += await self._put_batch(puts[at : at + MAX_ENTRIES])
        return outcomes

    async def _put_batch(self, puts: Sequence[Put]) -> list[Outcome]:
        filled = await self._fill([put for put in puts if put.uploaded is None])
        outcomes: dict[Put, Outcome] = {}
        finishing: list[tuple[Put, tuple[str, int, Commit]]] = []
        for put in puts:
            session = put.uploaded.session if put.uploaded else filled[put]
            if isinstance(session, Exception):
                outcomes[put] = session
            else:
                size = put.uploaded.size if put.uploaded else len(put.data)
                finishing.append((put, (session, size, put.commit)))
        if finishing:
            arguments = [argument for _, argument in finishing]
            stored = await self._outcomes_of(
                self._calls.write(self._client.finish_batch, arguments), finishing
            )
            outcomes.update(zip((put for put, _ in finishing), stored, strict=True))
        return [outcomes[put] for put in puts]

    async def _fill(self, puts: Sequence[Put]) -> dict[Put, str | Exception]:
        """Bring the data of each into an upload session; several calls side by side, as no lock is needed."""
        if not puts:
            return {}
        sessions = await self._take_sessions(len(puts))
        pieces = list(zip(puts, sessions, strict=True))
        filled: dict[Put, str | Exception] = {}

        async def append(part: list[tuple[Put, str]]) -> None:
            data = [(session, put.data) for put, session in part]
            try:
                await self._calls.write(self._client.append_batch, data)
            except LostAnswer as error:
                # Nothing that anybody sees was done: the data goes into new sessions.
                filled.update(dict.fromkeys((put for put, _ in part), NotDone(str(error))))
            except (CallFailed, ProviderError) as error:
                filled.update(dict.fromkeys((put for put, _ in part), error))
            else:
                filled.update(part)

        await asyncio.gather(*(append(part) for part in _parts(pieces)))
        return filled

    async def _take_sessions(self, number: int) -> list[str]:
        if self._calls.monotonic() > self._sessions_end_at:
            self._sessions.clear()
        if len(self._sessions) < number:
            wanted = max(SESSIONS_AT_ONCE, number)
            try:
                self._sessions += await self._calls.write(self._client.start_sessions, min(1000, wanted))
            except LostAnswer as error:
                raise NotDone(str(error)) from error
            self._sessions_end_at = self._calls.monotonic() + SESSION_LIFE_S
        taken, self._sessions = self._sessions[:number], self._sessions[number:]
        return taken

    # Moving and removing

    async def move(self, moves: Sequence[Move]) -> list[Outcome]:
        """Move files."""
        if len(moves) <= FEW:
            return [await self._one(self._client.move, move.source, move.target) for move in moves]
        outcomes: list[Outcome] = []
        for at in range(0, len(moves), MAX_ENTRIES):
            part = moves[at : at + MAX_ENTRIES]
            pairs = [(move.source, move.target) for move in part]
            outcomes += await self._outcomes_of(
                self._batch(self._client.move_batch, self._client.move_check, pairs), part
            )
        return outcomes

    async def delete(self, deletes: Sequence[Delete]) -> list[Outcome]:
        """Remove files."""
        if len(deletes) <= FEW:
            return [await self._one(self._client.delete, one.target, one.rev) for one in deletes]
        outcomes: list[Outcome] = []
        for at in range(0, len(deletes), MAX_ENTRIES):
            part = deletes[at : at + MAX_ENTRIES]
            pairs = [(one.target, one.rev) for one in part]
            outcomes += await self._outcomes_of(
                self._batch(self._client.delete_batch, self._client.delete_check, pairs), part
            )
        return outcomes

    async def _one(self, function: Callable[..., Any], *arguments: Any) -> Outcome:
        [outcome] = await self._outcomes_of(self._listed(self._calls.write(function, *arguments)), [function])
        return outcome

    @staticmethod
    async def _listed(call: Awaitable[Any]) -> list[Any]:
        return [await call]

    async def _batch(
        self, launch: Callable[[Any], Any], check: Callable[[str], Any], pairs: Sequence[Any]
    ) -> list[Any]:
        """Ask for a batch, and ask until it is done."""
        answer: str | list[Any] = await self._calls.write(launch, pairs)
        wait_s = FIRST_CHECK_S
        until = self._calls.monotonic() + self._calls.timings.call_limit_s
        while isinstance(answer, str):
            await asyncio.sleep(wait_s)
            wait_s = min(2.0, wait_s * 2)
            try:
                done = await self._calls.once(check, answer)
            except (NotDone, LostAnswer) as error:
                if self._calls.monotonic() > until:
                    raise LostAnswer(str(error)) from error
                continue
            if done is not None:
                return list(done)
            if self._calls.monotonic() > until:
                raise LostAnswer("a batch is still under way")
        return answer

    @staticmethod
    async def _outcomes_of(call: Awaitable[list[Any]], asked: Sequence[Any]) -> list[Outcome]:
        try:
            return await call
        except (CallFailed, ProviderError) as error:
            return [error] * len(asked)


def _parts(pieces: Sequence[tuple[Put, str]]) -> Iterator[list[tuple[Put, str]]]:
    """Split what goes into one append each: by the length of its argument and of its data."""
    part: list[tuple[Put, str]] = []
    argument_bytes = data_bytes = 0
    for put, session in pieces:
        argument, data = len(session) + _ENTRY_BYTES, len(put.data)
        if part and (argument_bytes + argument > MAX_ARGUMENT_BYTES or data_bytes + data > MAX_APPEND_BYTES):
            yield part
            part, argument_bytes, data_bytes = [], 0, 0
        part.append((put, session))
        argument_bytes += argument
        data_bytes += data
    if part:
        yield part
