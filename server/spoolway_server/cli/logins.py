"""How a command gets a login: from options, from the environment, from files, or by asking; secrets never
from the command line, which others can see.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spoolway_server.cli.exits import ExitCode, fail

if TYPE_CHECKING:
    from spoolway import LoginField, ProviderType

__all__ = ["FromEnv", "FromFile", "LoginOptions", "Set", "ask", "can_ask"]

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A field of the login that is no secret."),
]
FromEnv = Annotated[
    list[str] | None,
    typer.Option("--from-env", metavar="FIELD=VARIABLE", help="A field of the login, from the environment."),
]
FromFile = Annotated[
    list[str] | None,
    typer.Option("--from-file", metavar="FIELD=FILE", help="A field of the login, from a file; - is stdin."),
]


class LoginOptions:
    """The fields of a login that the command line gives."""

    def __init__(
        self,
        kind: "ProviderType",
        set_fields: Iterable[str] | None,
        from_env: Iterable[str] | None,
        from_file: Iterable[str] | None,
    ) -> None:
        """For a storage of this type; ends the command if an option is wrong."""
        self._kind = kind
        self._fields = {field.name: field for field in kind.login_fields}
        self._given = {
            name: self._open_value(name, value) for name, value in self._pairs("--set", set_fields)
        }
        for name, variable in self._pairs("--from-env", from_env):
            self._given[name] = _from_env(variable)
        for name, file in self._pairs("--from-file", from_file):
            self._given[name] = _from_file(file)

    def given(self) -> dict[str, str]:
        """What the options give."""
        return dict(self._given)

    def asked(self, names: Iterable[str]) -> dict[str, str]:
        """These fields, asked for, secrets unseen; ends the command where nobody can be asked."""
        return {name: self._ask(self._field(name, "--ask")) for name in names}

    def _ask(self, field: "LoginField") -> str:
        how = "--from-env or --from-file" if field.secret else "--set"
        description = field.description.rstrip(".")
        return ask(
            f"{field.name} ({description})",
            hidden=field.secret,
            missing=f"give {field.name} by {how}; it is: {description}",
        )

    def _pairs(self, option: str, given: Iterable[str] | None) -> list[tuple[str, str]]:
        pairs = []
        for text in given or ():
            name, separator, value = text.partition("=")
            if not separator:
                # Without the text: it may be a secret in the wrong place.
                fail(
                    f"{option} takes FIELD=...",
                    ExitCode.USAGE,
                    f"Such as {option} {next(iter(self._fields))}=...",
                )
            pairs.append((self._field(name, option).name, value))
        return pairs

    def _field(self, name: str, option: str) -> "LoginField":
        if name not in self._fields:
            fail(
                f"{option}: a {self._kind.name} storage has no such field in its login",
                ExitCode.USAGE,
                f"It has: {', '.join(self._fields) or 'none'}",
            )
        return self._fields[name]

    def _open_value(self, name: str, value: str) -> str:
        if self._fields[name].secret:
            fail(
                f"--set {name}: a secret is not given on the command line, which others can see",
                ExitCode.USAGE,
                f"Leave it out to be asked, or give --from-env {name}=VARIABLE or --from-file {name}=FILE. "
                "What was written here may be known now: change it",
            )
        return value


def ask(question: str, *, missing: str, hidden: bool = False) -> str:
    """The answer of whoever sits there; ends the command with `missing` as advice if nobody does."""
    if not can_ask():
        fail(
            "something is missing, and nobody can be asked", ExitCode.USAGE, missing[0].upper() + missing[1:]
        )
    answer: str = typer.prompt(question, hide_input=hidden, err=True)
    return answer


def can_ask() -> bool:
    """Whether somebody sits there."""
    return sys.stdin.isatty()


def _from_env(variable: str) -> str:
    if variable not in os.environ:
        fail(f"the variable {variable} is not set", ExitCode.USAGE)
    return os.environ[variable]


def _from_file(file: str) -> str:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} can't be read: {error}", ExitCode.USAGE)
    return text.rstrip("\r\n")
