"""The calls of operators, straight through the stubs: the client package has none for them yet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from spoolway.channel import Connection as Channel
from spoolway.settings import Settings, resolve_settings
from spoolway.v1 import storage_admin_pb2 as pb
from spoolway.v1.storage_admin_pb2_grpc import StorageAdminStub
from spoolway_server.cli.connection import Connection

__all__ = ["Admin", "Storage", "StorageTest", "StorageTestStep", "open_admin"]

_CALL_S = 30
_TEST_S = 300


@dataclass(frozen=True)
class Storage:
    """A storage as the server shows it."""

    name: str
    type: str
    description: str
    active: bool
    is_default: bool
    read_only: bool
    serving: bool
    message: str


@dataclass(frozen=True)
class StorageTestStep:
    """One step of a storage's test."""

    name: str
    passed: bool
    duration: timedelta
    advice: str


@dataclass(frozen=True)
class StorageTest:
    """The test of a storage."""

    passed: bool
    steps: tuple[StorageTestStep, ...]


class Admin(Channel):
    """A connection that knows the calls about storages."""

    def __init__(self, settings: Settings) -> None:
        """Open a channel; it connects at the first call."""
        super().__init__(settings)
        self._storages = StorageAdminStub(self._channel)

    async def storages(self) -> list[Storage]:
        """All storages, by name."""
        found: list[Storage] = []
        request = pb.ListStoragesRequest(page_size=1000)
        while True:
            page = await self.call(self._storages.ListStorages, request, timeout_s=_CALL_S)
            found += map(_storage, page.storages)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def test_storage(self, name: str) -> StorageTest:
        """Go through what a storage must be able to do."""
        request = pb.TestStorageRequest(name=name)
        answer = await self.call(self._storages.TestStorage, request, timeout_s=_TEST_S)
        return StorageTest(answer.passed, tuple(map(_step, answer.steps)))


@asynccontextmanager
async def open_admin(connection: Connection) -> AsyncIterator[Admin]:
    """The client of an operator's command. Tests put their own in its place."""
    settings = resolve_settings(
        address=connection.address,
        token=connection.token,
        user=connection.user,
        ca=connection.ca,
        profile=connection.profile,
    )
    admin = Admin(settings)
    try:
        yield admin
    finally:
        await admin.close()


def _storage(message: pb.Storage) -> Storage:
    return Storage(
        name=message.name.rpartition("/")[2],
        type=message.type,
        description=message.description,
        active=message.active,
        is_default=message.is_default,
        read_only=message.read_only,
        serving=message.health.serving,
        message=message.health.message,
    )


def _step(message: pb.TestStep) -> StorageTestStep:
    return StorageTestStep(message.name, message.passed, message.duration.ToTimedelta(), message.advice)
