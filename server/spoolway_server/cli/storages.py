"""The commands about storages, for operators."""

from typing import TYPE_CHECKING, Annotated

import typer

from spoolway_server.cli.admin import calls_admin
from spoolway_server.cli.exits import ExitCode
from spoolway_server.cli.output import write_json, write_table

if TYPE_CHECKING:
    from spoolway import AdminClient, Storage, StorageTestStep

__all__ = ["list_storages", "try_storage"]

_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


@calls_admin
async def list_storages(admin: "AdminClient", as_json: _Json = False) -> None:
    """List the storages, and whether they answer."""
    storages = await admin.storages()
    if as_json:
        write_json({"storages": storages})
        return
    write_table(
        ("STORAGE", "TYPE", "STATUS", "DESCRIPTION"),
        ([storage.name, storage.type, _standing(storage), storage.description] for storage in storages),
        empty="No storages.",
    )


@calls_admin
async def try_storage(
    admin: "AdminClient",
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the storage.")],
    as_json: _Json = False,
) -> None:
    """Try everything that a storage must be able to do; exit code 1 if a step fails."""
    report = await admin.test_storage(name)
    if as_json:
        write_json(report)
    else:
        write_table(
            ("STEP", "RESULT", "MS", "ADVICE"),
            (
                [step.name, "ok" if step.passed else "FAILED", _milliseconds(step), step.advice]
                for step in report.steps
            ),
            empty="The test has no steps.",
        )
    if not report.passed:
        raise typer.Exit(ExitCode.ENDED_BADLY)


def _milliseconds(step: "StorageTestStep") -> str:
    return f"{step.duration.total_seconds() * 1000:.1f}"


def _standing(storage: "Storage") -> str:
    words = ["ok" if storage.serving else f"in trouble: {storage.message}"]
    words += ["default"] * storage.is_default + ["inactive"] * (not storage.active)
    return ", ".join(words)
