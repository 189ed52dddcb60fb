"""The MongoDB catalog: the conformance class, and what is said when there is trouble."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from spoolway_server.catalog import CatalogCorrupt, CatalogUnavailable
from spoolway_server.catalog import mongodb as catalog_mongodb
from spoolway_server.catalog.mongodb import SCHEMA_VERSION, MongoCatalog
from spoolway_server.clock import Clock
from tests.providers.mongodb_server import (
    DRIVERS_LEFTOVERS,
    Commands,
    MongoServer,
    StandIn,
    leftovers,
    lone_stand_in,
    server,
    stand_in,
)
from tests.server.catalog_conformance import CatalogConformance, storage_record
from tests.server.conftest import StartLab
from tests.server.lab import eventually

__all__ = ["leftovers", "lone_stand_in", "server", "stand_in"]

pytestmark = [DRIVERS_LEFTOVERS, pytest.mark.usefixtures("leftovers")]


@pytest.fixture
async def database(server: MongoServer) -> AsyncIterator[str]:
    """A database that nobody uses."""
    async with server.database() as name:
        yield name


class _Mongo(CatalogConformance):
    """Two clients of one database."""

    @pytest.fixture
    def mongo(self, server: MongoServer) -> MongoServer:
        return server

    @pytest.fixture
    async def database(self, mongo: MongoServer) -> AsyncIterator[str]:
        async with mongo.database() as name:
            yield name

    @pytest.fixture
    async def catalog(self, mongo: MongoServer, database: str) -> AsyncIterator[MongoCatalog]:
        """A new database."""
        opened = MongoCatalog(mongo.uri, database)
        await opened.open()
        yield opened
        await opened.close()

    @pytest.fixture
    async def another(
        self, catalog: MongoCatalog, mongo: MongoServer, database: str
    ) -> AsyncIterator[MongoCatalog]:
        """The same database."""
        opened = MongoCatalog(mongo.uri, database)
        await opened.open()
        yield opened
        await opened.close()


class TestMongoCatalogAlone(_Mongo):
    """On a server without change streams."""

    @pytest.fixture
    def mongo(self, lone_stand_in: StandIn) -> MongoServer:
        return lone_stand_in


class TestMongoCatalog(_Mongo):
    """With change streams."""

    async def test_a_newer_schema_is_refused(
        self, catalog: MongoCatalog, server: MongoServer, database: str
    ) -> None:
        """An older server does not touch what it does not know, and says what to do."""
        async with AsyncMongoClient[dict[str, Any]](server.uri) as client:
            await client[database].catalog_meta.update_one({}, {"$set": {"schema": SCHEMA_VERSION + 1}})
        later = MongoCatalog(server.uri, database)

        with pytest.raises(CatalogCorrupt, match="install a newer server"):
            await later.open()
        await later.close()


async def test_an_idle_wait_asks_little(
    server: MongoServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change stream tells of changes: nothing is read meanwhile."""
    monkeypatch.setattr(catalog_mongodb, "_LOOK_EVERY_S", 0.05)
    commands = Commands()
    catalog = MongoCatalog(server.uri, database, listeners=[commands])
    await catalog.open()
    version = await catalog.version()
    await catalog.wait(version, timedelta(seconds=0.5))
    commands.sent.clear()

    await catalog.wait(version, timedelta(seconds=1))
    await catalog.close()

    assert commands.sent.count("find") <= 3


async def test_all_who_wait_are_woken(server: MongoServer, database: str) -> None:
    """Two loops of a process may wait: the change stream wakes both."""
    catalog, other = MongoCatalog(server.uri, database), MongoCatalog(server.uri, database)
    await catalog.open()
    await other.open()
    version = await catalog.version()
    await catalog.wait(version, timedelta(seconds=0.3))
    waiting = [asyncio.create_task(catalog.wait(version, timedelta(seconds=25))) for _ in range(3)]
    await asyncio.sleep(0.1)
    await other.put(storage_record("lab"))

    async with asyncio.timeout(10):
        assert [await one for one in waiting] == [version + 1] * 3
    await catalog.close()
    await other.close()


async def test_a_broken_stream_is_replaced_by_looks(tmp_path: Path) -> None:
    """Who waits finds out that the database is gone, and hears of changes once it is back."""
    database = StandIn(tmp_path / "mongodb")
    database.start()
    catalog, other = MongoCatalog(database.uri, "lab"), MongoCatalog(database.uri, "lab")
    await catalog.open()
    await other.open()
    version = await catalog.version()
    await catalog.wait(version, timedelta(seconds=0.3))
    waiting = asyncio.create_task(catalog.wait(version, timedelta(seconds=60)))
    await asyncio.sleep(0.1)

    database.kill()
    with pytest.raises(CatalogUnavailable):
        await waiting
    database.start()
    await other.put(storage_record("lab"))

    assert await catalog.wait(version, timedelta(seconds=60)) != version
    await catalog.close()
    await other.close()
    database.kill()


async def test_many_open_a_new_database_at_once(server: MongoServer, database: str) -> None:
    """Servers that start together make one catalog."""
    catalogs = [MongoCatalog(server.uri, database) for _ in range(4)]

    await asyncio.gather(*(catalog.open() for catalog in catalogs))

    await catalogs[0].put(storage_record("lab"))
    assert {await catalog.version() for catalog in catalogs} == {2}
    for catalog in catalogs:
        await catalog.close()


@pytest.mark.parametrize("uri", ["mongodb://ada:correct-horse@127.0.0.1:9/", "correct-horse", "mongodb://"])
async def test_trouble_never_shows_the_address(uri: str) -> None:
    """Neither in the error nor in its cause."""
    catalog = MongoCatalog(uri, "lab")

    with pytest.raises((CatalogUnavailable, CatalogCorrupt)) as caught:
        await catalog.open()
    await catalog.close()

    assert "correct-horse" not in f"{caught.value} {caught.value.__cause__} {catalog!r}"


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_two_servers_share_it(
    start_lab: StartLab, server: MongoServer, database: str, storage_settings: Callable[[str], Any]
) -> None:
    """What one server adds serves on the other."""
    catalog = {"uri": server.uri, "database": database}
    one, other = [await start_lab(clock=Clock(), catalog=catalog) for _ in range(2)]

    await one.server.catalog.put(storage_record("lab", active=False))

    await eventually(lambda: "lab" in other.server.storages.by_name)
