"""Where the server is and who calls: argument, else environment, else profile file, else default."""

import getpass
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spoolway.errors import SettingsError

__all__ = ["DEFAULT_ADDRESS", "SYSTEM_CA", "Settings", "resolve_settings"]

DEFAULT_ADDRESS = "127.0.0.1:50061"
SYSTEM_CA = "system"
"""Value of `ca` that means TLS with the certificate authorities that gRPC brings."""

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
"""Users and spoolers."""
BACKEND_PATTERN = re.compile(r"[a-z0-9]{1,64}")

_VARIABLES = {
    "address": "SPOOLWAY_ADDRESS",
    "token": "SPOOLWAY_TOKEN",
    "user": "SPOOLWAY_USER",
    "ca": "SPOOLWAY_CA",
    "client_cert": "SPOOLWAY_CLIENT_CERT",
    "client_key": "SPOOLWAY_CLIENT_KEY",
}
_FILES = ("ca", "client_cert", "client_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the server is and who calls."""

    address: str
    """host:port, or any target that gRPC knows, such as dns:///host:port."""
    user: str
    """Sent as metadata `spoolway-user`."""
    token: str | None = field(default=None, repr=False)
    """Sent as a bearer token; None: none."""
    ca: str | None = None
    """File of the certificate authority, `system` for those that gRPC brings, None for no TLS."""
    client_cert: str | None = None
    """File of the caller's own certificate, where the server wants one (mutual TLS)."""
    client_key: str | None = None
    """File of its private key."""


def resolve_settings(
    *,
    address: str | None = None,
    token: str | None = None,
    user: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    profile: str | None = None,
    env: Mapping[str, str] | None = None,
    login: Callable[[], str] = getpass.getuser,
) -> Settings:
    """Put the settings together: argument, else environment, else profile, else default.

    Args:
        address: host:port of the server.
        token: Bearer token.
        user: Name of the caller.
        ca: File of the server's certificate authority, or `system`.
        profile: Name of a table in the profile file; default: `SPOOLWAY_PROFILE`, else `default`.
        env: The environment; default: the process's.
        login: Tells the name of the operating system's user.

    Raises:
        SettingsError: a value is wrong, or the profile that was named does not exist.
    """
    env = os.environ if env is None else env
    given: dict[str, str | None] = {
        "address": address,
        "token": token,
        "user": user,
        "ca": os.fspath(ca) if ca is not None else None,
    }
    from_env = {name: env.get(variable) for name, variable in _VARIABLES.items()}
    from_profile = _read_profile(profile or env.get("SPOOLWAY_PROFILE") or None, env)
    found = {name: given.get(name) or from_env[name] or from_profile.get(name) for name in _VARIABLES}
    ca, client_cert, client_key = (_checked_file(name, found[name]) for name in _FILES)
    if (client_cert is None) != (client_key is None) or (client_cert and ca is None):
        raise SettingsError("client_cert and client_key go together, and with `ca`; give all three")
    return Settings(
        address=_checked_address(found["address"] or DEFAULT_ADDRESS),
        user=_checked_user(found["user"]) if found["user"] else _login_name(login),
        token=_checked_token(found["token"]),
        ca=ca,
        client_cert=client_cert,
        client_key=client_key,
    )


def profiles_file(env: Mapping[str, str]) -> Path:
    """The file that holds the profiles; it need not exist."""
    if override := env.get("SPOOLWAY_PROFILES_FILE"):
        return Path(override).expanduser()
    if sys.platform == "win32":
        return Path(env.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "spoolway" / "profiles.toml"
    return Path(env.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "spoolway" / "profiles.toml"


def _read_profile(name: str | None, env: Mapping[str, str]) -> dict[str, str]:
    path = profiles_file(env)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if name is None:
            return {}
        raise SettingsError(
            f"profile {name!r} was asked for, but there is no file {path}; create it"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"can't read the profiles in {path}: {error}") from error
    table = tables.get(name or "default")
    if table is None and name is None:
        return {}
    if not isinstance(table, dict):
        known = ", ".join(sorted(tables)) or "none"
        raise SettingsError(f"there is no profile {name!r} in {path}; it has: {known}")
    return _checked_profile(table, path)


def _checked_profile(table: dict[str, Any], path: Path) -> dict[str, str]:
    for key, value in table.items():
        if key not in _VARIABLES:
            raise SettingsError(f"{path}: unknown key {key!r}; known are {', '.join(_VARIABLES)}")
        if not isinstance(value, str):
            raise SettingsError(f"{path}: {key} must be a text")
    for name in _FILES:
        if table.get(name) and table[name] != SYSTEM_CA:
            # A relative path in a file is meant from where the file lies.
            table[name] = str(path.parent / Path(table[name]).expanduser())
    return table


def _checked_address(address: str) -> str:
    if re.match(r"(https?|grpcs?)://", address):
        raise SettingsError(f"address {address!r} must be host:port, without a scheme; for TLS give `ca`")
    return address


def _checked_user(user: str) -> str:
    if not NAME_PATTERN.fullmatch(user):
        raise SettingsError(f"user {user!r} must match ^{NAME_PATTERN.pattern}$")
    return user


def _login_name(login: Callable[[], str]) -> str:
    """The operating system's user, made to fit the pattern of user names."""
    try:
        name = login()
    except (OSError, KeyError, ImportError):
        # A container may run under a number that has no name.
        name = ""
    fitting = re.sub(r"[^A-Za-z0-9._@-]", "-", name).lstrip("._@-")[:64]
    return fitting or "anonymous"


def _checked_token(token: str | None) -> str | None:
    if token is None or not (token := token.strip()):
        return None
    if not token.isascii() or not token.isprintable():
        raise SettingsError("the token has characters that no token has; was something else pasted?")
    return token


def _checked_file(name: str, value: str | None) -> str | None:
    if not value or (name == "ca" and value == SYSTEM_CA):
        return value or None
    path = Path(value).expanduser()
    if not path.is_file():
        wanted = "the server's CA certificate, or `system`" if name == "ca" else "a file in PEM"
        raise SettingsError(f"there is no file {path} for `{name}`; give {wanted}")
    return str(path)
