"""The storages that were added by calls: this process's are kept as the catalog says."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import grpc
import msgspec
import structlog

from spoolway_providers.errors import ProviderError
from spoolway_providers.interface import Provider
from spoolway_providers.registry import make_provider
from spoolway_server.catalog import Catalog, CatalogConflict, Routes, StorageRecord
from spoolway_server.clock import Clock
from spoolway_server.errors import ServiceError
from spoolway_server.new_logins import LoginChange, NewLogin
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.vault import LoginUnreadable, Vault

__all__ = ["AddedStorages", "StorageMaker"]

_log = structlog.get_logger(__name__)

PATIENCE_S = 5.0
"""How long a call waits for a storage to open; it goes on opening all the same."""
MAX_TRIES = 5
MAX_DESCRIPTION = 1000

StorageMaker = Callable[[StorageRecord, Callable[[], Provider]], Storage]
"""Puts a storage together, not started."""


class AddedStorages:
    """Adds, changes and removes storages, in the catalog and in this process."""

    def __init__(
        self, storages: Storages, catalog: Catalog, vault: Vault, make_storage: StorageMaker, clock: Clock
    ) -> None:
        """Those that `storages` has by now are the configuration's: never touched here."""
        self._storages = storages
        self._catalog = catalog
        self._vault = vault
        self._make_storage = make_storage
        self._clock = clock
        self._declared = frozenset(storages.by_name)
        self._records: dict[str, StorageRecord] = {}
        """As they are at work here."""
        self._logins: dict[str, bytes] = {}
        """A hash of each login at work, to tell a new login from one that is only sealed anew."""
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._refreshing = asyncio.Lock()

    # Life

    async def wait_opened(self) -> None:
        """Wait some seconds for the storages that were found at the start to open."""
        if self._opening:
            await asyncio.wait(self._opening.values(), timeout=PATIENCE_S)

    async def stop(self) -> None:
        """Finish what closes; the storages that are at work are stopped with all others."""
        # What closes a provider ends by itself, and must end.
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def refresh(self) -> None:
        """Make this process's storages what the catalog says now."""
        async with self._refreshing:
            records = {record.name: record for record in await self._catalog.all(StorageRecord)}
            routes = await self._catalog.get(Routes, Routes.KEY)
            for name in self._records.keys() - records.keys():
                self._drop(name)
            for record in records.values():
                if record != self._records.get(record.name):
                    self._take(record)
            routes = routes or Routes()
            self._storages.route(routes.backends, routes.moving)

    def _take(self, record: StorageRecord) -> None:
        if record.name in self._declared:
            if record.name not in self._records:
                _log.warning("storage of the catalog hidden by the configuration's", storage=record.name)
            self._records[record.name] = record
            return
        known = self._records.get(record.name)
        if known is not None and (known.created_at, known.type) != (record.created_at, record.type):
            self._drop(record.name)
            known = None
        self._records[record.name] = record
        before = self._logins.get(record.name)
        login = self._logins[record.name] = self._hash_of(record)
        make = partial(self._make_provider, record)
        if known is None:
            storage = self._make_storage(record, make)
            self._storages.add(storage)
            self._opening[record.name] = asyncio.create_task(storage.start())
            return
        storage = self._storages.by_name[record.name]
        storage.description, storage.owner = record.description, record.owner
        storage.set_active(record.active)
        if login != before:
            _log.info("storage's login changed", storage=record.name)
            self._opening[record.name] = self._close(storage.change_login(make))

    def _drop(self, name: str) -> None:
        del self._records[name]
        self._logins.pop(name, None)
        self._opening.pop(name, None)
        if name not in self._declared:
            _log.info("storage removed", storage=name)
            self._close(self._storages.remove(name).stop())

    def _make_provider(self, record: StorageRecord) -> Provider:
        return make_provider(record.type, self._vault.open(record.name, record.login))

    def _hash_of(self, record: StorageRecord) -> bytes:
        try:
            fields: object = self._vault.open(record.name, record.login)
        except LoginUnreadable:
            fields = record.login
        return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).digest()

    def _close(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def _old_login(self, record: StorageRecord) -> Mapping[str, Any]:
        try:
            return self._vault.open(record.name, record.login)
        except LoginUnreadable:
            # It is given anew, which is the way out of this.
            return {}

    # Changes

    def is_declared(self, name: str) -> bool:
        """Whether the configuration file declares it: no call changes it then."""
        return name in self._declared

    def record(self, name: str) -> StorageRecord | None:
        """The record of a storage as it is at work here; None if it is not of the catalog."""
        return None if name in self._declared else self._records.get(name)

    async def create(
        self, name: str, login: NewLogin, *, description: str, owner: str, active: bool
    ) -> Storage:
        """Add a storage, and wait some seconds for it to open."""
        if name in self._declared or await self._catalog.get(StorageRecord, name) is not None:
            raise _taken(name)
        now = self._clock.now()
        record = StorageRecord(
            name=name,
            type=login.type,
            login=self._vault.seal(name, login.fields, has_secret=login.has_secret),
            owner=owner,
            description=_checked_description(description),
            active=active,
            created_at=now,
            updated_at=now,
        )
        try:
            await self._catalog.put(record)
        except CatalogConflict:
            raise _taken(name) from None
        return await self._at_work(name)

    async def update(
        self,
        name: str,
        *,
        etag: str = "",
        description: str | None = None,
        owner: str | None = None,
        active: bool | None = None,
        login: LoginChange | None = None,
    ) -> Storage:
        """Change what is given, and nothing else, whoever changes something else meanwhile.

        Args:
            name: of the storage.
            etag: of the record that it was decided from; empty: whatever it is now.
            description: for people.
            owner: who answers for it.
            active: takes submits and gives jobs.
            login: makes the new login of the old one.
        """
        changes: dict[str, Any] = {"owner": owner, "active": active}
        if description is not None:
            changes["description"] = _checked_description(description)
        changes = {field: value for field, value in changes.items() if value is not None}

        async def change(record: StorageRecord) -> StorageRecord:
            if login is not None:
                new = await login.apply(record.type, self._old_login(record))
                sealed = self._vault.seal(name, new.fields, has_secret=new.has_secret)
                return msgspec.structs.replace(record, login=sealed, **changes)
            return msgspec.structs.replace(record, **changes)

        await self._change(name, etag, change)
        return await self._at_work(name)

    async def delete(self, name: str, *, etag: str, force: bool) -> None:
        """Forget a storage; what lies in it stays there."""
        record = await self._current(name, etag)
        if not force:
            await self._require_empty(name)
        await self._catalog.delete(record)
        await self.refresh()

    async def _change(
        self, name: str, etag: str, change: Callable[[StorageRecord], Awaitable[StorageRecord]]
    ) -> StorageRecord:
        for attempt in range(MAX_TRIES):
            record = await self._current(name, etag)
            changed = await change(record)
            if changed == record:
                return record
            try:
                return await self._catalog.put(msgspec.structs.replace(changed, updated_at=self._clock.now()))
            except CatalogConflict:
                if etag or attempt + 1 == MAX_TRIES:
                    raise
        raise AssertionError("unreachable")

    async def _current(self, name: str, etag: str) -> StorageRecord:
        if name in self._declared:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "STORAGE_READ_ONLY",
                f"storage {name} is declared in the configuration file: change it there, and start the "
                "servers anew",
                metadata={"storage": name},
            )
        record = await self._catalog.get(StorageRecord, name)
        if record is None:
            raise self._storages.missing(name)
        if etag and etag != str(record.revision):
            raise CatalogConflict(record)
        return record

    async def _require_empty(self, name: str) -> None:
        storage = await self._at_work(name)
        try:
            unfinished = await storage.unfinished(limit=1000)
        except (ServiceError, ProviderError) as error:
            raise _in_use(name, "can't tell whether it holds jobs that have not ended") from error
        if unfinished:
            jobs = "1 job that has" if unfinished == 1 else f"{unfinished} jobs that have"
            raise _in_use(name, f"holds {jobs} not ended", jobs=unfinished)

    async def _at_work(self, name: str) -> Storage:
        """The storage in this process, once it has tried to open, or after some seconds."""
        await self.refresh()
        opening = self._opening.get(name)
        if opening is not None:
            await asyncio.wait({opening}, timeout=PATIENCE_S)
        return self._storages.get(name)


def _checked_description(text: str) -> str:
    if len(text) > MAX_DESCRIPTION:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "DESCRIPTION_TOO_LONG",
            f"a description has at most {MAX_DESCRIPTION} characters; this one has {len(text)}",
            field="description",
        )
    return text


def _taken(name: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ALREADY_EXISTS,
        "STORAGE_EXISTS",
        f"there is a storage {name} already; choose another name, or change it with UpdateStorage",
        field="name",
    )


def _in_use(name: str, problem: str, **facts: object) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "STORAGE_IN_USE",
        f"storage {name} {problem}; deactivate it and wait for them, or force it: what lies in it stays "
        "there, and a storage with the same login finds it again",
        metadata={"storage": name, **facts},
    )
