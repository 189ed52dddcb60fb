"""The commands about spoolers."""

from typing import TYPE_CHECKING, Annotated

import typer

from spoolway_server.cli.admin import calls_admin
from spoolway_server.cli.output import ago, say, write_json, write_table

if TYPE_CHECKING:
    from spoolway import AdminClient, SpoolerSession

__all__ = ["list_spoolers", "revoke", "standing"]

_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


@calls_admin
async def list_spoolers(
    admin: "AdminClient",
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this backend.")] = None,
    closed: Annotated[bool, typer.Option("--closed", help="Also those that ended within a day.")] = False,
    as_json: _Json = False,
) -> None:
    """List the spoolers of all servers, and what they have in hand."""
    spoolers = await admin.spoolers(backend, closed=closed)
    if as_json:
        write_json({"spoolers": spoolers})
        return
    write_table(
        ("SPOOLER", "BACKENDS", "STATUS", "JOBS", "CREDIT", "LAST BEAT", "USER", "SESSION"),
        (
            [
                spooler.spooler_id,
                " ".join(spooler.backends),
                standing(spooler),
                spooler.jobs_in_hand,
                _credit(spooler),
                ago(spooler.last_beat_time or spooler.close_time),
                spooler.principal,
                spooler.session,
            ]
            for spooler in spoolers
        ),
        empty="No spooler is connected.",
    )


@calls_admin
async def revoke(
    admin: "AdminClient",
    session: Annotated[str, typer.Argument(metavar="SESSION", help="As `spoolway spooler list` shows it.")],
    as_json: _Json = False,
) -> None:
    """End a spooler's session for good; its jobs go to others. Started anew it may come back."""
    spooler = await admin.revoke_spooler(session)
    if as_json:
        write_json(spooler)
    else:
        say(f"{spooler.spooler_id} is revoked; once that is settled start it anew")


def standing(spooler: "SpoolerSession") -> str:
    """How a spooler's session stands, in words."""
    words = [spooler.state.lower() + (f": {spooler.reason}" if spooler.reason else "")]
    words += ["disconnected"] * spooler.disconnected + ["unary"] * (not spooler.has_stream)
    return ", ".join(words)


def _credit(spooler: "SpoolerSession") -> str:
    if not spooler.connected_here:
        return ""
    return " ".join(f"{name}={places}" if name else str(places) for name, places in spooler.credit.items())
