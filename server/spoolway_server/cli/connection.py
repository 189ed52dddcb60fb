"""How a command reaches the server: its options, the client, and what becomes of errors."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spoolway_server.cli.exits import shown_errors

if TYPE_CHECKING:
    from spoolway import JobClient

__all__ = ["Connection", "calls_server", "open_client"]


_Command = Callable[..., Awaitable[None]]
_Opener = Callable[["Connection"], AbstractAsyncContextManager[Any]]


def _option(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Connection")


@dataclass(frozen=True)
class Connection:
    """Where the server is and who calls; None: the environment, then the profile file, then the default."""

    address: Annotated[str | None, _option("HOST:PORT of the server (SPOOLWAY_ADDRESS)")] = None
    user: Annotated[str | None, _option("Who you are; else your login's name (SPOOLWAY_USER)")] = None
    token: Annotated[
        str | None, _option("Access token; better given as SPOOLWAY_TOKEN: others see command lines")
    ] = field(default=None, repr=False)
    ca: Annotated[
        str | None, _option("Certificate authority's file; the connection is then TLS (SPOOLWAY_CA)")
    ] = None
    profile: Annotated[str | None, _option("Table of your profile file (SPOOLWAY_PROFILE)")] = None


@asynccontextmanager
async def open_client(connection: Connection) -> AsyncIterator["JobClient"]:
    """The client of a command. Tests put their own in its place."""
    # Only now: `spoolway --help` needs no gRPC.
    from spoolway import JobClient

    async with JobClient(
        connection.address,
        token=connection.token,
        user=connection.user,
        ca=connection.ca,
        profile=connection.profile,
    ) as client:
        yield client


def calls_server(command: _Command, opened_by: _Opener | None = None) -> Callable[..., None]:
    """Give a command the options of a connection, and itself the client as its first argument.

    Whatever the client raises becomes a line on stderr and an exit code. `opened_by` makes another client
    than the one for jobs.
    """

    async def run(connection: Connection, arguments: dict[str, Any]) -> None:
        # Looked up at each call, so that tests can put their own in its place.
        async with (opened_by or open_client)(connection) as client:
            await command(client, **arguments)

    @wraps(command)
    def with_client(**arguments: Any) -> None:
        connection = Connection(**{option.name: arguments.pop(option.name) for option in fields(Connection)})
        with shown_errors():
            asyncio.run(run(connection, arguments))

    _client, *own = inspect.signature(command).parameters.values()
    parameters = [*own, *_connection_parameters()]
    # What typer reads; the client's type, which is not imported here, is no part of it.
    with_client.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # a function takes it
    with_client.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_client


def _connection_parameters() -> list[inspect.Parameter]:
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(option.name, kind, default=option.default, annotation=option.type)
        for option in fields(Connection)
    ]
