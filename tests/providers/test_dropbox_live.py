"""The same promises on a real account; asked for with `-m live`.

Needs SPOOLWAY_TEST_DROPBOX_APP_KEY, SPOOLWAY_TEST_DROPBOX_APP_SECRET and
SPOOLWAY_TEST_DROPBOX_REFRESH_TOKEN. All is done below a folder of its own, which is removed again. Must
run without the other Dropbox tests, which point the SDK at the emulator: `pytest -m live THIS_FILE`.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator

import pytest

from spoolway_providers.conformance import ProviderConformance

FIELDS = ("app_key", "app_secret", "refresh_token")


def login() -> dict[str, str]:
    """Raises KeyError: no account is named, and nothing is skipped in silence."""
    return {field: os.environ[f"SPOOLWAY_TEST_DROPBOX_{field.upper()}"] for field in FIELDS}


@pytest.mark.live
@pytest.mark.timeout(600)
class TestRealAccount(ProviderConformance):
    @pytest.fixture
    async def provider(self) -> AsyncIterator[object]:
        from spoolway_providers.dropbox_storage import DropboxProvider, Login
        from spoolway_providers.dropbox_storage.client import Client

        base = f"/spoolway-test-{secrets.token_hex(4)}"
        provider = DropboxProvider(Login(**login()), base=base)
        await provider.open()
        yield provider
        await provider.close()
        client = Client(Login(**login()), connections=1, timeout_s=60)
        await asyncio.to_thread(client.delete, base, None)
        client.close()


@pytest.mark.live
async def test_probe_passes() -> None:
    """A real account passes each step of the probe."""
    from spoolway_providers.dropbox_storage import DropboxProvider

    steps = await DropboxProvider.from_login(login()).probe()

    assert [step for step in steps if not step.ok] == []
