"""The command `serve`."""

import asyncio
import gc
from pathlib import Path
from typing import Annotated

import typer

from spoolway_server.cli.config import read_config
from spoolway_server.cli.exits import ExitCode, fail
from spoolway_server.cli.output import put
from spoolway_server.config import Config, ConfigError
from spoolway_server.logs import setup_logging

__all__ = ["serve"]


def serve(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar="SPOOLWAY_CONFIG",
            help="The TOML file; else spoolway.toml, if it is there.",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on, instead of the configured one.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port, instead of the configured one; 0: any free one.")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Listen beyond this machine without TLS or access tokens."),
    ] = False,
) -> None:
    """Run the server until it is stopped (Ctrl-C or SIGTERM); calls under way may end first."""
    options = {"server.host": host, "server.port": port, "server.insecure": insecure or None}
    settings = read_config(config, {path: value for path, value in options.items() if value is not None})
    setup_logging(log_format=settings.server.log_format, level=settings.server.log_level)
    # Jobs come and go by reference counts; looking for cycles at each 700 of them took an eighth of the time.
    gc.set_threshold(20_000, 50, 100)
    try:
        asyncio.run(_run(settings))
    except OSError as error:
        fail(str(error), ExitCode.UNAVAILABLE)
    except KeyboardInterrupt:  # where signals can't be handled otherwise
        fail("stopped", ExitCode.INTERRUPTED)


async def _run(settings: Config) -> None:
    # Only now: it brings gRPC and the storages' drivers.
    from spoolway_server.app import SpoolwayServer
    from spoolway_server.tracing import TracingMissing, start_tracing
    from spoolway_server.vault import KeyMistake

    try:
        tracing = start_tracing() if settings.tracing.enabled else None
        server = SpoolwayServer(settings, tracing=tracing)
    except (KeyMistake, ConfigError, TracingMissing) as error:
        fail(str(error), ExitCode.REFUSED)
    await server.start()
    serving = asyncio.create_task(server.run_until_signal())
    # Until it listens for signals: who reads the address may send one at once.
    await asyncio.sleep(0)
    put(server.address)
    await serving
