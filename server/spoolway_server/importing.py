"""Reading what another system has left, or a storage that is not configured, into a storage."""

from collections.abc import Mapping, Sequence

import grpc
import msgspec

from spoolway_providers.errors import Conflict, Unsupported
from spoolway_providers.interface import Adoptee, Installation, Portion, Provider, Query
from spoolway_providers.model import new_token
from spoolway_providers.registry import make_provider, provider_class
from spoolway_server.catalog import OperationRecord
from spoolway_server.clock import Clock
from spoolway_server.copying import Transfer, adopt_all, wait_settled
from spoolway_server.errors import ServiceError, from_provider_error
from spoolway_server.names import short_backend_name
from spoolway_server.new_logins import NewLogin
from spoolway_server.operations import Operation, Operations
from spoolway_server.storage import COUNT_LIMIT, Storage
from spoolway_server.storages import Storages
from spoolway_server.vault import Vault

__all__ = ["IMPORT", "Importing"]

IMPORT = "IMPORT"
PAGE = 100
"""Jobs that are read, written and recorded at once."""


class Importing:
    """The work of ImportStorage."""

    def __init__(self, storages: Storages, vault: Vault, clock: Clock) -> None:
        """Import into `storages`; logins wait in the catalog, sealed by `vault`."""
        self._storages = storages
        self._vault = vault
        self._clock = clock

    async def plan(
        self, target_name: str, login: NewLogin, operations: Operations, *, owner: str, by: str
    ) -> OperationRecord:
        """The record of a new import, checked: what can't be is refused now."""
        target = self._storages.get(target_name, field="target")
        target.require_usable()
        await operations.require_idle(target.name)
        try:
            await target.provider.adopt([])
        except Unsupported as error:
            raise from_provider_error(error) from error
        now = self._clock.now()
        operation_id = new_token()
        record = OperationRecord(
            id=operation_id,
            type=IMPORT,
            source=f"{login.type} installation",
            target=target.name,
            options={"type": login.type, "owner": owner},
            login=self._vault.seal(_purpose(operation_id), login.fields, has_secret=login.has_secret),
            phase="starting",
            created_at=now,
            created_by=by,
            updated_at=now,
        )
        source = _Source(record, login.fields)
        try:
            await source.open()
            names = sorted(await source.backends())
        finally:
            await source.close()
        for name in names:
            await self._require_free(name, target)
        return msgspec.structs.replace(record, backends=tuple(names))

    async def _require_free(self, name: str, target: Storage) -> None:
        """The backend lies nowhere, or in the target."""
        short_backend_name(name, field="login")
        try:
            storage, _ = await self._storages.find_backend(name)
        except ServiceError as error:
            if error.reason != "BACKEND_NOT_FOUND":
                raise
            return
        if storage is not target:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "BACKEND_EXISTS",
                f"storage {storage.name} has a backend {name}: import into that storage, or copy it into "
                f"{target.name} first",
                metadata={"backend": name, "storage": storage.name},
            )

    async def run(self, operation: Operation) -> None:
        """Import from where it stopped."""
        record = operation.record
        target = self._storages.get(record.target)
        target.require_usable()
        source = _Source(record, self._vault.open(_purpose(record.id), record.login))
        try:
            await source.open()
            await source.settle(operation)
            await operation.save(phase="importing backends")
            await _import_backends(source, target.provider)
            await self._import_jobs(source, target.provider, operation)
        finally:
            await source.close()

    async def _import_jobs(self, source: "_Source", target: Provider, operation: Operation) -> None:
        known = frozenset(operation.record.backends)
        after = operation.record.place.get("after", "")
        left_out = int(operation.record.place.get("left_out", "0"))
        done = operation.record.done
        total = await source.count()
        while True:
            read, after = await source.import_page(target, after, known)
            left_out += read.left_out
            done += read.taken
            place = {"after": after, "left_out": str(left_out)}
            await operation.save(phase="importing jobs", done=done, total=max(total, done), place=place)
            if not after:
                break
        await _check(target, known, done)
        if left_out:
            operation.remark = f"{left_out} jobs belong to no backend, as nothing says of which; left out"

    async def abandon(self, record: OperationRecord) -> None:
        """What was imported stays: an import of the rest finds it."""


class _Read(msgspec.Struct, frozen=True):
    """What became of a page."""

    taken: int
    left_out: int


class _Source:
    """What is imported: another system's installation, or a storage that is opened for this."""

    def __init__(self, record: OperationRecord, login: Mapping[str, object]) -> None:
        type_name = record.options["type"]
        self._installation: Installation | None = provider_class(type_name).installation(
            login, owner=record.options["owner"], now=record.created_at
        )
        self._provider: Provider | None = None if self._installation else make_provider(type_name, login)

    async def open(self) -> None:
        await (self._installation or self._storage).open()

    async def close(self) -> None:
        await (self._installation or self._storage).close()

    async def settle(self, operation: Operation) -> None:
        if self._provider is not None:
            await wait_settled(self._provider, operation)

    @property
    def _storage(self) -> Provider:
        if self._provider is None:
            raise AssertionError("it is an installation")
        return self._provider

    async def backends(self) -> Mapping[str, bytes]:
        if self._installation is not None:
            return await self._installation.backends()
        return {backend.name: backend.config for backend in await self._storage.backends()}

    async def public_keys(self) -> Mapping[str, bytes]:
        return await (self._installation or self._storage).public_keys()

    async def count(self) -> int:
        """How many jobs there are; 0 if that can't be told beforehand."""
        return 0 if self._installation else await self._storage.count(Query(limit=COUNT_LIMIT))

    async def import_page(self, target: Provider, after: str, known: frozenset[str]) -> tuple[_Read, str]:
        """Import some jobs; how many, and how to go on."""
        if self._installation is not None:
            portion: Portion = await self._installation.jobs(after, PAGE)
            taken: Sequence[Adoptee] = [one for one in portion.adoptees if one.job.key.backend in known]
            await adopt_all(target, taken)
            return _Read(len(taken), len(portion.adoptees) - len(taken)), portion.after
        page = await self._storage.find(Query(limit=PAGE, cursor=after))
        jobs = [job for job in page.jobs if job.key.backend in known]
        await Transfer(self._storage, target).take(jobs)
        return _Read(len(jobs), len(page.jobs) - len(jobs)), page.cursor


async def _import_backends(source: _Source, target: Provider) -> None:
    for name, config in (await source.backends()).items():
        try:
            await target.put_config(name, config, "")
        except Conflict:
            # Its spooler has registered it here by now.
            continue
    for kid, key in (await source.public_keys()).items():
        await target.put_public_key(kid, key)


async def _check(target: Provider, backends: frozenset[str], done: int) -> None:
    there = sum([await target.count(Query(backend=name, limit=COUNT_LIMIT)) for name in backends])
    if there < min(done, COUNT_LIMIT):
        raise ServiceError(
            grpc.StatusCode.DATA_LOSS,
            "IMPORT_DIFFERS",
            f"{done} jobs were imported, and {there} are there: were some deleted meanwhile? Import again to "
            "take over what is missing",
            metadata={"imported": done, "found": there},
        )


def _purpose(operation_id: str) -> str:
    """What a login is sealed for; no storage's name has a slash."""
    return f"operations/{operation_id}"
