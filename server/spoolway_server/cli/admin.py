"""How an operator's command reaches the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from spoolway_server.cli.connection import Connection, calls_server

if TYPE_CHECKING:
    from spoolway import AdminClient

__all__ = ["calls_admin", "open_admin"]


@asynccontextmanager
async def open_admin(connection: Connection) -> AsyncIterator["AdminClient"]:
    """The client of an operator's command. Tests put their own in its place."""
    # Only now: `spoolway --help` needs no gRPC.
    from spoolway import AdminClient

    async with AdminClient(
        connection.address,
        token=connection.token,
        user=connection.user,
        ca=connection.ca,
        profile=connection.profile,
    ) as admin:
        yield admin


# Looked up at each call, so that tests can put their own in its place.
calls_admin = partial(calls_server, opened_by=lambda connection: open_admin(connection))
"""Gives a command the options of a connection, and itself the operators' client as its first argument."""
