"""Where each document lies: the two ways in which today's installations name their folders."""

import os
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from spoolway_providers.local.names import is_backend, is_job_id
from spoolway_providers.model import JobKey

__all__ = ["SUFFIX", "Layout", "Naming", "Place", "Seen", "Shelf", "is_there", "list_folder"]

SUFFIX = ".json"


class Naming(StrEnum):
    """Which names the folders have."""

    LOCAL = "local"
    BACKEND_FILES = "backend_files"


class Place(StrEnum):
    """Where a job's file lies."""

    NOWHERE = ""
    """It is gone: somebody removed it."""
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    DELETED = "deleted"
    WAITING = "waiting"
    """A folder of our own, out of reach of spoolers that take any file."""


class Shelf(msgspec.Struct, frozen=True):
    """The documents of one kind: in which folder, and how they are called in it."""

    folder: str
    by_backend: bool
    by_user: bool = False
    prefix: str = ""

    def folder_of(self, backend: str, user: str) -> str:
        """The folder that holds the documents of a user's jobs of a backend."""
        parts = [self.folder]
        if self.by_backend:
            parts.append(backend)
        if self.by_user:
            parts.append(user)
        return "/".join(parts)

    def path(self, key: JobKey, user: str) -> str:
        """The path of a job's document."""
        return f"{self.folder_of(key.backend, user)}/{self.prefix}{key.id}{SUFFIX}"

    def id_of(self, file_name: str) -> str | None:
        """The job whose document is called so; None: it can't be one."""
        if not file_name.endswith(SUFFIX) or not file_name.startswith(self.prefix):
            return None
        job_id = file_name[len(self.prefix) : -len(SUFFIX)]
        return job_id if is_job_id(job_id) else None


class Seen(msgspec.Struct, frozen=True):
    """What the path of a file event is about."""

    place: Place | None
    """None: a backend's config."""
    backend: str
    """Empty where jobs of all backends lie together."""
    id: str
    """Empty if it is about a folder."""


