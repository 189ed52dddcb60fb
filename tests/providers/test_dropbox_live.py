"""The same promises on a real account, where one is named.

Needs SPOOLWAY_TEST_DROPBOX_APP_KEY, SPOOLWAY_TEST_DROPBOX_APP_SECRET and
SPOOLWAY_TEST_DROPBOX_REFRESH_TOKEN. All is done below a folder of its own, which is removed again. The other
Dropbox tests point the SDK at the emulator, so these run in a process of their own: where the account is
named each run of the tests starts it; by hand it is `pytest -m live tests/providers/test_dropbox_live.py`.
"""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spoolway_providers.conformance import ProviderConformance
from tests.dropbox_account import MISSING, login

ROOT = Path(__file__).parents[2]
OF_THE_EMULATOR = ("SPOOLWAY_DROPBOX_EMULATOR", "DROPBOX_API_", "REQUESTS_CA_BUNDLE")


if not MISSING:

    @pytest.mark.timeout(3600)
    def test_the_account_that_is_named_keeps_all_promises() -> None:
        """The tests below pass on it."""
        environment = {
            name: text for name, text in os.environ.items() if not name.startswith(OF_THE_EMULATOR)
        }
        command = [sys.executable, "-m", "pytest", "-q", "-m", "live", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stdout[-20_000:]


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
