"""All storages of this process, and the way from a backend's name to the storage that holds it."""

import asyncio
from collections.abc import Iterable

import grpc

from spoolway_providers.errors import NotFound, ProviderError
from spoolway_providers.interface import Query
from spoolway_providers.model import Backend, JobKey
from spoolway_server.errors import ServiceError
from spoolway_server.names import parse_job_name
from spoolway_server.ownership import job_not_found
from spoolway_server.storage import Storage

__all__ = ["Storages"]


class Storages:
    """The storages by name, and routing."""

    def __init__(self, storages: Iterable[Storage], default: str) -> None:
        """Hold `storages`; `default` is the name of the one for backends that name none."""
        self.by_name = {storage.name: storage for storage in storages}
        self.default = self.by_name[default]
        self._routes: dict[str, Storage] = {}

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
            known = ", ".join(sorted(self.by_name))
            raise ServiceError(
                grpc.StatusCode.NOT_FOUND,
                "STORAGE_NOT_FOUND",
                f"there is no storage {name}; there are: {known}",
                field=field,
            ) from None

    async def find_backend(self, name: str, *, field: str = "backend") -> tuple[Storage, Backend]:
        """The storage that holds a backend, and the backend; ServiceError if none does.

        Where a storage that might hold it does not answer, that is the error: nobody is told that a
        backend does not exist because its storage is down.
        """
        storage = self._routes.get(name)
        if storage is not None:
            try:
                return storage, await storage.backend(name)
            except NotFound:
                del self._routes[name]
        trouble: Exception | None = None
        for candidate in [self.default, *(s for s in self.by_name.values() if s is not self.default)]:
            try:
                backend = await candidate.backend(name)
            except NotFound:
                continue
            except (ProviderError, ServiceError) as error:
                trouble = error
                continue
            self._routes[name] = candidate
            return candidate, backend
        if trouble is not None:
            raise trouble
        raise ServiceError(
            grpc.StatusCode.NOT_FOUND,
            "BACKEND_NOT_FOUND",
            f"there is no backend {name}; ListBackends tells which there are",
            field=field,
        )

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
        return storage, page.jobs[0].key

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
        for name in sorted(self.by_name):
            storage = self.by_name[name]
            try:
                listed = await storage.backends()
            except (ServiceError, ProviderError):
                unreachable.append(name)
                continue
            for backend in listed.values():
                found.setdefault(backend.name, (storage, backend))
        return [found[name] for name in sorted(found)], unreachable
