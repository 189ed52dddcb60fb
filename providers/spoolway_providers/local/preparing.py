"""The folders themselves: made, and tried."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import perf_counter

from spoolway_providers.errors import LoginRefused, Unavailable
from spoolway_providers.interface import Step
from spoolway_providers.local.layout import Layout
from spoolway_providers.local.login import Settings
from spoolway_providers.local.mounts import refuse_network_file_system
from spoolway_providers.model import new_token

__all__ = ["prepare_folders", "try_files"]

_REFUSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
)


def prepare_folders(settings: Settings, layout: Layout, mount_table: Path) -> None:
    """Make the folders that are missing.

    Raises:
        LoginRefused: they lie on a network file system or on several, or can't be used by this process.
        Unavailable: the disk does not let us.
    """
    refuse_network_file_system(settings.base, mount_table)
    try:
        for folder in layout.shared_folders():
            os.makedirs(folder, exist_ok=True)
        devices = {os.stat(folder).st_dev for folder in layout.shared_folders()}
    except OSError as error:
        if error.errno in _REFUSED:
            raise LoginRefused(f"base_path {settings.base} can't be used: {error}") from error
        raise Unavailable(f"the folders below {settings.base} can't be made: {error}") from error
    if len(devices) > 1:
        raise LoginRefused(
            f"the folders below {settings.base} lie on {len(devices)} file systems; all must be "
            "on one, as files are moved between them"
        )


def try_files(layout: Layout) -> list[Step]:
    """Write, move, read back and remove a file of our own."""
    draft, named = (f"{layout.own}/probe-{new_token()}{suffix}" for suffix in ("", ".json"))

    def write() -> None:
        with open(draft, "xb") as file:
            file.write(b"{}")
            file.flush()
            os.fsync(file.fileno())

    def read_back() -> None:
        if Path(named).read_bytes() != b"{}":
            raise OSError(errno.EIO, "what was written is not what is read")

    tries: list[tuple[str, Callable[[], None]]] = [
        ("file_write", write),
        ("file_move", lambda: os.rename(draft, named)),
        ("file_read_back", read_back),
        ("file_remove", lambda: os.unlink(named)),
    ]
    steps: list[Step] = []
    for name, attempt in tries:
        steps.append(_try(name, attempt))
        if not steps[-1].ok:
            break
    for path in (draft, named):
        with suppress(OSError):
            os.unlink(path)
    return steps


def _try(name: str, attempt: Callable[[], None]) -> Step:
    started_at = perf_counter()
    try:
        attempt()
    except OSError as error:
        elapsed = timedelta(seconds=perf_counter() - started_at)
        return Step(name, ok=False, elapsed=elapsed, advice=f"{error}; is the disk full, or read-only?")
    return Step(name, ok=True, elapsed=timedelta(seconds=perf_counter() - started_at))
