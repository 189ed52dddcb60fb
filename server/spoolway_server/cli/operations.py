"""The commands about work that takes long: copies, checks and backups of storages, and operations."""

import asyncio
import os
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spoolway_server.cli.admin import calls_admin
from spoolway_server.cli.config import read_config
from spoolway_server.cli.exits import ExitCode, fail
from spoolway_server.cli.logins import FromEnv, FromFile, LoginOptions, Set
from spoolway_server.cli.output import ago, console, put, say, write_facts, write_json, write_table
from spoolway_server.cli.storages import find_type

if TYPE_CHECKING:
    from spoolway import AdminClient, Operation, StorageFinding
    from spoolway_server.config import Config

__all__ = ["backup", "cancel", "check", "copy", "import_into", "list_operations", "show", "watch"]

_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
_Id = Annotated[str, typer.Argument(metavar="OPERATION", help="Id of the operation.")]
_Detach = Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")]


@calls_admin
async def copy(
    admin: "AdminClient",
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Name of the storage; inactive.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Name of the storage to copy into.")],
    detach: _Detach = False,
    as_json: _Json = False,
) -> None:
    """Copy all backends of a storage with their jobs into another one, and turn them to it.

    It goes on when you leave: see `spoolway operation watch`.
    """
    await _follow(admin, await admin.copy_storage(source, target), detach=detach, as_json=as_json)


@calls_admin
async def import_into(
    admin: "AdminClient",
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="mongodb, or local for a folder.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Name of the storage to import into.")],
    set_fields: Set = None,
    from_env: FromEnv = None,
    from_file: FromFile = None,
    owner: Annotated[str, typer.Option(help="Who owns the jobs that do not say it; else you.")] = "",
    detach: _Detach = False,
    as_json: _Json = False,
) -> None:
    """Read what another system has left into a storage; stop that system first.

    Its login is given as for `spoolway storage add`. It goes on when you leave: see `spoolway operation`.
    """
    kind = await find_type(admin, type_name)
    options = LoginOptions(kind, set_fields, from_env, from_file)
    login = options.given()
    login |= options.asked(
        [field.name for field in kind.login_fields if field.required and field.name not in login]
    )
    operation = await admin.import_storage(target, type_name, login, owner=owner)
    await _follow(admin, operation, detach=detach, as_json=as_json)


