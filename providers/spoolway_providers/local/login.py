"""What an operator says about a folder, checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from spoolway_providers.interface import LoginField
from spoolway_providers.local.layout import Naming
from spoolway_providers.local.names import is_backend

__all__ = ["LOGIN_FIELDS", "Settings", "settings_of"]

LOGIN_FIELDS = (
    LoginField("base_path", "Path of the folder; it is made. Not on a network file system."),
    LoginField(
        "layout",
        "Names of the folders: local, or backend_files as Dropbox and the oldest installations have them.",
        required=False,
        default=Naming.LOCAL.value,
    ),
    LoginField(
        "stock_spoolers",
        "Backends, separated by commas, that spoolers of today's systems take jobs of beside us.",
        required=False,
    ),
    LoginField(
        "owner",
        "Who owns a job that somebody dropped into the queue, if its name does not say.",
        required=False,
        default="unknown",
    ),
)


class Settings(msgspec.Struct, frozen=True):
    """A login that is in order."""

    base: Path
    naming: Naming = Naming.LOCAL
    stock_spoolers: frozenset[str] = frozenset()
    owner: str = "unknown"


def settings_of(login: Mapping[str, Any]) -> Settings:
    """Read a login. ValueError names a wrong field."""
    known = {field.name: field for field in LOGIN_FIELDS}
    unknown = set(login) - set(known)
    if unknown:
        raise ValueError(f"a local storage takes no login field {', '.join(sorted(unknown))!r}")
    for name, value in login.items():
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(f"{name}: must be a text")
    path = login.get("base_path", "")
    if not path:
        raise ValueError("base_path: must be the path of a folder")
    return Settings(
        base=Path(path).expanduser().absolute(),
        naming=_naming(login.get("layout") or known["layout"].default),
        stock_spoolers=_backends(login.get("stock_spoolers", "")),
        owner=login.get("owner") or known["owner"].default,
    )


def _naming(name: str) -> Naming:
    if name not in set(Naming):
        raise ValueError(f"layout: {name!r} is none of {', '.join(Naming)}")
    return Naming(name)


def _backends(text: str) -> frozenset[str]:
    names = {name.strip() for name in text.split(",")} - {""}
    for name in sorted(names):
        if not is_backend(name):
            raise ValueError(f"stock_spoolers: {name!r} is no name of a backend")
    return frozenset(names)
