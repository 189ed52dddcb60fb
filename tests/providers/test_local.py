"""The provider of a local folder keeps all promises of the interface, whichever names its folders have."""

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
from spoolway_providers.local import LocalProvider
from spoolway_providers.local.layout import Naming
from spoolway_providers.local.login import Settings


class LocalConformance(ProviderConformance, AdoptionConformance, SharedStorageConformance, AgeingConformance):
    naming: Naming

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(tmp_path / "made" / "jobs", self.naming)

    @pytest.fixture
    async def provider(self, settings: Settings, clock: ManualClock) -> AsyncIterator[LocalProvider]:
        provider = LocalProvider(settings, clock=clock)
        await provider.open()
        yield provider
        await provider.close()

    @pytest.fixture
    async def second(
        self, provider: LocalProvider, settings: Settings, clock: ManualClock
    ) -> AsyncIterator[LocalProvider]:
        second = LocalProvider(settings, clock=clock)
        await second.open()
        yield second
        await second.close()


class TestOwnNames(LocalConformance):
    naming = Naming.LOCAL


class TestBackendFiles(LocalConformance):
    naming = Naming.BACKEND_FILES
