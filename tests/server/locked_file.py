"""A type of storage with a password: an SQLite file that only opens for who knows what stands beside it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Self

import pytest

from spoolway_providers import registry
from spoolway_providers.errors import LoginRefused
from spoolway_providers.interface import LoginField
from spoolway_providers.sqlite import SqliteProvider

__all__ = ["LockedFile", "installed", "lock"]


def lock(path: Path, password: str) -> None:
    """From now on the file at `path` opens with this password."""
    path.with_suffix(".password").write_text(password)


class LockedFile(SqliteProvider):
    """A file with a password."""

    description = "A file with a password, for tests."
    login_fields = (
        LoginField("path", "The file."),
        LoginField("password", "Its password.", secret=True),
        LoginField("tries", "How often it may be tried; no matter.", required=False),
    )
    _password = ""

    @classmethod
    def from_login(cls, login: Mapping[str, Any]) -> Self:
        made = super().from_login({"path": login["path"]})
        made._password = login["password"]
        made._file = Path(login["path"])
        return made

    async def open(self) -> None:
        if self._file.with_suffix(".password").read_text() != self._password:
            raise LoginRefused("the password is wrong; give the new one")
        await super().open()


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if a package had brought the type `locked`."""
    point = EntryPoint("locked", f"{__name__}:LockedFile", registry.GROUP)
    known = dict(registry.provider_types())
    registry.provider_types.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: [*known.values(), point])
    try:
        yield
    finally:
        registry.provider_types.cache_clear()
