"""The Dropbox provider keeps all promises of the interface."""

from collections.abc import AsyncIterator

import pytest

from spoolway_providers.conformance import AgeingConformance, ManualClock, ProviderConformance
from tests.dropbox_emulator.scene import DropboxProvider, Login, make_account


class TestDropboxProvider(ProviderConformance, AgeingConformance):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def provider(self, clock: ManualClock) -> AsyncIterator[DropboxProvider]:
        provider = DropboxProvider(Login(**make_account().login), clock=clock)
        await provider.open()
        yield provider
        await provider.close()
