"""From the fields of a login to a connection string, without letting the password out."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus, urlsplit

import msgspec

from spoolway_providers.interface import LoginField

__all__ = ["LOGIN_FIELDS", "Login", "login_of"]

LOGIN_FIELDS = (
    LoginField("mongodb_username", "Name of the database user.", required=False),
    LoginField("mongodb_password", "Password of the database user.", required=False, secret=True),
    LoginField(
        "mongodb_database_url",
        "The cluster's host as Atlas gives it, such as cluster0.ab1cd.mongodb.net; found by SRV, with TLS.",
        required=False,
    ),
    LoginField(
        "uri",
        "A full connection string instead of the three fields, such as mongodb://user:password@host:27017/.",
        required=False,
        secret=True,
    ),
    LoginField("database", "Name of the database that holds all.", required=False, default="spoolway"),
)

_THREE_FIELDS = ("mongodb_username", "mongodb_password", "mongodb_database_url")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?){2,}")
_DATABASE = re.compile(r"[A-Za-z0-9_-]{1,63}")


class Login(msgspec.Struct, frozen=True):
    """How to reach the database. Its text never shows the password."""

    uri: str
    database: str
    host: str
    """The host or hosts, for messages."""

    def __repr__(self) -> str:
        return f"Login(host={self.host!r}, database={self.database!r})"


def login_of(fields: Mapping[str, Any]) -> Login:
    """Make a login from the fields that an operator gave.

    Raises:
        ValueError: names the wrong field, and never its value if that is a secret.
    """
    values = _texts(fields)
    database = values.pop("database", "") or "spoolway"
    if not _DATABASE.fullmatch(database):
        raise ValueError("database: must be 1 to 63 letters, digits, '-' or '_'")
    if "uri" in values:
        if len(values) > 1:
            raise ValueError("uri: give either it, or mongodb_username, mongodb_password and the host")
        return Login(values["uri"], database, _host_of_uri(values["uri"]))
    missing = [name for name in _THREE_FIELDS if name not in values]
    if missing:
        raise ValueError(f"{missing[0]}: is missing; give all three fields, or a connection string as uri")
    host = _host(values["mongodb_database_url"])
    user, password = (quote_plus(values[name]) for name in _THREE_FIELDS[:2])
    return Login(f"mongodb+srv://{user}:{password}@{host}/", database, host)


def _texts(fields: Mapping[str, Any]) -> dict[str, str]:
    """The fields that have a value."""
    unknown = set(fields) - {field.name for field in LOGIN_FIELDS}
    if unknown:
        raise ValueError(f"a mongodb storage takes no login field {', '.join(sorted(unknown))!r}")
    for name, value in fields.items():
        if not isinstance(value, str):
            raise ValueError(f"{name}: must be a text")
        if "\0" in value:
            raise ValueError(f"{name}: must not contain a NUL character")
    return {name: value for name, value in fields.items() if value}


def _host(text: str) -> str:
    """The host, also if it was pasted as a whole address."""
    host = text.strip().removeprefix("mongodb+srv://").split("/", 1)[0].lower()
    if "@" in host:
        raise ValueError("mongodb_database_url: must be the host alone, without user and password")
    if not _HOST.fullmatch(host):
        raise ValueError(
            "mongodb_database_url: must be a host as Atlas gives it, such as cluster0.ab1cd.mongodb.net; "
            "for a server of your own give a connection string as uri"
        )
    return host


def _host_of_uri(uri: str) -> str:
    if not uri.startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("uri: must begin with mongodb:// or mongodb+srv://")
    # The driver demands that '@' and '/' in a password are escaped: what follows the last '@' is no secret.
    host = urlsplit(uri).netloc.rpartition("@")[2]
    if not host or "/" in uri.split("://", 1)[1].rpartition("@")[0]:
        raise ValueError("uri: has no host, or a user or password whose special characters are not %-escaped")
    return host
