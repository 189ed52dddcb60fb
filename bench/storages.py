"""The storages that the bench knows. A new one adds its entry, and is measured where it is installed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.children import BenchError
from spoolway_providers.registry import ProviderTypeError, provider_class

__all__ = ["StorageCase", "chosen"]


@dataclass(frozen=True)
class StorageCase:
    """One type of storage, as configured for the bench."""

    name: str
    login: Callable[[Path], dict[str, str]]
    """Its login, with all its data in a folder."""
    by_default: bool = True
    """Measured without being asked for."""
    outlives_its_process: bool = True
    """What one process has stored, the next one finds."""
    long_queue: int | None = None
    """Jobs of the long queue, where the storage is not made for the plan's 100,000."""


CASES = (
    StorageCase("sqlite", lambda folder: {"path": str(folder / "spoolway.sqlite")}),
    StorageCase("local", lambda folder: {"base_path": str(folder / "storage")}),
    StorageCase("memory", lambda _folder: {}, by_default=False, outlives_its_process=False),
)


def chosen(names: Sequence[str]) -> list[StorageCase]:
    """The cases asked for, or all that are installed."""
    if not names:
        return [case for case in CASES if case.by_default and _is_installed(case.name)]
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known or not _is_installed(name):
            raise BenchError(f"storage {name!r} is not known to the bench, or not installed")
    return [known[name] for name in names]


def _is_installed(name: str) -> bool:
    try:
        provider_class(name)
    except ProviderTypeError:
        return False
    return True
