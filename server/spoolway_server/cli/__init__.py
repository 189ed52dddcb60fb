"""The command line: `spoolway serve` for operators, `submit`, `watch`, `result` and others for clients.

Everything goes through the client package, as anybody's program would. Tables are for people, `--json` is for
programs: one document on stdout. Messages and progress go to stderr. Exit codes: `exits.ExitCode`.
"""

import os
import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from spoolway_server.cli import (
    backends,
    config,
    demo,
    health,
    jobs,
    keys,
    operations,
    serve,
    spoolers,
    storages,
    tokens,
    top,
    trail,
)
from spoolway_server.cli.exits import ExitCode

__all__ = ["app", "main"]

# No pretty exceptions: they show local variables, logins among them.
app = typer.Typer(
    name="spoolway",
    help="Submit jobs to laboratory machines and simulators, and serve them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
job_app = typer.Typer(help="Look after one job.", no_args_is_help=True)
storage_app = typer.Typer(help="Look after one storage.", no_args_is_help=True)
backend_app = typer.Typer(help="Look after one backend.", no_args_is_help=True)
operation_app = typer.Typer(help="Look after work that takes long.", no_args_is_help=True)
spooler_app = typer.Typer(help="Look after the spoolers.", no_args_is_help=True)
token_app = typer.Typer(help="Look after the access tokens.", no_args_is_help=True)
admin_app = typer.Typer(help="Set up a server: its first access token, its keys.", no_args_is_help=True)
config_app = typer.Typer(help="Look after the server's configuration.", no_args_is_help=True)

_FOR_CLIENTS = "Jobs"
_FOR_OPERATORS = "Server"

for command in (
    jobs.submit,
    jobs.status,
    jobs.watch,
    jobs.result,
    jobs.cancel,
):
    app.command(rich_help_panel=_FOR_CLIENTS)(command)
app.command("jobs", rich_help_panel=_FOR_CLIENTS)(jobs.list_jobs)
app.add_typer(job_app, name="job", rich_help_panel=_FOR_CLIENTS)
app.command("backends", rich_help_panel=_FOR_CLIENTS)(backends.list_backends)
app.command(rich_help_panel=_FOR_OPERATORS)(serve.serve)
app.command(rich_help_panel=_FOR_OPERATORS)(health.health)
app.command(rich_help_panel=_FOR_OPERATORS)(top.top)
app.command("storages", rich_help_panel=_FOR_OPERATORS)(storages.list_storages)
app.command(rich_help_panel=_FOR_OPERATORS)(demo.demo)
app.add_typer(backend_app, name="backend", rich_help_panel=_FOR_OPERATORS)
app.add_typer(spooler_app, name="spooler", rich_help_panel=_FOR_OPERATORS)
app.add_typer(token_app, name="token", rich_help_panel=_FOR_OPERATORS)
app.add_typer(storage_app, name="storage", rich_help_panel=_FOR_OPERATORS)
app.add_typer(operation_app, name="operation", rich_help_panel=_FOR_OPERATORS)
app.add_typer(admin_app, name="admin", rich_help_panel=_FOR_OPERATORS)
app.add_typer(config_app, name="config", rich_help_panel=_FOR_OPERATORS)
job_app.command("explain")(jobs.explain)
job_app.command("retry")(jobs.retry)
job_app.command("delete")(jobs.delete)
job_app.command("hold")(jobs.hold)
job_app.command("resume")(jobs.resume)
job_app.command("fail")(jobs.fail_held)
storage_app.command("list")(storages.list_storages)
storage_app.command("show")(storages.show)
storage_app.command("add")(storages.add)
storage_app.command("update")(storages.update)
storage_app.command("test")(storages.try_storage)
storage_app.command("activate")(storages.activate)
storage_app.command("deactivate")(storages.deactivate)
storage_app.command("delete")(storages.delete)
storage_app.command("copy")(operations.copy)
storage_app.command("import")(operations.import_into)
storage_app.command("check")(operations.check)
storage_app.command("backup")(operations.backup)
operation_app.command("list")(operations.list_operations)
operation_app.command("show")(operations.show)
operation_app.command("watch")(operations.watch)
operation_app.command("cancel")(operations.cancel)
backend_app.command("list")(backends.list_backends)
backend_app.command("show")(backends.show)
backend_app.command("pause")(backends.pause)
backend_app.command("resume")(backends.resume)
backend_app.command("policy")(backends.policy)
backend_app.command("unregister")(backends.unregister)
backend_app.command("purge")(backends.purge)
spooler_app.command("list")(spoolers.list_spoolers)
spooler_app.command("revoke")(spoolers.revoke)
app.command(rich_help_panel=_FOR_OPERATORS)(trail.audit)
token_app.command("create")(tokens.create)
token_app.command("list")(tokens.list_tokens)
token_app.command("revoke")(tokens.revoke)
admin_app.command("init")(tokens.make_first_token)
admin_app.command("new-key")(keys.make_key)
admin_app.command("rotate-key")(keys.rotate_key)
config_app.command("check")(config.check)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spoolway {version('spoolway-server')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Submit jobs to laboratory machines and simulators, and serve them."""


def main() -> None:
    """Run the command line of this process; the entry point of `spoolway`."""
    # A plot or a job's label must not fail where the terminal's encoding lacks a character.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # gRPC's own notes, such as on a server that goes, would stand between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        app(prog_name="spoolway")
    except Exception:  # noqa: BLE001  # the edge of the program: 1, Python's own code, means something else here
        traceback.print_exc()
        sys.exit(ExitCode.FAULT)
