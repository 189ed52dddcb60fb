"""The command `top`: storages, backends and spoolers as they stand, drawn again and again."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from spoolway_server.cli import admin, connection
from spoolway_server.cli.connection import Connection, calls_server
from spoolway_server.cli.output import ago, console
from spoolway_server.cli.spoolers import standing

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from spoolway import AdminClient, Backend, JobClient, SpoolerSession, Storage

__all__ = ["top"]


class _Clients(NamedTuple):
    jobs: "JobClient"
    admin: "AdminClient"


@asynccontextmanager
async def _open_both(asked: Connection) -> AsyncIterator[_Clients]:
    # Looked up at each call, so that tests can put their own in its place.
    async with connection.open_client(asked) as jobs, admin.open_admin(asked) as operator:
        yield _Clients(jobs, operator)


@partial(calls_server, opened_by=_open_both)
async def top(
    clients: _Clients,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.5, help="How often to look.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Draw it once, as where nobody looks.")] = False,
) -> None:
    """Show storages, backends and spoolers, live, until Ctrl-C."""
    from rich.live import Live

    screen = console(sys.stdout)
    if once or not sys.stdout.isatty():
        screen.print(await _picture(clients))
        return
    with Live(console=screen, screen=True, auto_refresh=False) as live:
        while True:
            live.update(await _picture_or_trouble(clients), refresh=True)
            await asyncio.sleep(interval)


async def _picture_or_trouble(clients: _Clients) -> "RenderableType":
    """A server that goes and comes ends no view of it."""
    from rich.text import Text

    from spoolway import SpoolwayError
    from spoolway.errors import is_transient

    try:
        return await _picture(clients)
    except SpoolwayError as error:
        if not is_transient(error):
            raise
        return Text(f"{error}\n\nTrying again ...", style="red")


async def _picture(clients: _Clients) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    storages, backends, spoolers = await asyncio.gather(
        clients.admin.storages(), clients.jobs.backends(), clients.admin.spoolers()
    )
    waiting = sum(backend.status.pending_jobs for backend in backends)
    in_hand = sum(spooler.jobs_in_hand for spooler in spoolers)
    summary = f"{datetime.now().astimezone():%H:%M:%S}   {waiting} jobs wait, {in_hand} in hand"
    return Group(
        Text(summary, style="bold"),
        Text(),
        _table(("STORAGE", "TYPE", "STATUS"), map(_storage_row, storages)),
        Text(),
        _table(
            ("BACKEND", "WAITING", "SPOOLERS", "STATUS"), (_backend_row(one, spoolers) for one in backends)
        ),
        Text(),
        _table(("SPOOLER", "BACKENDS", "IN HAND", "LAST BEAT", "STATUS"), map(_spooler_row, spoolers)),
    )


def _storage_row(storage: "Storage") -> list[object]:
    status = "ok" if storage.serving else storage.message or "not serving"
    return [storage.name, storage.type, status if storage.active else f"inactive, {status}"]


def _backend_row(backend: "Backend", spoolers: Sequence["SpoolerSession"]) -> list[object]:
    count = sum(backend.name in spooler.backends for spooler in spoolers)
    return [backend.name, backend.status.pending_jobs, count, backend.status.status_msg]


def _spooler_row(spooler: "SpoolerSession") -> list[object]:
    beat = ago(spooler.last_beat_time)
    return [spooler.spooler_id, " ".join(spooler.backends), spooler.jobs_in_hand, beat, standing(spooler)]


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold cyan")
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        # Text, not str: rich would take [brackets] for markup.
        table.add_row(*(Text(str(cell)) for cell in row))
    return table
