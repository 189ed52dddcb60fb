"""The SQLite provider keeps all promises of the interface."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spoolway_providers.conformance import (
    AdoptionConformance,
    AgeingConformance,
    ManualClock,
    ProviderConformance,
    SharedStorageConformance,
)
from spoolway_providers.sqlite import SqliteProvider


class TestSqliteProvider(
    ProviderConformance, AdoptionConformance, SharedStorageConformance, AgeingConformance
):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "made" / "jobs.sqlite"

    @pytest.fixture
    async def provider(self, path: Path, clock: ManualClock) -> AsyncIterator[SqliteProvider]:
        provider = SqliteProvider(path, clock=clock)
        await provider.open()
        yield provider
        await provider.close()

    @pytest.fixture
    async def second(
        self, provider: SqliteProvider, path: Path, clock: ManualClock
    ) -> AsyncIterator[SqliteProvider]:
        second = SqliteProvider(path, clock=clock)
        await second.open()
        yield second
        await second.close()
