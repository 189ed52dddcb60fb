"""The provider: the SQLite engine, and a keeper that has the folders follow it."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from spoolway_providers.errors import ProviderError, Unavailable, Unsupported
from spoolway_providers.interface import Adoptee, Change, Claimed, Finding, Order, Step
from spoolway_providers.local.claiming import Claims
from spoolway_providers.local.disk import Fault
from spoolway_providers.local.duty import Duty
from spoolway_providers.local.index import Index
from spoolway_providers.local.inspecting import Inspection, inspect_files
from spoolway_providers.local.keeper import Keeper
from spoolway_providers.local.keys import PublicKeys
from spoolway_providers.local.layout import Layout, Naming, Seen
from spoolway_providers.local.login import LOGIN_FIELDS, Settings, settings_of
from spoolway_providers.local.mounts import MOUNT_TABLE
from spoolway_providers.local.names import dated_id, is_backend, user_folder
from spoolway_providers.local.preparing import prepare_folders, try_files
from spoolway_providers.local.reading import BlobReader
from spoolway_providers.local.tables import REBUILT_ALL, open_tables, projected, rebuilt
from spoolway_providers.model import Backend, BlobRef, Draft, Job, JobKey, Policy
from spoolway_providers.sqlite.backends import PublicKey
from spoolway_providers.sqlite.blobs import Reading
from spoolway_providers.sqlite.provider import SqliteProvider
from spoolway_providers.sqlite.submit import submit, submit_with
from spoolway_providers.sqlite.writer import Transaction

__all__ = ["LocalProvider"]

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

_KEPT_LOOK_S = 0.02
_KEPT_LIMIT_S = 10.0
"""So long a repair waits for the files when another process keeps them."""
_REOPEN_S = 1.0


class LocalProvider(SqliteProvider):
    """One folder; any number of processes of one host may share it, and others read and drop files in it."""

    description = "A folder on a local disk that people and other programs can read and drop jobs into."
    login_fields = LOGIN_FIELDS

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        watches: bool = True,
        time_limit: timedelta = timedelta(seconds=10),
        busy_timeout: timedelta = timedelta(seconds=5),
        mount_table: Path = MOUNT_TABLE,
        fault: Fault = lambda step, subject: None,
    ) -> None:
        """Make one for a folder.

        Args:
            settings: The login, checked.
            clock: The wall clock.
            watches: Whether to be woken by file events of other processes' commits.
            time_limit: After which a call ends, whatever the disk does.
            busy_timeout: How long to wait for other processes' transactions.
            mount_table: Tells which file systems are whose.
            fault: Called before each step of writing files, with its name and subject: for tests.
        """
        self._layout = Layout(str(settings.base), settings.naming)
        super().__init__(
            Path(self._layout.index),
            clock=clock,
            watches=watches,
            time_limit=time_limit,
            busy_timeout=busy_timeout,
        )
        self._settings = settings
        self._mount_table = mount_table
        self._fault = fault
        self._reader = BlobReader(self._layout)
        self._public_keys = PublicKeys(self._layout)
        self._claims = Claims(self._engine, self._layout, self._reader, settings.stock_spoolers)
        self._submit = submit if settings.naming is Naming.LOCAL else submit_with(_new_dated_id)
        self._keeper: Keeper | None = None
        self._reopening: asyncio.Task[None] | None = None

    @classmethod
    def from_login(cls, login: Mapping[str, Any]) -> Self:
        """Make one from `base_path`, and perhaps `layout`, `stock_spoolers` and `owner`."""
        return cls(settings_of(login))

    async def open(self) -> None:
        """Make the folders, open the index, take over what waits; see the interface."""
        if self._keeper is not None:
            return
        await asyncio.to_thread(prepare_folders, self._settings, self._layout, self._mount_table)
        await super().open()
        try:
            await self._engine.write(open_tables, self._settings.naming)
            self._keeper = self._make_keeper()
            self._keeper.start()
            await asyncio.wrap_future(self._keeper.ready)
        except BaseException:
            await self._close()
            raise

    async def close(self) -> None:
        """Commit what is under way, and write its files; see the interface."""
        reopening, self._reopening = self._reopening, None
        if reopening is not None:
            reopening.cancel()
            with suppress(asyncio.CancelledError):
                await reopening
        await self._close()

    async def _close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await asyncio.to_thread(keeper.close)
        await super().close()

    def _make_keeper(self) -> Keeper:
        loop = asyncio.get_running_loop()
        index = Index(self._layout.index, self._engine, loop)

        def make_duty(on_events: Callable[[Iterable[Seen]], None]) -> Duty:
            return Duty(self._layout, self._settings, index, self._fault, on_events)

        def on_lost() -> None:
            with suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(self._reopen)

        return Keeper(self._layout, index, make_duty, on_lost=on_lost)

    def _reopen(self) -> None:
        """The index was removed under our feet: make a new one of what lies in the folders."""
        if self._keeper is not None and self._reopening is None:
            self._reopening = asyncio.create_task(self._open_anew())

    async def _open_anew(self) -> None:
        await self._close()
        while True:
            try:
                await self.open()
            except ProviderError as error:
                _log.warning("the folder %s can't be opened: %s", self._layout.base, error)
                await asyncio.sleep(_REOPEN_S)
            else:
                self._reopening = None
                return

    async def is_settled(self) -> bool:
        """See the interface: whether a new index knows all files."""
        return await self._engine.read(rebuilt, None) >= REBUILT_ALL

    # Jobs

    async def submit(self, drafts: Sequence[Draft]) -> list[Job | ProviderError]:
        """See the interface."""
        return await self._telling(self._engine.write(self._submit, drafts))

    async def claim(self, backend: str, orders: Sequence[Order]) -> list[Claimed]:
        """See the interface. A job whose file somebody has removed or changed ends in error."""
        return await self._telling(self._claims.claim(backend, orders, super().claim))

    async def commit(self, changes: Sequence[Change]) -> list[Job | ProviderError]:
        """See the interface."""
        return await self._telling(super().commit(changes))

    async def delete(self, key: JobKey, revision: int) -> None:
        """See the interface."""
        await self._telling(super().delete(key, revision))

    async def adopt(self, adoptees: Sequence[Adoptee]) -> list[Job | ProviderError]:
        """See the interface."""
        return await self._telling(super().adopt(adoptees))

    async def read_blob(self, ref: BlobRef, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """See the interface."""
        return await self._engine.read_long(self._reader.read_blob, Reading(ref, offset, limit))

    # Backends

    async def put_config(self, backend: str, config: bytes, etag: str | None) -> Backend:
        """See the interface. Raises Unsupported if the name is none for a file."""
        if not is_backend(backend):
            raise Unsupported(f"{backend!r} can't be the name of a backend: only a-z and 0-9, at most 64")
        return await self._telling(super().put_config(backend, config, etag))

    async def remove_config(self, backend: str, etag: str | None) -> Backend:
        """See the interface. Its file goes too; one that is written later registers the backend again."""
        return await self._telling(super().remove_config(backend, etag))

    async def put_policy(self, backend: str, policy: Policy, etag: str | None) -> Backend:
        """See the interface."""
        return await self._telling(super().put_policy(backend, policy, etag))

    async def put_public_key(self, kid: str, key: bytes) -> bytes:
        """See the interface. Raises Unsupported if the id is none for a file."""
        return await self._engine.read_long(self._public_keys.put, PublicKey(kid, key))

    async def public_key(self, kid: str) -> bytes | None:
        """See the interface."""
        return await self._engine.read_long(self._public_keys.get, kid)

    async def public_keys(self) -> Mapping[str, bytes]:
        """See the interface."""
        return await self._engine.read_long(self._public_keys.all, None)

    # Care

    async def repair(self, limit: int = 1000) -> list[Finding]:
        """See the interface. Returns once all that was committed before lies in the folders."""
        findings = await super().repair(limit)
        keeper = self._keeper
        if keeper is None:
            raise Unavailable("the storage is not open")
        round_trip: asyncio.Future[list[Finding]] = asyncio.wrap_future(keeper.go_round())
        findings += await round_trip
        await self._wait_for_files()
        return findings

    async def inspect(self, *, repair: bool, limit: int = 1000) -> list[Finding]:
        """See the interface; files of nobody go to `spoolway/refused`."""
        findings = await super().inspect(repair=repair, limit=limit)
        if await self.is_settled():
            asked = Inspection(self._layout, repair, limit)
            findings += await self._engine.read_long(inspect_files, asked)
        return findings

    async def back_up(self, target: Path, on_progress: Callable[[int, int], None]) -> int:
        """See the interface: a folder is not one file."""
        raise Unsupported(
            "a folder is copied by the means of its system, and its index made anew from the files; or copy "
            "the storage into one of type sqlite"
        )

    async def probe(self) -> list[Step]:
        """See the interface."""
        steps = await super().probe()
        if all(step.ok for step in steps):
            steps += await asyncio.to_thread(try_files, self._layout)
        return steps

    async def _wait_for_files(self) -> None:
        """Until the files of what is committed now are written, by whichever process; but not for ever."""
        newest = (await self._engine.read(projected, None))[1]
        with suppress(TimeoutError):
            async with asyncio.timeout(_KEPT_LIMIT_S):
                # Another process writes them: there is nothing here that could wake us.
                while (await self._engine.read(projected, None))[0] < newest:  # noqa: ASYNC110
                    await asyncio.sleep(_KEPT_LOOK_S)

    async def _telling(self, change: Awaitable[Result]) -> Result:
        """Let the keeper know that something was committed."""
        result = await change
        if self._keeper is not None:
            self._keeper.wake()
        return result


def _new_dated_id(transaction: Transaction, draft: Draft) -> str:
    """An id in today's form: the digits follow the order of submission."""
    number, user = transaction.change + 1, user_folder(draft.owner)
    while True:
        job_id = dated_id(transaction.now, draft.backend, user, number)
        known = transaction.connection.execute(
            "SELECT 1 FROM jobs WHERE id = ? AND backend = ?", (job_id, draft.backend)
        )
        if known.fetchone() is None:
            return job_id
        # Another program made the same one within this second.
        number = secrets.randbelow(1 << 20)
