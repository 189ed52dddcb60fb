"""The commands about the key that encrypts logins."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from spoolway_server.cli.config import read_config
from spoolway_server.cli.exits import ExitCode, fail
from spoolway_server.cli.output import account_name, put, say
from spoolway_server.config import Config, ConfigError

__all__ = ["make_key", "rotate_key"]


def make_key() -> None:
    """Make a key that encrypts the logins of storages, and print it: keep it where the catalog is not."""
    # Only now: it brings gRPC.
    from spoolway_server.vault import KEY_VARIABLE, new_key

    put(new_key())
    say(
        f"Give it to every server as {KEY_VARIABLE}, or in the file that catalog.key_file names. Without it "
        "no stored login can be read: keep a copy, away from the catalog's backups."
    )


def rotate_key(
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
    """Encrypt all stored logins anew, with the first of the keys that are given; servers may go on running.

    Put the new key before the old one, SPOOLWAY_KEY=NEW,OLD, start the servers with both, run this, and then
    drop the old one.
    """
    from spoolway_server.errors import ServiceError
    from spoolway_server.vault import KeyMistake

    settings = read_config(config)
    try:
        count, key_id = asyncio.run(_rotate(settings))
    except (KeyMistake, ConfigError) as error:
        fail(str(error), ExitCode.REFUSED)
    except ServiceError as error:
        fail(error.message, ExitCode.REFUSED)
    say(f"{count} logins were encrypted anew; all are with the key {key_id} now. The other keys can go.")


async def _rotate(settings: Config) -> tuple[int, str]:
    from spoolway_server.catalog import AuditEvent
    from spoolway_server.catalog.opening import make_catalog
    from spoolway_server.vault import Vault, rotate

    vault = Vault.load(settings.catalog.key_file, os.environ)
    catalog = make_catalog(settings)
    await catalog.open()
    try:
        count = await rotate(catalog, vault)
        await catalog.note(
            AuditEvent(
                at=datetime.now(UTC),
                who=account_name(),
                what="RotateKey",
                subject="storages",
                outcome="OK",
                detail=f"{count} logins, key {vault.key_id}",
            )
        )
    finally:
        await catalog.close()
    return count, vault.key_id