@calls_admin
async def check(
    admin: "AdminClient",
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the storage.")],
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Read all contents and results to their end.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Look through a storage; exit code 1 if something is left that is not as it must be."""
    findings: list[StorageFinding] = []
    checked = 0
    with _Bar(f"check of {name}") as bar:
        async with aclosing(admin.check_storage(name, repair=repair, verify_checksums=checksums)) as steps:
            async for step in steps:
                findings += step.findings
                checked = step.checked_jobs
                bar.show(step.checked_jobs, step.total_jobs, f"{len(findings)} findings")
    if as_json:
        write_json({"checked_jobs": checked, "findings": findings})
    elif findings:
        rows = ([one.kind, one.subject, "yes" if one.repaired else "NO", one.message] for one in findings)
        write_table(("FINDING", "WHAT", "MENDED", "MORE"), rows, empty="")
    if not as_json:
        say(f"{checked} jobs looked at, {len(findings)} findings.")
    if not all(one.repaired for one in findings):
        raise typer.Exit(ExitCode.ENDED_BADLY)


def backup(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the storage; its type is sqlite.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar="SPOOLWAY_CONFIG",
            help="The server's TOML file; else spoolway.toml, if it is there.",
        ),
    ] = None,
) -> None:
    """Copy the file of a sqlite storage while servers go on using it; on the machine where it lies."""
    from spoolway_providers.errors import ProviderError
    from spoolway_server.errors import ServiceError
    from spoolway_server.vault import KeyMistake

    settings = read_config(config)
    try:
        with _Bar(f"backup of {name}") as bar:
            size = asyncio.run(_back_up(settings, name, file, bar))
    except (KeyMistake, ValueError, OSError, ProviderError) as error:
        fail(f"storage {name} can't be backed up: {error}", ExitCode.REFUSED)
    except ServiceError as error:
        fail(error.message, ExitCode.REFUSED)
    put(str(file))
    say(f"{size} bytes, checked. To go back to it, stop the servers and put it in the storage's place.")


async def _back_up(settings: "Config", name: str, file: Path, bar: "_Bar") -> int:
    from spoolway_providers.registry import make_provider

    provider = make_provider(*await _login(settings, name))
    return await provider.back_up(file, lambda done, of: bar.show(done, of, ""))


async def _login(settings: "Config", name: str) -> tuple[str, dict[str, Any]]:
    """The type and login of a storage, of the configuration or of the catalog."""
    from spoolway_server.catalog import StorageRecord
    from spoolway_server.catalog.opening import make_catalog
    from spoolway_server.vault import Vault

    if name in settings.storages:
        declared = settings.storages[name]
        return declared.type, dict(declared.login)
    catalog = make_catalog(settings)
    await catalog.open()
    try:
        record = await catalog.get(StorageRecord, name)
    finally:
        await catalog.close()
    if record is None:
        fail(f"there is no storage {name}", ExitCode.NOT_FOUND, "`spoolway storages` lists them.")
    vault = Vault.load(settings.catalog.key_file, os.environ)
    return record.type, dict(vault.open(name, record.login))


@calls_admin
async def list_operations(admin: "AdminClient", as_json: _Json = False) -> None:
    """List the operations of the last 30 days, the newest first."""
    operations = await admin.operations()
    if as_json:
        write_json({"operations": operations})
        return
    write_table(
        ("OPERATION", "TYPE", "FROM", "TO", "STATE", "JOBS", "BEGAN"),
        (
            [one.id, one.type, one.source, one.target, one.state, _jobs(one), ago(one.create_time)]
            for one in operations
        ),
        empty="No operations.",
    )


@calls_admin
async def show(admin: "AdminClient", operation_id: _Id, as_json: _Json = False) -> None:
    """Show one operation."""
    _tell(await admin.operation(operation_id), as_json)


@calls_admin
async def watch(admin: "AdminClient", operation_id: _Id, as_json: _Json = False) -> None:
    """Follow an operation to its end; exit code 1 if it fails or is cancelled."""
    await _follow(admin, await admin.operation(operation_id), detach=False, as_json=as_json)


@calls_admin
async def cancel(admin: "AdminClient", operation_id: _Id, as_json: _Json = False) -> None:
    """Have an operation end as soon as it can; what it has done stays."""
    _tell(await admin.cancel_operation(operation_id), as_json)


async def _follow(admin: "AdminClient", operation: "Operation", *, detach: bool, as_json: bool) -> None:
    if not detach:
        if operation.is_running:
            say(f"Operation {operation.id}. It goes on when you leave.")
        with _Bar(f"{operation.type} of {operation.source}") as bar:
            async with aclosing(admin.watch_operation(operation.id)) as changes:
                async for operation in changes:
                    bar.show(operation.done_jobs, operation.total_jobs, operation.phase)
    _tell(operation, as_json)
    if operation.state in {"FAILED", "CANCELLED"}:
        raise typer.Exit(ExitCode.ENDED_BADLY)


def _tell(operation: "Operation", as_json: bool) -> None:
    if as_json:
        write_json(operation)
        return
    pairs: list[tuple[str, object]] = [
        ("operation", operation.id),
        ("type", operation.type),
        ("from", operation.source),
        ("to", operation.target),
        ("backends", ", ".join(operation.backends)),
        ("state", operation.state),
        ("does", operation.phase),
        ("jobs", _jobs(operation)),
        ("error", operation.message),
        ("by", operation.creator),
    ]
    write_facts([(name, value) for name, value in pairs if value])


def _jobs(operation: "Operation") -> str:
    return f"{operation.done_jobs} of {operation.total_jobs}" if operation.total_jobs else ""


class _Bar:
    """How far something is, on stderr where somebody looks; a context manager."""

    def __init__(self, what: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(
            *columns, console=console(sys.stderr), transient=True, disable=not sys.stderr.isatty()
        )
        self._task = self._progress.add_task(what, total=None, note="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, total: int, note: str) -> None:
        self._progress.update(self._task, completed=done, total=total or None, note=note)
