"""All storages of this process, and the way from a backend's name to the storage that holds it."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial

import grpc

from spoolway_providers.errors import NotFound, ProviderError
from spoolway_providers.interface import Query
from spoolway_providers.model import Backend, JobKey
from spoolway_server.errors import ServiceError
from spoolway_server.names import BackendName, parse_backend_name, parse_job_name
from spoolway_server.ownership import job_not_found
from spoolway_server.storage import Storage

__all__ = ["Storages"]


class Storages:
    """The storages by name, and routing."""

    def __init__(self, storages: Iterable[Storage], default: str) -> None:
        """Hold `storages`; `default` is the name of the one for backends that name none."""
        self.by_name = {storage.name: storage for storage in storages}
        self.default = self.by_name[default]
        self.on_health_change: Callable[[], None] = lambda: None
        """Called when a storage's health turns, or there is one more or less."""
        self._routes: Mapping[str, str] = {}
        self._moving: frozenset[str] = frozenset()
        self._found: dict[str, Storage] = {}
        for storage in self.by_name.values():
            self._join(storage)

    def add(self, storage: Storage) -> None:
        """One more; who adds it starts it."""
        self._join(storage)
        self.by_name[storage.name] = storage
        self._found.clear()
        self._health_changed()

    def _join(self, storage: Storage) -> None:
        storage.on_health_change = self._health_changed
        storage.is_home = partial(self.is_home, storage)

    def remove(self, name: str) -> Storage:
        """One less: its spoolers are told to leave; who removes it stops it."""
        storage = self.by_name.pop(name)
        self._found.clear()
        storage.feed.end()
        for session in list(storage.leases.sessions.values()):
            session.end("STORAGE_REMOVED")
        self._health_changed()
        return storage

    def route(self, routes: Mapping[str, str], moving: Iterable[str] = ()) -> None:
        """From now on these backends lie in these storages, whatever else holds a backend of that name.

        Those of `moving` are just about to turn to another storage: none has them meanwhile.
        """
        self._moving = frozenset(moving)
        if routes != self._routes:
            turned = {name for name, storage in routes.items() if self._routes.get(name) != storage}
            self._routes = dict(routes)
            self._found.clear()
            for storage in self.by_name.values():
                # Jobs that were passed by until now may be due.
                storage.reaper.note_change()
                self._let_go(storage, {name for name in turned if routes[name] != storage.name})

    @staticmethod
    def _let_go(storage: Storage, gone: set[str]) -> None:
        """Backends have turned away from a storage: who serves or watches them there is to look anew."""
        sessions = [one for one in storage.leases.sessions.values() if gone & set(one.backends)]
        for session in sessions:
            session.end("BACKEND_MOVED")
        if gone:
            storage.feed.dismiss()

    def is_home(self, storage: Storage, backend: str) -> bool:
        """Whether the jobs of a backend in this storage are those that count: else they were copied away."""
        routed = self.by_name.get(self._routes.get(backend, ""))
        return routed is None or routed is storage

    def _health_changed(self) -> None:
        self.on_health_change()

    async def start(self) -> None:
        """Start all, side by side; one in trouble keeps none of the others waiting for ever."""
        await asyncio.gather(*(storage.start() for storage in self.by_name.values()))

    async def stop(self) -> None:
        """Stop all."""
        await asyncio.gather(*(storage.stop() for storage in self.by_name.values()))

    def get(self, name: str, *, field: str = "name") -> Storage:
        """A storage by its short name; ServiceError, which names the request's `field`, if there is none."""
        try:
            return self.by_name[name]
        except KeyError:
            raise self.missing(name, field=field) from None

    def missing(self, name: str, *, field: str = "name") -> ServiceError:
        """The error for a storage that is not there."""
        known = ", ".join(sorted(self.by_name))
        message = f"there is no storage {name}; there are: {known}"
        return ServiceError(grpc.StatusCode.NOT_FOUND, "STORAGE_NOT_FOUND", message, field=field)

    async def find_backend(self, name: str, *, field: str = "backend") -> tuple[Storage, Backend]:
        """The storage that holds a backend of this short or long name, and the backend.

        Raises:
            ServiceError: none does, or the name says another storage or kind. Where a storage that might
                hold it does not answer, that is the error: nobody is told that a backend does not exist
                because its storage is down.
        """
        asked = parse_backend_name(name, field=field)
        storage, backend = await self._find(asked.backend, field)
        if asked.kind and backend.is_registered:
            _check_long_name(asked, storage, backend, field)
        return storage, backend

    async def find_registered(self, name: str, *, field: str = "backend") -> tuple[Storage, Backend]:
        """The same, of backends that take jobs: one that was unregistered is not there."""
        storage, backend = await self.find_backend(name, field=field)
        if not backend.is_registered:
            raise ServiceError(
                grpc.StatusCode.NOT_FOUND,
                "BACKEND_NOT_FOUND",
                f"backend {backend.name} was unregistered; its spooler may register it again",
                field=field,
            )
        return storage, backend

    async def _find(self, name: str, field: str) -> tuple[Storage, Backend]:
        if name in self._moving:
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "BACKEND_MOVING",
                f"backend {name} is being moved to another storage; try again in some seconds",
                retry_after=timedelta(seconds=2),
                field=field,
            )
        storage = self._found.get(name)
        if storage is not None:
            try:
                return storage, await storage.backend(name)
            except NotFound:
                self._found.pop(name, None)
        trouble: Exception | None = None
        for candidate in self._candidates(name):
            try:
                backend = await candidate.backend(name)
            except NotFound:
                continue
            except (ProviderError, ServiceError) as error:
                # One that was deactivated in its trouble is given up: others may have new backends.
                trouble = error if candidate.active else trouble
                continue
            self._found[name] = candidate
            return candidate, backend
        if trouble is not None:
            raise trouble
        raise ServiceError(
            grpc.StatusCode.NOT_FOUND,
            "BACKEND_NOT_FOUND",
            f"there is no backend {name}; ListBackends tells which there are",
            field=field,
        )

    def _candidates(self, name: str) -> list[Storage]:
        """The storages that may hold a backend, in the order in which they are asked."""
        routed = self.by_name.get(self._routes.get(name, ""))
        if routed is not None:
            return [routed]
        return self._in_order()

    def _in_order(self) -> list[Storage]:
        """The default storage first."""
        return [self.default, *(s for s in self.by_name.values() if s is not self.default)]

    async def find_job(self, name: str, *, field: str = "name") -> tuple[Storage, JobKey]:
        """The storage of a job's name and the job's key; a bare id is looked up in the default storage."""
        backend, job_id = parse_job_name(name, field=field)
        if backend:
            storage, _ = await self.find_backend(backend, field=field)
            return storage, JobKey(backend, job_id)
        storage = self.default
        storage.require_usable()
        with storage.noting_trouble():
            page = await storage.provider.find(Query(id=job_id, limit=2))
        if len(page.jobs) != 1:
            raise job_not_found(name, field=field)
        key = page.jobs[0].key
        if not self.is_home(storage, key.backend):
            storage, _ = await self.find_backend(key.backend, field=field)
        return storage, key

    async def home_of(self, key: JobKey) -> Storage:
        """The storage of a job, if it can be used."""
        storage, _ = await self.find_backend(key.backend)
        storage.require_usable()
        return storage

    def usable(self) -> list[Storage]:
        """Storages that are open, by name."""
        return [self.by_name[name] for name in sorted(self.by_name) if self.by_name[name].opened.is_set()]

    async def all_backends(self) -> tuple[list[tuple[Storage, Backend]], list[str]]:
        """All backends by name with their storages, and the names of storages that did not answer."""
        found: dict[str, tuple[Storage, Backend]] = {}
        unreachable: list[str] = []
        for storage in self._in_order():
            try:
                listed = await storage.backends()
            except (ServiceError, ProviderError):
                unreachable.append(storage.name)
                continue
            for backend in listed.values():
                if backend.is_registered and storage in self._candidates(backend.name):
                    found.setdefault(backend.name, (storage, backend))
        return [found[name] for name in sorted(found)], sorted(unreachable)


def _check_long_name(asked: BackendName, storage: Storage, backend: Backend, field: str) -> None:
    kind = "simulator" if storage.rules(backend).is_simulator else "hardware"
    if (asked.storage, asked.kind) == (storage.name, kind):
        return
    if asked.storage != storage.name:
        code, reason = grpc.StatusCode.NOT_FOUND, "BACKEND_NOT_FOUND"
    else:
        code, reason = grpc.StatusCode.INVALID_ARGUMENT, "BACKEND_KIND_WRONG"
    message = f"the long name of backend {asked.backend} is {storage.name}_{asked.backend}_{kind}"
    raise ServiceError(code, reason, message, field=field)
