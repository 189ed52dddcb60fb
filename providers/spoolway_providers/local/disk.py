"""Writing documents so that each is whole or absent, many at a time.

A document is written under a name of its own in `spoolway/drafts`, synced, and then renamed: a reader sees
it as a whole or not at all, also after a power cut. What a batch has renamed is durable once its folders are
synced.
"""

import ctypes
import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from itertools import count

__all__ = ["Batch", "Disk", "Draft", "Fault", "is_disk_trouble", "rename", "set_aside"]

Fault = Callable[[str, str], None]
"""Called before each step with its name and its subject: a test may kill the process there."""

_FEW = 8
"""Documents that are synced one by one; for more, one call syncs the whole file system, which costs less."""
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_TROUBLE = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENODEV),
    }
)


def is_disk_trouble(error: OSError) -> bool:
    """Whether all documents would fail alike; else it is something about this one."""
    return error.errno in _TROUBLE


class Draft:
    """A document that is written, but has no name yet."""

    __slots__ = ("path", "target")

    def __init__(self, path: str, target: str) -> None:
        self.path = path
        self.target = target


class Disk:
    """The folder in which documents are written; only one process at a time uses it."""

    def __init__(self, drafts: str, fault: Fault) -> None:
        self._drafts = drafts
        self.fault = fault
        self._numbers = count()
        self._folder: int | None = None

    def open(self) -> int:
        """Remove what a killed process left behind; how much that was."""
        removed = 0
        for name in os.listdir(self._drafts):
            # A folder that somebody made there is in nobody's way.
            with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                os.unlink(f"{self._drafts}/{name}")
                removed += 1
        # Stays open: the system reports to it each failed write since, whosever file it was.
        self._folder = os.open(self._drafts, os.O_RDONLY | os.O_DIRECTORY)
        return removed

    def close(self) -> None:
        """Let go of the folder."""
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def batch(self, documents: int) -> "Batch":
        """Begin to write about so many documents."""
        at_once = self._folder if documents > _FEW and _syncfs() is not None else None
        return Batch(self._drafts, self._numbers, at_once, self.fault)


class Batch:
    """Documents that are synced together.

    The steps, in order: `draft` each, `sync`, then `name`, `move` and `remove`, then `sync_folders`.
    """

    def __init__(self, drafts: str, numbers: "count[int]", sync_at_once: int | None, fault: Fault) -> None:
        self._drafts = drafts
        self._numbers = numbers
        self._sync_at_once = sync_at_once
        self._fault = fault
        self._unnamed: dict[str, None] = {}
        self._folders: set[str] = set()

    def draft(self, target: str, pieces: Iterable[bytes]) -> Draft:
        """Write a document that is to be called `target`."""
        self._fault("draft", target)
        path = f"{self._drafts}/{next(self._numbers):x}.part"
        try:
            file = os.open(path, _NEW_FILE, 0o666)
        except FileNotFoundError:
            os.makedirs(self._drafts, exist_ok=True)
            file = os.open(path, _NEW_FILE, 0o666)
        self._unnamed[path] = None
        try:
            for piece in pieces:
                _write(file, piece)
            if self._sync_at_once is None:
                self._fault("sync", target)
                os.fsync(file)
        finally:
            os.close(file)
        return Draft(path, target)

    def sync(self) -> None:
        """Have all that was written on the disk."""
        syncfs = _syncfs()
        if self._sync_at_once is not None and syncfs is not None and self._unnamed:
            self._fault("sync", "")
            syncfs(self._sync_at_once)

    def name(self, draft: Draft) -> None:
        """Give a document its name, in place of an older one."""
        self._fault("name", draft.target)
        self._folders |= rename(draft.path, draft.target)
        del self._unnamed[draft.path]

    def move(self, source: str, target: str) -> None:
        """Move a document, in place of another. Raises FileNotFoundError."""
        self._fault("move", target)
        self._folders |= rename(source, target)
        self._folders.add(source.rpartition("/")[0])

    def remove(self, path: str) -> None:
        """Remove a document, if it is there."""
        self._fault("remove", path)
        with suppress(FileNotFoundError):
            os.unlink(path)
            self._folders.add(path.rpartition("/")[0])

    def sync_folders(self) -> None:
        """Have all names on the disk."""
        for folder in sorted(self._folders):
            self._fault("sync", folder)
            with suppress(FileNotFoundError):
                _sync_folder(folder)
        self._folders.clear()

    def discard(self) -> None:
        """Remove what got no name."""
        for path in self._unnamed:
            with suppress(OSError):
                os.unlink(path)
        self._unnamed.clear()


def rename(source: str, target: str) -> set[str]:
    """Move a file, and make the folder where it is to lie if need be; returns the folders that have changed.

    Raises:
        OSError: such as FileNotFoundError if there is no `source`.
    """
    folder = target.rpartition("/")[0]
    try:
        os.rename(source, target)
    except FileNotFoundError:
        if os.path.isdir(folder):
            raise
        # Somebody removed the folder, or it is a user's first document.
        os.makedirs(folder, exist_ok=True)
        os.rename(source, target)
        return {folder, folder.rpartition("/")[0]}
    return {folder}


def set_aside(path: str, folder: str) -> str:
    """Move what others left where it can't be, under a name that is free in `folder`; returns its new path.

    Nothing of theirs is ever overwritten.

    Raises:
        OSError: such as FileNotFoundError.
    """
    os.makedirs(folder, exist_ok=True)
    name = path.rpartition("/")[2]
    for number in count():
        target = f"{folder}/{name}" + (f".{number}" if number else "")
        try:
            os.link(path, target, follow_symlinks=False)
        except FileExistsError:
            continue
        os.unlink(path)
        return target
    raise AssertionError("there is always one more number")


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync_folder(folder: str) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@cache
def _syncfs() -> Callable[[int], None] | None:
    """Linux's call that syncs a whole file system; None elsewhere."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        call = libc.syncfs
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int]

    def syncfs(folder: int) -> None:
        if call(folder) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return syncfs
