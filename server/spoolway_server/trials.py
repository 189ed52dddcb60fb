"""Trying what a storage must be able to do, with a login that nobody has saved."""

from datetime import timedelta

import structlog

from spoolway_providers.errors import NotOwner, ProviderError
from spoolway_providers.interface import Provider, Step
from spoolway_providers.registry import make_provider
from spoolway_server.clock import Clock
from spoolway_server.new_logins import NewLogin

__all__ = ["try_login"]

_log = structlog.get_logger(__name__)


async def try_login(login: NewLogin, clock: Clock) -> list[Step]:
    """Open a storage with this login, go through its steps, and close it again. Raises ProviderError."""
    provider = make_provider(login.type, login.fields)
    try:
        opened = await _open(provider, clock)
        return [opened, *(await provider.probe() if opened.ok else [])]
    finally:
        await provider.close()


async def _open(provider: Provider, clock: Clock) -> Step:
    begun = clock.monotonic()
    advice = ""
    try:
        await provider.open()
    except NotOwner as error:
        # It was let in; the steps work beside the owner.
        _log.debug("tried beside the owner", owner=error.address)
    except ProviderError as error:
        advice = str(error) or type(error).__name__
    return Step("open", not advice, timedelta(seconds=clock.monotonic() - begun), advice)
