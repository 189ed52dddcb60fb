"""Makes failures of the shipped conformance tests show their values, and opens SQLite storages."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("spoolway_providers.conformance")

from spoolway_providers.conformance import Scene  # noqa: E402 - must come after its rewriting is asked for
from spoolway_providers.sqlite import SqliteProvider  # noqa: E402

OpenSqlite = Callable[..., Awaitable[SqliteProvider]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of an SQLite storage."""
    return tmp_path / "made" / "jobs.sqlite"


@pytest.fixture
async def open_sqlite(path: Path) -> AsyncIterator[OpenSqlite]:
    """Opens a handle on the storage at `path`; closed after the test."""
    async with AsyncExitStack() as stack:

        async def open_one(at: Path = path, **options: Any) -> SqliteProvider:
            provider = SqliteProvider(at, **options)
            stack.push_async_callback(provider.close)
            await provider.open()
            return provider

        yield open_one


@pytest.fixture
async def sqlite(open_sqlite: OpenSqlite) -> SqliteProvider:
    """An open, empty SQLite storage."""
    return await open_sqlite()


@pytest.fixture
async def scene(sqlite: SqliteProvider) -> Scene:
    """An SQLite storage with a backend and a session."""
    scene = Scene(sqlite)
    await scene.set_up()
    return scene
