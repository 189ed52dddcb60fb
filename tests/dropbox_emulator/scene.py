"""Providers on accounts of the emulator, and what tests do with them.

Importing this module brings the emulator first and the SDK after it, as must be.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from msgspec.structs import replace

from spoolway_providers.conformance import Scene
from spoolway_providers.dropbox_storage import DropboxProvider, Login, Timings
from spoolway_providers.errors import NotOwner
from tests.dropbox_emulator import DropboxAccount, Fault, make_account

__all__ = [
    "FAST",
    "DropboxAccount",
    "DropboxProvider",
    "Fault",
    "Login",
    "ManualSeconds",
    "Timings",
    "make_account",
    "kill",
    "make_provider",
    "opened",
    "opened_after_crash",
    "staged_scene",
]

FAST = Timings(
    renew_every_s=60.0,
    patience_s=5.0,
    first_backoff_s=0.01,
    amnesty_s=0.0,
    claim_record_after_s=0.3,
    place_after_s=0.05,
    care_every_s=0.02,
    sync_every_s=0.05,
)
"""For tests that don't wait."""


class ManualSeconds:
    """A clock that only goes forward, and only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_provider(account: DropboxAccount, timings: Timings = FAST, **options: Any) -> DropboxProvider:
    """A provider, not yet open."""
    changes = {name: options.pop(name) for name in list(options) if name in Timings.__struct_fields__}
    return DropboxProvider(Login(**account.login), timings=replace(timings, **changes), **options)


@asynccontextmanager
async def opened(account: DropboxAccount, **options: Any) -> AsyncIterator[DropboxProvider]:
    """A provider, opened and closed."""
    provider = make_provider(account, **options)
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


@asynccontextmanager
async def opened_after_crash(account: DropboxAccount, **options: Any) -> AsyncIterator[DropboxProvider]:
    """The next owner of an account whose owner went without a word; its patience is not waited for."""
    provider = make_provider(account, take_over_after_s=0.0, **options)
    with suppress(NotOwner):
        await provider.open()
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


async def kill(provider: DropboxProvider) -> None:
    """End a provider at once, without a word to the account, as SIGKILL would."""
    office, provider._office = provider._office, None
    if office is not None:
        await office.stop()
    await provider.close()


async def staged_scene(provider: DropboxProvider, session_id: str = "session-1") -> Scene:
    """A backend and a session."""
    scene = Scene(provider, session_id)
    await scene.set_up()
    return scene

