"""Trying all that is needed of an account, on files of our own that are removed again."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import perf_counter
from typing import Any

from spoolway_providers.dropbox_storage.calls import Calls
from spoolway_providers.dropbox_storage.client import ADD, Commit, FileInfo, Page
from spoolway_providers.dropbox_storage.faults import CallFailed, PathMissing
from spoolway_providers.dropbox_storage.names import Layout
from spoolway_providers.errors import Conflict, ProviderError
from spoolway_providers.interface import Step
from spoolway_providers.model import new_token

__all__ = ["probe"]

_RETRY = "try again; Dropbox may be busy"
_SEVERAL = "is another program working in the account's folder spoolway/probe?"


async def probe(calls: Calls, layout: Layout) -> list[Step]:
    """Sign in, try each permission, and race for a file; see the interface."""
    return await _Probe(calls, f"{layout.probes}/{new_token()}").run()


class _Probe:
    def __init__(self, calls: Calls, folder: str) -> None:
        self._calls = calls
        self._client = calls.client
        self._folder = folder
        self._file = f"{folder}/a.json"
        self._info: FileInfo | None = None
        self._steps: list[Step] = []

    async def run(self) -> list[Step]:
        if not await self._try("sign_in", self._sign_in, "make the login anew: spoolway storage add dropbox"):
            return self._steps
        # Each permission for itself, so that all that lack are named at once.
        permitted = [
            await self._try("write", self._write, _RETRY),
            await self._try("read_back", self._read_back, _RETRY),
            await self._try("list", self._list, _RETRY),
        ]
        if all(permitted):
            await self._try("conditional_write_race", self._race_to_write, _SEVERAL)
            await self._try("claim_race", self._race_to_move, _SEVERAL)
            await self._try("wake_up", self._wake_up, "without it, other programs' files are seen late")
        if permitted[0]:
            await self._try("delete", self._delete, _RETRY)
        return self._steps

    async def _try(self, name: str, attempt: Callable[[], Awaitable[Any]], advice: str) -> bool:
        started_at = perf_counter()
        message = ""
        try:
            await attempt()
        except (ProviderError, CallFailed) as error:
            message = f"{error}; {advice}"
        elapsed = timedelta(seconds=perf_counter() - started_at)
        self._steps.append(Step(name, not message, elapsed, message))
        return not message

    async def _sign_in(self) -> None:
        await self._calls.read(self._client.check_user)

    async def _write(self) -> None:
        self._info = await self._calls.once(self._client.upload, b"{}", Commit(self._file, ADD))

    async def _read_back(self) -> None:
        try:
            await self._calls.read(self._client.download, self._file)
        except PathMissing:
            if self._info is not None:
                raise

    async def _list(self) -> None:
        await self._calls.read(self._client.metadata, self._file)

    async def _race_to_write(self) -> None:
        if self._info is None:
            return
        rev = self._info.rev
        outcomes = await asyncio.gather(
            *(
                self._calls.once(self._client.upload, data, Commit(self._file, rev))
                for data in (b"[1]", b"[2]")
            ),
            return_exceptions=True,
        )
        _one_winner(outcomes)

    async def _race_to_move(self) -> None:
        targets = [f"{self._folder}/{name}.json" for name in "bc"]
        outcomes = await asyncio.gather(
            *(self._calls.once(self._client.move, self._file, target) for target in targets),
            return_exceptions=True,
        )
        _one_winner(outcomes)

    async def _wake_up(self) -> None:
        page: Page = await self._calls.read(self._client.list_folder, self._folder)
        waiting = asyncio.create_task(self._calls.longpoll(page.cursor))
        try:
            await self._calls.once(self._client.upload, b"[3]", Commit(f"{self._folder}/d.json", ADD))
            async with asyncio.timeout(self._calls.timings.call_limit_s):
                await waiting
        except TimeoutError:
            raise CallFailed("Dropbox told nothing of a change") from None
        finally:
            waiting.cancel()

    async def _delete(self) -> None:
        await self._calls.once(self._client.delete, self._folder, None)


def _one_winner(outcomes: list[Any]) -> None:
    losers = [outcome for outcome in outcomes if isinstance(outcome, CallFailed)]
    for outcome in outcomes:
        if isinstance(outcome, ProviderError):
            raise outcome
    if len(losers) != 1:
        raise Conflict(f"of two that raced for one file {2 - len(losers)} won")
