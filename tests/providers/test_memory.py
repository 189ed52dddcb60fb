"""The provider in memory keeps all promises of the interface."""

from collections.abc import AsyncIterator

import pytest

from spoolway_providers.conformance import (
    AdoptionConformance,
    AgeingConformance,
    ManualClock,
    ProviderConformance,
)
from spoolway_providers.memory import MemoryProvider


class TestMemoryProvider(ProviderConformance, AdoptionConformance, AgeingConformance):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def provider(self, clock: ManualClock) -> AsyncIterator[MemoryProvider]:
        provider = MemoryProvider(clock=clock)
        await provider.open()
        yield provider
        await provider.close()


def test_login_has_no_fields() -> None:
    """A memory storage is made from an empty login, and any field is a mistake."""
    assert isinstance(MemoryProvider.from_login({}), MemoryProvider)
    with pytest.raises(ValueError, match="path"):
        MemoryProvider.from_login({"path": "x"})
