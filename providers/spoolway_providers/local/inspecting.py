"""Finding files that belong to no job, or that lie in two places."""

import os
import sqlite3
from collections.abc import Iterator
from time import time

import msgspec

from spoolway_providers.errors import Unavailable
from spoolway_providers.interface import Finding
from spoolway_providers.local.disk import set_aside
from spoolway_providers.local.layout import Layout, Place, Shelf, is_there, list_folder
from spoolway_providers.model import JobKey

__all__ = ["Inspection", "inspect_files"]

_SETTLED_S = 60.0
"""What was written or moved later may be under way."""


class Inspection(msgspec.Struct, frozen=True):
    """What is asked for."""

    layout: Layout
    repair: bool
    limit: int


def inspect_files(connection: sqlite3.Connection, asked: Inspection) -> list[Finding]:
    """See the interface; what is in the way goes to the refused files."""
    try:
        return list(_found(connection, asked))
    except OSError as error:
        raise Unavailable(f"the folder can't be looked through: {error}") from error


def _found(connection: sqlite3.Connection, asked: Inspection) -> Iterator[Finding]:
    names = [name for (name,) in connection.execute("SELECT name FROM backends ORDER BY name")]
    left = asked.limit
    for kind, path, message in _strays(connection, asked.layout, names):
        if not left:
            return
        if not _is_settled(path):
            continue
        left -= 1
        action = message
        if asked.repair:
            action = f"moved to {set_aside(path, asked.layout.refused)}"
        yield Finding(kind, os.path.relpath(path, asked.layout.base), action)


def _strays(
    connection: sqlite3.Connection, layout: Layout, backends: list[str]
) -> Iterator[tuple[str, str, str]]:
    for backend in backends:
        for folder, job_id in _listed(layout, layout.result, backend):
            if not connection.execute(
                "SELECT 1 FROM jobs WHERE id = ? AND backend = ?", (job_id, backend)
            ).fetchone():
                path = f"{folder}/{layout.result.prefix}{job_id}.json"
                yield "result_without_job", path, "its job is not there: nobody can read it"
    for place in (Place.QUEUED, Place.WAITING, Place.RUNNING, Place.FINISHED, Place.DELETED):
        shelf = layout[place]
        for backend in backends if shelf.by_backend else [""]:
            for folder, job_id in _listed(layout, shelf, backend):
                home = _home(connection, layout, JobKey(backend, job_id))
                if home is not None and home[0] is not place and is_there(home[1]):
                    path = f"{folder}/{shelf.prefix}{job_id}.json"
                    yield "file_twice", path, f"the job's file lies among the {home[0]} ones, too"


def _listed(layout: Layout, shelf: Shelf, backend: str) -> Iterator[tuple[str, str]]:
    """The folders of a backend's documents of one kind, and the ids in them."""
    for user in layout.user_folders(shelf, backend) if backend else [""]:
        folder = shelf.folder_of(backend, user).rstrip("/")
        for name in list_folder(folder):
            job_id = shelf.id_of(name)
            if job_id is not None:
                yield folder, job_id


def _home(connection: sqlite3.Connection, layout: Layout, key: JobKey) -> tuple[Place, str] | None:
    """Where a job's file belongs, by the index; None if that does not know it, or not which one it is."""
    rows = connection.execute(
        "SELECT backend, user, place FROM local_files WHERE id = ?1 AND (backend = ?2 OR ?2 = '')",
        (key.id, key.backend),
    ).fetchall()
    if len(rows) != 1 or not rows[0][2]:
        return None
    backend, user, place = rows[0]
    return Place(place), layout.job(Place(place), JobKey(backend, key.id), user)


def _is_settled(path: str) -> bool:
    try:
        return time() - os.lstat(path).st_ctime > _SETTLED_S
    except FileNotFoundError:
        return False
