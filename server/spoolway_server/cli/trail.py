"""The command about the audit trail."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from spoolway_server.cli.admin import calls_admin
from spoolway_server.cli.output import write_json, write_table

if TYPE_CHECKING:
    from spoolway import AdminClient

__all__ = ["audit"]


@calls_admin
async def audit(
    admin: "AdminClient",
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Only what this user did.")] = None,
    call: Annotated[
        str | None, typer.Option(metavar="CALL", help="Only this call, such as RevokeToken.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what was done to it, such as storages/lab.")
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="Only the last so many hours.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")] = False,
) -> None:
    """Show who did what to storages, tokens, policies, spoolers and held jobs, newest first."""
    since = None if hours is None else datetime.now(UTC) - timedelta(hours=hours)
    found = admin.audit_events(user=by, call=call, subject=subject, since=since, limit=limit)
    events = [event async for event in found]
    if as_json:
        write_json({"events": events})
        return
    write_table(
        ("TIME", "USER", "CALL", "SUBJECT", "OUTCOME", "DETAIL"),
        (
            [
                f"{event.time.astimezone():%Y-%m-%d %H:%M:%S}",
                event.user,
                event.call,
                event.subject,
                event.outcome,
                event.detail,
            ]
            for event in events
        ),
        empty="Nothing of this kind was done.",
    )
