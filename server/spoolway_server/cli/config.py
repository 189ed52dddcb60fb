"""The commands about the server's configuration."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from spoolway_server.cli.exits import ExitCode, fail
from spoolway_server.cli.output import say, write_facts, write_json
from spoolway_server.config import Config, ConfigError, load_config
from spoolway_server.logs import HIDDEN
from spoolway_server.mistakes import shown

__all__ = ["check", "read_config"]

DEFAULT_FILE = Path("spoolway.toml")


def check(
    file: Annotated[
        Path | None,
        typer.Argument(
            envvar="SPOOLWAY_CONFIG",
            help="The TOML file; else spoolway.toml, if there is one.",
            dir_okay=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="All settings as JSON on stdout, logins hidden.")
    ] = False,
) -> None:
    """Check a configuration, environment included: all mistakes, or what the server would do."""
    config = read_config(file)
    _check_key(config)
    _check_certificate(config)
    document = _without_logins(config)
    if as_json:
        write_json(document)
        return
    write_facts((path, shown(value)) for path, value in _flat(document))
    say("The configuration is good.")


def read_config(file: Path | None, overrides: Mapping[str, object] | None = None) -> Config:
    """The configuration of `file`, else of spoolway.toml if there is one; ends the command if it is wrong.

    Args:
        file: as given on the command line.
        overrides: values by dotted path, from the command line; they win over everything.
    """
    if file is None and DEFAULT_FILE.is_file():
        file = DEFAULT_FILE
    try:
        return load_config(file, os.environ, overrides=overrides)
    except ConfigError as error:
        count = len(error.mistakes)
        lines = "".join(f"\n  {mistake}" for mistake in error.mistakes)
        what = "is one mistake" if count == 1 else f"are {count} mistakes"
        fail(f"there {what} in the configuration ({file or 'environment alone'}):{lines}", ExitCode.REFUSED)


def _check_key(config: Config) -> None:
    # Only now: it brings gRPC.
    from spoolway_server.vault import KeyMistake, Vault

    try:
        Vault.load(config.catalog.key_file, os.environ)
    except KeyMistake as error:
        fail(str(error), ExitCode.REFUSED)


def _check_certificate(config: Config) -> None:
    # Only now: it brings gRPC.
    from spoolway_server.tls import server_credentials

    try:
        server_credentials(config.tls)
    except ConfigError as error:
        fail(str(error), ExitCode.REFUSED)


def _without_logins(config: Config) -> dict[str, Any]:
    document = config.model_dump(mode="json")
    for table in document["storages"].values():
        table |= dict.fromkeys(table.pop("login"), HIDDEN)
    if document["catalog"]["uri"]:
        document["catalog"]["uri"] = HIDDEN
    return document


def _flat(document: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in document.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return pairs
