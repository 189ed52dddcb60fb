"""Disks that are full or read-only: small real ones where we may mount, else SQLite's own limits."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from spoolway_providers.errors import Unavailable
from spoolway_providers.sqlite import writer

__all__ = ["Disk", "SqliteLimits", "small_disk"]


class Disk(Protocol):
    """A disk that can be full while it is in use, and read-only while it is not."""

    folder: Path

    def fill(self) -> None: ...

    def empty(self) -> None: ...

    def forbid_writing(self) -> None: ...

    def allow_writing(self) -> None: ...


@contextmanager
def small_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk of one MiB at `folder`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield _Mounted(folder)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    else:
        yield _Limited(folder, monkeypatch)


class _Mounted:
    """A tmpfs of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(b"x" * 4096)
            except OSError:
                pass

    def empty(self) -> None:
        self._ballast.unlink()

    def forbid_writing(self) -> None:
        self._remount("ro")

    def allow_writing(self) -> None:
        self._remount("rw")

    def _remount(self, mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.folder)], check=True)


class SqliteLimits:
    """What keeps the writer's connections from being opened, from writing, or from writing much."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._limits: list[str] = []
        self._connections: list[sqlite3.Connection] = []
        self._is_open_forbidden = False
        self._connect, self._prepare = writer.connect, writer.prepare
        monkeypatch.setattr(writer, "connect", self._connect_limited)
        monkeypatch.setattr(writer, "prepare", self._prepare_limited)

    def add(self, pragma: str) -> None:
        self._limits.append(pragma)
        self._connections[-1].execute(pragma)

    def forbid_opening(self) -> None:
        self._is_open_forbidden = True

    def lift(self) -> None:
        self._limits.clear()
        self._is_open_forbidden = False

    def _connect_limited(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = self._connect(*args, **kwargs)
        self._connections.append(connection)
        for pragma in self._limits:
            connection.execute(pragma)
        return connection

    def _prepare_limited(self, *args: Any, **kwargs: Any) -> None:
        if self._is_open_forbidden:
            raise Unavailable("SQLite says: unable to open database file (SQLITE_CANTOPEN)")
        self._prepare(*args, **kwargs)


class _Limited:
    """A folder whose storages SQLite itself keeps small, or from being written."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._limits = SqliteLimits(monkeypatch)

    def fill(self) -> None:
        self._limits.add("PRAGMA max_page_count = 1")

    def empty(self) -> None:
        self._limits.lift()

    def forbid_writing(self) -> None:
        self._limits.forbid_opening()

    def allow_writing(self) -> None:
        self._limits.lift()
