"""The SQLite catalog: the conformance class, and what is special to a file."""

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from spoolway_server.catalog import CatalogCorrupt, CatalogUnavailable, SqliteCatalog, StorageRecord
from spoolway_server.catalog.sqlite import IN_MEMORY, SCHEMA_VERSION
from tests.server.catalog_conformance import CatalogConformance, storage_record


class TestSqliteCatalog(CatalogConformance):
    """Two connections to one file."""

    @pytest.fixture
    async def catalog(self, tmp_path: Path) -> AsyncIterator[SqliteCatalog]:
        """A file in a folder that is made."""
        opened = SqliteCatalog(tmp_path / "folder" / "catalog.sqlite")
        await opened.open()
        yield opened
        await opened.close()

    @pytest.fixture
    async def another(self, catalog: SqliteCatalog, tmp_path: Path) -> AsyncIterator[SqliteCatalog]:
        """The same file."""
        opened = SqliteCatalog(tmp_path / "folder" / "catalog.sqlite")
        await opened.open()
        yield opened
        await opened.close()

    async def test_the_file_is_its_owners(self, catalog: SqliteCatalog, tmp_path: Path) -> None:
        """Nobody else may read the file or its log."""
        await catalog.put(storage_record("lab"))

        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "folder").iterdir()}

        assert "catalog.sqlite" in modes
        assert set(modes.values()) == {0o600}

    async def test_many_open_a_new_file_at_once(self, tmp_path: Path) -> None:
        """Processes that start together make one catalog."""
        catalogs = [SqliteCatalog(tmp_path / "new.sqlite") for _ in range(4)]

        await asyncio.gather(*(catalog.open() for catalog in catalogs))

        await catalogs[0].put(storage_record("lab"))
        assert [record.name for record in await catalogs[3].all(StorageRecord)] == ["lab"]
        for catalog in catalogs:
            await catalog.close()

    async def test_a_newer_schema_is_refused(self, tmp_path: Path) -> None:
        """An older server does not touch what it does not know, and says what to do."""
        path = tmp_path / "catalog.sqlite"
        catalog = SqliteCatalog(path)
        await catalog.open()
        await catalog.close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

        with pytest.raises(CatalogCorrupt, match="install a newer server"):
            await catalog.open()
        await catalog.close()

    async def test_another_programs_file_is_refused(self, tmp_path: Path) -> None:
        """A file that is no catalog stays as it is."""
        path = tmp_path / "theirs.sqlite"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE theirs(a)")
        catalog = SqliteCatalog(path)

        with pytest.raises(CatalogCorrupt, match="another program"):
            await catalog.open()
        await catalog.close()

    async def test_a_file_that_cant_be_made_is_trouble_and_can_be_tried_again(self, tmp_path: Path) -> None:
        """Opening fails with a reason, and works once the reason is gone."""
        blocked = tmp_path / "folder"
        blocked.write_text("in the way")
        catalog = SqliteCatalog(blocked / "catalog.sqlite")

        with pytest.raises(CatalogUnavailable):
            await catalog.open()
        blocked.unlink()
        await catalog.open()

        assert await catalog.all(StorageRecord) == []
        await catalog.close()

    async def test_a_catalog_in_memory(self) -> None:
        """It works as any other, and ends with its process."""
        catalog = SqliteCatalog(IN_MEMORY)
        await catalog.open()

        stored = await catalog.put(storage_record("lab"))

        assert await catalog.all(StorageRecord) == [stored]
        await catalog.close()