class Layout:
    """The paths of everything below a folder."""

    def __init__(self, base: str, naming: Naming) -> None:
        self.base = base
        self.naming = naming
        self.own = f"{base}/spoolway"
        self.index = f"{self.own}/index.sqlite"
        self.drafts = f"{self.own}/drafts"
        """Where documents are written before they get their names."""
        self.refused = f"{self.own}/refused"
        """What others left where it can't be: nothing of theirs is ever overwritten."""
        self.locks = f"{self.own}/locks"
        self._files_by_backend = naming is Naming.LOCAL
        make = self._own_names if naming is Naming.LOCAL else self._backend_files
        self._shelves, self.status, self.result, self.configs = make(base)
        self.public_keys = f"{base}/{'backends' if self._files_by_backend else 'Backend_files'}/public_keys"
        self._shelves[Place.WAITING] = Shelf(f"{self.own}/waiting", by_backend=True)

    @staticmethod
    def _own_names(base: str) -> tuple[dict[Place, Shelf], Shelf, Shelf, str]:
        places = {
            Place.QUEUED: Shelf(f"{base}/jobs/queued", by_backend=True),
            Place.RUNNING: Shelf(f"{base}/jobs/running", by_backend=False),
            Place.FINISHED: Shelf(f"{base}/jobs/finished", by_backend=True),
            Place.DELETED: Shelf(f"{base}/jobs/deleted", by_backend=False),
        }
        status = Shelf(f"{base}/status", by_backend=True)
        return places, status, Shelf(f"{base}/results", by_backend=True), f"{base}/backends/configs"

    @staticmethod
    def _backend_files(base: str) -> tuple[dict[Place, Shelf], Shelf, Shelf, str]:
        files = f"{base}/Backend_files"
        places = {
            Place.QUEUED: Shelf(f"{files}/Queued_Jobs", by_backend=True, prefix="job-"),
            Place.RUNNING: Shelf(f"{files}/Running_Jobs", by_backend=False, prefix="job-"),
            Place.FINISHED: Shelf(f"{files}/Finished_Jobs", by_backend=True, by_user=True, prefix="job-"),
            Place.DELETED: Shelf(f"{files}/Deleted_Jobs", by_backend=False, prefix="job-"),
        }
        status = Shelf(f"{files}/Status", by_backend=True, by_user=True, prefix="status-")
        result = Shelf(f"{files}/Result", by_backend=True, by_user=True, prefix="result-")
        return places, status, result, f"{files}/Config"

    def __getitem__(self, place: Place) -> Shelf:
        """The jobs' files in a place."""
        return self._shelves[place]

    def job(self, place: Place, key: JobKey, user: str) -> str:
        """The path of a job's file in a place."""
        return self._shelves[place].path(key, user)

    def where(self, key: JobKey, user: str, *, first: Place = Place.QUEUED) -> Place:
        """Where a job's file lies; it is looked for in `first` before all others.

        A file moves only onwards but for ours, so a second look finds what moved during the first.

        Raises:
            OSError: a folder can't be looked into, so that nobody knows.
        """
        places = [first, Place.QUEUED, Place.WAITING, Place.RUNNING, Place.FINISHED, Place.DELETED]
        for place in [*places, *places]:
            if place is not Place.NOWHERE and is_there(self.job(place, key, user)):
                return place
        return Place.NOWHERE

    def config(self, backend: str) -> str:
        """The path of a backend's config."""
        return f"{self.configs}/{backend}{SUFFIX if self._files_by_backend else '/config.json'}"

    def public_key(self, kid: str) -> str:
        """The path of a public key."""
        return f"{self.public_keys}/{kid}{SUFFIX}"

    def config_files(self) -> Iterator[tuple[str, str]]:
        """The backends that have, or may have, a config; and its path."""
        for entry in sorted(list_folder(self.configs)):
            name = entry.removesuffix(SUFFIX) if self._files_by_backend else entry
            if (name != entry or not self._files_by_backend) and is_backend(name):
                yield name, self.config(name)

    def user_folders(self, shelf: Shelf, backend: str) -> list[str]:
        """The users who have documents of a kind and a backend; one that is empty where users have none."""
        if not shelf.by_user:
            return [""]
        names = list_folder(shelf.folder_of(backend, "").rstrip("/"))
        # A name that is no UTF-8 can't be kept in the index.
        return [name for name in names if name.isprintable()]

    def shared_folders(self) -> list[str]:
        """The folders that are there before there is any backend."""
        places = [shelf.folder for shelf in self._shelves.values()]
        documents = [self.status.folder, self.result.folder, self.configs, self.public_keys]
        return [*places, *documents, self.drafts, self.locks]

    def folders_of(self, backend: str) -> list[str]:
        """The folders of a backend that others may look for."""
        shelves = [*self._shelves.values(), self.status, self.result]
        folders = [f"{shelf.folder}/{backend}" for shelf in shelves if shelf.by_backend]
        return folders if self._files_by_backend else [*folders, f"{self.configs}/{backend}"]

    def watched(self) -> list[str]:
        """The folders in which others may do something that we must notice."""
        return [self[Place.QUEUED].folder, self[Place.RUNNING].folder, self.configs]

    def parse(self, path: str) -> Seen | None:
        """What a path below one of `watched` is about; None: nothing that we know."""
        queued, running = self[Place.QUEUED], self[Place.RUNNING]
        if path.startswith(queued.folder + "/"):
            backend, _, name = path[len(queued.folder) + 1 :].partition("/")
            job_id = queued.id_of(name) if name else ""
            return Seen(Place.QUEUED, backend, job_id) if is_backend(backend) and job_id is not None else None
        if path.startswith(running.folder + "/"):
            job_id = running.id_of(path[len(running.folder) + 1 :])
            return Seen(Place.RUNNING, "", job_id) if job_id else None
        if path.startswith(self.configs + "/"):
            backend = path[len(self.configs) + 1 :].partition("/")[0].removesuffix(SUFFIX)
            return Seen(None, backend, "") if is_backend(backend) else None
        return None


def is_there(path: str) -> bool:
    """Whether anything lies at a path. Unlike `os.path.lexists` it raises where that can't be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def list_folder(folder: str) -> list[str]:
    """The names in a folder; none if there is no such folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
