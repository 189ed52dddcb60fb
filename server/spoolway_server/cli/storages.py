"""The commands about storages, for operators."""

from typing import TYPE_CHECKING, Annotated

import typer

from spoolway_server.cli.admin import calls_admin
from spoolway_server.cli.exits import ExitCode, fail
from spoolway_server.cli.logins import FromEnv, FromFile, LoginOptions, Set, ask, can_ask
from spoolway_server.cli.output import put, say, write_facts, write_json, write_table

if TYPE_CHECKING:
    from spoolway import AdminClient, ProviderType, Storage, StorageStats, StorageTestStep

__all__ = [
    "activate",
    "add",
    "deactivate",
    "delete",
    "find_type",
    "list_storages",
    "show",
    "try_storage",
    "update",
]

_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the storage.")]
_Description = Annotated[str | None, typer.Option(help="What it is, for people.")]
_Owner = Annotated[str | None, typer.Option(help="Who answers for it: a user's name.")]
_Etag = Annotated[
    str, typer.Option(help="Only if it is still this version, which `storage show --json` tells.")
]


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
async def show(admin: "AdminClient", name: _Name, as_json: _Json = False) -> None:
    """Show one storage: how it stands, and what lies in it."""
    storage = await admin.storage(name)
    stats = await admin.storage_stats(name) if storage.serving else None
    if as_json:
        write_json({"storage": storage, "stats": stats})
        return
    write_facts([*_facts(storage), *(_figures(stats) if stats else [])])


@calls_admin
async def add(
    admin: "AdminClient",
    type_name: Annotated[
        str, typer.Argument(metavar="TYPE", help="Such as sqlite, local, mongodb or dropbox.")
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="1 to 64 of a-z and 0-9; asked for if missing.")
    ] = None,
    set_fields: Set = None,
    from_env: FromEnv = None,
    from_file: FromFile = None,
    description: _Description = None,
    owner: _Owner = None,
    inactive: Annotated[bool, typer.Option("--inactive", help="It takes no jobs until activated.")] = False,
    as_json: _Json = False,
) -> None:
    """Add a storage while the server runs; what is missing of its login is asked for.

    An account that has a page to sign in, as Dropbox has, is signed in to: the page's address is shown, and
    the code that it gives is asked for.
    """
    kind = await find_type(admin, type_name)
    options = LoginOptions(kind, set_fields, from_env, from_file)
    login = await _whole_login(admin, kind, options)
    storage = await admin.add_storage(
        name or ask("Name of the storage", missing="name it: spoolway storage add TYPE NAME"),
        type_name,
        login,
        description=description or "",
        owner=owner or "",
        active=not inactive,
    )
    _tell(storage, as_json)


@calls_admin
async def update(
    admin: "AdminClient",
    name: _Name,
    set_fields: Set = None,
    from_env: FromEnv = None,
    from_file: FromFile = None,
    ask_for: Annotated[
        list[str] | None, typer.Option("--ask", metavar="FIELD", help="Ask for a field of the login.")
    ] = None,
    sign_in: Annotated[bool, typer.Option("--sign-in", help="Sign in to the account anew.")] = False,
    description: _Description = None,
    owner: _Owner = None,
    etag: _Etag = "",
    as_json: _Json = False,
) -> None:
    """Change a storage: the given options, and nothing else; jobs that run go on."""
    login = None
    if set_fields or from_env or from_file or ask_for or sign_in:
        kind = await find_type(admin, (await admin.storage(name)).type)
        options = LoginOptions(kind, set_fields, from_env, from_file)
        login = options.given() | options.asked(ask_for or ())
        if sign_in:
            login = await _signed_in(admin, kind, options, login)
    if login is None and description is None and owner is None:
        fail("nothing to change", ExitCode.USAGE, "Say what, such as --description or --ask password")
    storage = await admin.update_storage(
        name, etag=etag, description=description, owner=owner, login_fields=login
    )
    _tell(storage, as_json)


@calls_admin
async def activate(admin: "AdminClient", name: _Name, as_json: _Json = False) -> None:
    """Let a storage take submits and give jobs."""
    _tell(await admin.activate_storage(name), as_json)


@calls_admin
async def deactivate(admin: "AdminClient", name: _Name, as_json: _Json = False) -> None:
    """Let a storage take no submits and give no jobs; jobs that run end as always."""
    _tell(await admin.deactivate_storage(name), as_json)


@calls_admin
async def delete(
    admin: "AdminClient",
    name: _Name,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it holds jobs that have not ended, or does not answer.")
    ] = False,
    etag: _Etag = "",
) -> None:
    """Forget a storage and its login; what lies in it stays there."""
    await admin.delete_storage(name, etag=etag, force=force)
    say(f"Storage {name} is forgotten; what lies in it is still there.")


@calls_admin
async def try_storage(
    admin: "AdminClient",
    name: _Name,
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


async def find_type(admin: "AdminClient", name: str) -> "ProviderType":
    """A type of storage that the server can hold; else the command ends."""
    types = {kind.name: kind for kind in await admin.provider_types()}
    if name not in types:
        fail(f"there is no type of storage {name}", ExitCode.NOT_FOUND, f"There are: {', '.join(types)}")
    if types[name].unavailable:
        fail(types[name].unavailable, ExitCode.REFUSED)
    return types[name]


async def _whole_login(admin: "AdminClient", kind: "ProviderType", options: LoginOptions) -> dict[str, str]:
    login = options.given()
    if kind.sign_in_field and kind.sign_in_field not in login and can_ask():
        return await _signed_in(admin, kind, options, login)
    missing = [field.name for field in kind.login_fields if field.required and field.name not in login]
    return login | options.asked(missing)


async def _signed_in(
    admin: "AdminClient", kind: "ProviderType", options: LoginOptions, login: dict[str, str]
) -> dict[str, str]:
    """The login with a code instead of the field that it stands for."""
    needed = [one.name for one in kind.login_fields if one.required and one.name != kind.sign_in_field]
    login = login | options.asked([name for name in needed if name not in login])
    page = await admin.sign_in_page(kind.name, login)
    say("Open this page as the account's owner, allow access, and copy the code that it shows:")
    put(page)
    code = ask("Code", hidden=True, missing=f"give {kind.sign_in_field} by --from-env or --from-file")
    return login | {"authorization_code": code}


def _tell(storage: "Storage", as_json: bool) -> None:
    if as_json:
        write_json(storage)
    else:
        write_facts(_facts(storage))


def _facts(storage: "Storage") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = [
        ("storage", storage.name),
        ("type", storage.type),
        ("status", _standing(storage)),
        ("owner", storage.owner),
        ("description", storage.description),
        ("declared in", "the server's configuration: read-only" if storage.read_only else ""),
    ]
    return [(name, value) for name, value in pairs if value]


def _figures(stats: "StorageStats") -> list[tuple[str, object]]:
    jobs = ", ".join(f"{number} {state}" for state, number in stats.jobs.items())
    return [("backends", stats.backends), ("sessions", stats.sessions), ("jobs", jobs or "none")]


def _milliseconds(step: "StorageTestStep") -> str:
    return f"{step.duration.total_seconds() * 1000:.1f}"


def _standing(storage: "Storage") -> str:
    words = ["ok" if storage.serving else f"in trouble: {storage.message}"]
    words += ["default"] * storage.is_default + ["inactive"] * (not storage.active)
    return ", ".join(words)
