"""Locks between processes of one host; they go with the process that holds them, however it ends."""

import fcntl
import os

__all__ = ["FileLock"]

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class FileLock:
    """One holder at a time, also among several objects of one process."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether we hold it."""
        return self._file is not None

    def try_acquire(self) -> bool:
        """Take it if nobody has it; whether we hold it now.

        Raises:
            OSError: the file can't be made.
        """
        if self._file is not None:
            return True
        try:
            file = os.open(self._path, _FLAGS, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            file = os.open(self._path, _FLAGS, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Let others have it."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
