"""The command `backends`."""

from typing import TYPE_CHECKING, Annotated

import typer

from spoolway_server.cli.connection import calls_server
from spoolway_server.cli.output import write_json, write_table

if TYPE_CHECKING:
    from spoolway import JobClient

__all__ = ["list_backends"]


@calls_server
async def list_backends(
    client: "JobClient",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, configs included.")] = False,
) -> None:
    """List the backends, and whether they take jobs."""
    backends = await client.backends()
    if as_json:
        write_json({"backends": backends})
        return
    write_table(
        ("BACKEND", "TAKES JOBS", "WAITING", "VERSION", "STORAGE", "STATUS", "DESCRIPTION"),
        (
            [
                backend.name,
                "yes" if backend.status.operational else "no",
                backend.status.pending_jobs,
                backend.status.backend_version,
                backend.storage,
                backend.status.status_msg,
                backend.config.get("description", ""),
            ]
            for backend in backends
        ),
        empty="No backends yet: start a spooler, which registers its own.",
    )
