"""The commands about access tokens."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spoolway_server.cli.admin import calls_admin
from spoolway_server.cli.config import read_config
from spoolway_server.cli.exits import ExitCode, fail
from spoolway_server.cli.output import account_name, ago, put, say, write_json, write_table
from spoolway_server.config import Config

if TYPE_CHECKING:
    from spoolway import AdminClient, Token

__all__ = ["create", "list_tokens", "make_first_token", "revoke"]

HEARD_OF_WITHIN_S = 1.5
"""A second is what the catalog promises."""
_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
_ONCE = "It is shown this once; give it to clients as SPOOLWAY_TOKEN."


@calls_admin
async def create(
    admin: "AdminClient",
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the user who calls with it.")],
    role: Annotated[str, typer.Option(help="user, spooler, operator or admin.")] = "user",
    backend: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of a spooler: only this backend; may be given several times."),
    ] = None,
    description: Annotated[str, typer.Option(help="What it is for, for people.")] = "",
    days: Annotated[float | None, typer.Option(min=0, help="It ends by itself after so many days.")] = None,
    as_json: _Json = False,
) -> None:
    """Make an access token and print its secret, which is never shown again."""
    expire_time = None if days is None else datetime.now(UTC) + timedelta(days=days)
    try:
        made = await admin.create_token(
            name, role, backends=backend or (), description=description, expire_time=expire_time
        )
    except ValueError:
        fail(f"there is no role {role[:100]}; there are user, spooler, operator and admin", ExitCode.USAGE)
    if as_json:
        write_json({"token": made.token, "secret": made.secret})
        return
    put(made.secret)
    say(f"Token {made.token.id} of {name}, role {role}. {_ONCE}")


@calls_admin
async def list_tokens(
    admin: "AdminClient",
    of: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this user.")] = None,
    as_json: _Json = False,
) -> None:
    """List the access tokens, without their secrets; also those that are over."""
    tokens = await admin.tokens(of)
    if as_json:
        write_json({"tokens": tokens})
        return
    write_table(
        ("TOKEN", "USER", "ROLE", "BACKENDS", "STATUS", "LAST USE", "DESCRIPTION"),
        (
            [
                token.id,
                token.user,
                token.role,
                " ".join(token.backends),
                _standing(token),
                ago(token.last_use_time),
                token.description,
            ]
            for token in tokens
        ),
        empty="No access tokens.",
    )


@calls_admin
async def revoke(
    admin: "AdminClient",
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `spoolway token list` shows it.")],
    as_json: _Json = False,
) -> None:
    """End an access token for good, with the streams that it opened."""
    revoked = await admin.revoke_token(token_id)
    if as_json:
        write_json(revoked)
    else:
        say(f"token {revoked.id} of {revoked.user} is revoked")


def make_first_token(
    user: Annotated[str, typer.Option(help="The admin's name.")] = "admin",
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
    """Make the first admin's access token, straight in the server's catalog, and print its secret.

    Run it beside the server, as the user that the server runs as; the server may be running. It is also the
    way back in where all admins' tokens are lost.
    """
    # Only now: they bring gRPC.
    from spoolway_server.errors import ServiceError
    from spoolway_server.names import user_name

    settings = read_config(config)
    if settings.catalog_path == ":memory:" and not settings.catalog.uri:
        fail("the catalog is in the server's memory; give it a file, as catalog.path", ExitCode.REFUSED)
    try:
        user_name(user, field="user")
        secret = asyncio.run(_make_first(settings, user))
    except ServiceError as error:
        fail(error.message, ExitCode.REFUSED)
    put(secret)
    say(f"The token of {user}, role admin. {_ONCE}")
    if settings.auth.mode != "tokens":
        say('The server believes tokens once its configuration says mode = "tokens" in [auth].')


async def _make_first(settings: Config, user: str) -> str:
    from spoolway_server.access_tokens import new_token_id, store_new_token
    from spoolway_server.auth import Role
    from spoolway_server.catalog import AuditEvent
    from spoolway_server.catalog.opening import make_catalog

    catalog = make_catalog(settings)
    await catalog.open()
    now, by = datetime.now(UTC), account_name()
    try:
        token_id = new_token_id()
        _, secret = await store_new_token(
            catalog, token_id, user=user, role=Role.ADMIN, created_by=by, now=now, description="admin init"
        )
        await catalog.note(
            AuditEvent(
                at=now,
                who=by,
                what="InitAdmin",
                subject=f"tokens/{token_id}",
                outcome="OK",
                detail=f"user {user}, role admin",
            )
        )
    finally:
        await catalog.close()
    # A script goes on with it at once: servers that run have heard of it by then.
    await asyncio.sleep(HEARD_OF_WITHIN_S)
    return secret


def _standing(token: "Token") -> str:
    if token.revoke_time is not None:
        return "revoked"
    if token.expire_time is None:
        return "good"
    left = token.expire_time - datetime.now(UTC)
    return f"good for {left.days} d" if left > timedelta(0) else "expired"
