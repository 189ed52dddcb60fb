"""Copying the file while others write to it."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from spoolway_providers.errors import Corrupt, NotFound, Unavailable
from spoolway_providers.sqlite.faults import fault_of
from spoolway_providers.sqlite.schema import connect

__all__ = ["back_up"]

_PAGES = 2_000
"""8 MB between two reports."""


def back_up(source: Path, target: Path, on_progress: Callable[[int, int], None]) -> int:
    """Copy a storage's file as it is at one moment; who writes to it meanwhile is not held up.

    Blocks for as long as it takes. The copy has its name once it is whole, checked and on the disk.

    Args:
        source: The storage's file.
        target: The copy; must not be there.
        on_progress: Told pages done, and pages of all.

    Returns:
        The size of the copy in bytes.

    Raises:
        NotFound: there is no such file.
        Corrupt: the file is damaged.
        Unavailable: a disk does not let us.
        FileExistsError: there is such a copy.
        OSError: the copy can't be written.
    """
    if not source.is_file():
        raise NotFound(f"there is no file {source} yet")
    if target.exists():
        raise FileExistsError(f"{target} is there already; name another file")
    draft = target.with_name(f"{target.name}.part")
    with suppress(FileNotFoundError):
        draft.unlink()
    # Nobody else may read it, as nobody may read the storage's.
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        try:
            _copy(source, draft, on_progress)
        except sqlite3.Error as error:
            raise fault_of(error) from error
        # Unlike a rename it fails where there is a file.
        os.link(draft, target)
    finally:
        draft.unlink()
    _sync(target)
    _sync(target.parent)
    return target.stat().st_size


def _copy(source: Path, draft: Path, on_progress: Callable[[int, int], None]) -> None:
    with (
        closing(connect(source, busy_timeout_s=5.0, read_only=True)) as reader,
        closing(sqlite3.connect(draft, isolation_level=None)) as writer,
    ):
        # Within a transaction of our own the copy does not begin anew whenever somebody writes.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM meta").fetchone()
        reader.backup(writer, pages=_PAGES, progress=lambda _, left, of: on_progress(of - left, of))
        reader.execute("COMMIT")
        found = writer.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise Corrupt(f"the file is damaged, and so is its copy: {found}")
        # One file, without a log beside it.
        mode = writer.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        if mode != "delete":
            raise Unavailable(f"SQLite does not let go of the copy's log (it says {mode!r})")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
