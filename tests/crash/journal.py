"""What happened in a round: one file, to which every process appends whole lines."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Happening", "Journal", "now", "read_journal"]


def now() -> float:
    """Seconds of the machine's one clock that all its processes share, and that spoolers count leases by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Happening(msgspec.Struct, frozen=True):
    """One line."""

    t: float
    """When, by `now`."""
    who: str
    """A process and its life, such as `server-1.2`."""
    what: str
    about: dict[str, Any]
    """Most often the job, as `job`, and the lease, as `token`."""


class Journal:
    """Where one process writes."""

    def __init__(self, path: Path, who: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._who = who

    def note(self, what: str, *, at: float | None = None, **about: Any) -> None:
        """Write a line; it is whole, and there, even if this process is killed right after."""
        happening = Happening(now() if at is None else at, self._who, what, about)
        os.write(self._file, msgspec.json.encode(happening) + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read_journal(path: Path) -> list[Happening]:
    """All lines, in order of time."""
    return sorted(_lines(path), key=lambda happening: happening.t)


def _lines(path: Path) -> Iterator[Happening]:
    for line in path.read_text().splitlines():
        yield msgspec.convert(json.loads(line), Happening)
