"""The commands about backends."""

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spoolway_server.cli.admin import calls_admin
from spoolway_server.cli.connection import calls_server
from spoolway_server.cli.exits import ExitCode, fail
from spoolway_server.cli.output import put, say, write_facts, write_json, write_table

if TYPE_CHECKING:
    from spoolway import AdminClient, Backend, BackendPolicy, JobClient

__all__ = ["list_backends", "pause", "policy", "purge", "resume", "show", "unregister"]

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the backend.")]
_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


def _seconds(text: str) -> Any:
    return typer.Option(min=0, metavar="SECONDS", help=text)


def _number(text: str, least: int) -> Any:
    return typer.Option(min=least, metavar="NUMBER", help=text)


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


@calls_server
async def show(client: "JobClient", name: _Name, as_json: _Json = False) -> None:
    """Show one backend: how it stands, its config and its policy."""
    backend = await client.backend(name)
    if as_json:
        write_json(backend)
    else:
        write_facts([*_standing(backend), *_policy_facts(backend)])


@calls_admin
async def pause(admin: "AdminClient", name: _Name, as_json: _Json = False) -> None:
    """Hand out no more jobs of a backend; what waits keeps its place, what runs goes on."""
    _tell(await admin.pause_backend(name), as_json)


@calls_admin
async def resume(admin: "AdminClient", name: _Name, as_json: _Json = False) -> None:
    """Hand out the jobs of a backend again."""
    _tell(await admin.resume_backend(name), as_json)


@calls_admin
async def policy(
    admin: "AdminClient",
    name: _Name,
    max_attempts: Annotated[int | None, _number("Attempts a job may have.", 1)] = None,
    max_crashes: Annotated[int | None, _number("Sessions that may die with a job in hand.", 1)] = None,
    lease_ttl: Annotated[float | None, _seconds("How long a lease lasts without a heartbeat.")] = None,
    resume_grace: Annotated[
        float | None, _seconds("How much longer the server waits before it gives a job to another.")
    ] = None,
    lost_timeout: Annotated[
        float | None, _seconds("How long a job that may not run again waits for its lost spooler.")
    ] = None,
    cancel_grace: Annotated[float | None, _seconds("How long a running job has to stop.")] = None,
    max_run_time: Annotated[float | None, _seconds("Longest run.")] = None,
    max_queued: Annotated[int | None, _number("Jobs that may wait at once; 0 is no limit.", 0)] = None,
    round_robin: Annotated[
        bool | None, typer.Option("--round-robin/--first-come", help="Whether owners take turns.")
    ] = None,
    retention: Annotated[float | None, _seconds("How long a job is kept after its end.")] = None,
    foreign_claim_timeout: Annotated[
        float | None, _seconds("How long a job that another program takes is left to it.")
    ] = None,
    user_submits_per_s: Annotated[
        int | None, _number("Jobs that one user may submit a second; 0 is no limit.", 0)
    ] = None,
    user_bytes_per_s: Annotated[
        int | None, _number("Bytes that one user may submit a second; 0 is no limit.", 0)
    ] = None,
    user_max_queued: Annotated[
        int | None, _number("Jobs of one user that may wait; 0 is no limit.", 0)
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="A field, such as max_attempts, that the server is to decide."),
    ] = None,
    etag: Annotated[
        str | None, typer.Option(help="Change only this version, which `backend show --json` tells.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Change what a backend allows: the given options, and nothing else.

    `backend show` shows all of it.
    """
    given = {
        "max_attempts": max_attempts,
        "max_crashes": max_crashes,
        "lease_ttl": lease_ttl,
        "resume_grace": resume_grace,
        "lost_timeout": lost_timeout,
        "cancel_grace": cancel_grace,
        "max_run_time": max_run_time,
        "max_queued": max_queued,
        "round_robin": round_robin,
        "retention": retention,
        "foreign_claim_timeout": foreign_claim_timeout,
        "user_submits_per_s": user_submits_per_s,
        "user_bytes_per_s": user_bytes_per_s,
        "user_max_queued": user_max_queued,
    }
    changes: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    for field in default or ():
        if field not in given:
            known = ", ".join(given)
            fail(f"--default {field}: a policy has no such field", ExitCode.USAGE, f"There are: {known}")
        changes[field] = None
    if not changes:
        fail(
            "nothing to change",
            ExitCode.USAGE,
            f"Say what, such as --max-queued 100; to see the policy: spoolway backend show {name}",
        )
    backend = await admin.set_backend_policy(name, etag=etag, **changes)
    if as_json:
        write_json(backend)
    else:
        write_facts([("backend", backend.name), *_policy_facts(backend)])


@calls_admin
async def unregister(
    admin: "AdminClient",
    name: _Name,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it has jobs that have not ended: they wait.")
    ] = False,
    etag: Annotated[
        str, typer.Option(help="Only this version of its config, which `backend show --json` tells.")
    ] = "",
    as_json: _Json = False,
) -> None:
    """Let a backend be listed, take and give jobs no more, until its spooler registers it again.

    Its jobs stay to be read, and its policy stays.
    """
    left = await admin.unregister_backend(name, etag=etag, force=force)
    if as_json:
        write_json({"backend": name, "unfinished_jobs": left})
    else:
        say(f"Backend {name} is unregistered." + (f" {left} jobs have not ended: they wait." if left else ""))


@calls_admin
async def purge(
    admin: "AdminClient",
    name: _Name,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="HOURS", help="Only jobs that ended so long ago.")
    ] = None,
    cancel_queued: Annotated[bool, typer.Option("--cancel-queued", help="Cancel what waits, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: _Json = False,
) -> None:
    """Delete the jobs of a backend that have ended, with their results, for ever."""
    if not yes and not typer.confirm(f"Delete the ended jobs of {name} with their results?", err=True):
        raise typer.Exit(ExitCode.ENDED_BADLY)
    before = None if older_than is None else datetime.now(UTC) - timedelta(hours=older_than)
    deleted = cancelled = 0
    async for step in admin.purge_backend(name, ended_before=before, cancel_queued=cancel_queued):
        deleted, cancelled = deleted + step.deleted, cancelled + step.cancelled
        if not as_json:
            say(f"{deleted} deleted, {cancelled} cancelled so far")
    if as_json:
        write_json({"deleted": deleted, "cancelled": cancelled})
    else:
        put(f"{deleted} deleted, {cancelled} cancelled")


def _tell(backend: "Backend", as_json: bool) -> None:
    if as_json:
        write_json(backend)
    else:
        write_facts(_standing(backend))


def _standing(backend: "Backend") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = [
        ("backend", backend.name),
        ("takes jobs", "yes" if backend.status.operational else "no"),
        ("status", backend.status.status_msg),
        ("waiting", backend.status.pending_jobs),
        ("storage", backend.storage),
        ("version", backend.status.backend_version),
        ("description", backend.config.get("description", "")),
    ]
    return [(name, value) for name, value in pairs if value != ""]


def _policy_facts(backend: "Backend") -> Iterator[tuple[str, object]]:
    for field in fields(backend.policy):
        yield field.name, _shown(getattr(backend.policy, field.name), field.name, backend.policy)


def _shown(value: object, field: str, policy: "BackendPolicy") -> object:
    if value is None:
        waits = "24 h" if policy.max_attempts == 1 else "0 s"
        for_ever = dict.fromkeys(("retention", "foreign_claim_timeout"), "for ever")
        return {"max_run_time": "no limit", "lost_timeout": waits, **for_ever}.get(field, "0 s")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if value or field != "max_queued" else "no limit"
