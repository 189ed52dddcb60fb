"""Backends: registered by spoolers, shown to clients."""

from collections.abc import Mapping
from typing import Any

import grpc

from spoolway.v1 import job_pb2
from spoolway_providers.errors import Conflict, ProviderError
from spoolway_providers.interface import Query
from spoolway_providers.model import TERMINAL_STATES, Backend, State
from spoolway_server.admission import job_document_of, read_config
from spoolway_server.documents import check_document, parse_document
from spoolway_server.errors import ServiceError
from spoolway_server.keys import check_public_key, is_public_key, is_same_key, key_id_of
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.translate import backend_to_proto

__all__ = ["Backends"]

PENDING_LIMIT = 1_000_000


class Backends:
    """Registration and the view of clients."""

    def __init__(self, storages: Storages, *, max_config_bytes: int) -> None:
        """Work on `storages`; configs may have `max_config_bytes`."""
        self._storages = storages
        self._max_config_bytes = max_config_bytes

    async def register(
        self, name: str, config: bytes, etag: str, storage_name: str, public_key: bytes = b""
    ) -> job_pb2.Backend:
        """Create a backend or replace its config; and keep the key by which it is verified."""
        document = await check_document(config, field="config", max_bytes=self._max_config_bytes)
        read_config(document)
        storage = await self._home(name, storage_name)
        storage.require_active()
        if public_key:
            kid = await check_public_key(public_key, job_document_of(document))
            await _keep_key(storage, kid, public_key)
        try:
            backend = await storage.provider.put_config(name, config, etag or None)
        except Conflict as error:
            raise _config_changed(name) from error
        storage.note_backend(backend)
        return await self.show(storage, backend)

    async def _home(self, name: str, storage_name: str) -> Storage:
        try:
            storage, _ = await self._storages.find_backend(name)
        except ServiceError as error:
            if error.reason != "BACKEND_NOT_FOUND":
                raise
            if not storage_name:
                return self._storages.default
            return self._storages.get(storage_name, field="storage")
        if storage_name and storage.name != storage_name:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "BACKEND_ELSEWHERE",
                f"backend {name} lies in storage {storage.name}; name that or none",
                metadata={"storage": storage.name},
                field="storage",
            )
        return storage

    async def list_all(self) -> tuple[list[job_pb2.Backend], list[str]]:
        """All backends, and the storages that did not answer."""
        found, unreachable = await self._storages.all_backends()
        shown: list[job_pb2.Backend] = []
        live: dict[str, set[str]] = {}
        for storage, backend in found:
            try:
                if storage.name not in live:
                    live[storage.name] = await _live_backends(storage)
                shown.append(await self._show(storage, backend, backend.name in live[storage.name]))
            except ProviderError as error:
                storage.report(error)
                if storage.name not in unreachable:
                    unreachable.append(storage.name)
        return shown, sorted(unreachable)

    async def get(self, name: str) -> job_pb2.Backend:
        """One backend."""
        storage, backend = await self._storages.find_registered(name, field="name")
        return await self.show(storage, backend)

    async def unregister(self, name: str, etag: str, *, force: bool) -> int:
        """Take a backend's config away; how many jobs are left that have not ended."""
        storage, backend = await self._storages.find_registered(name)
        storage.require_usable()
        name = backend.name
        unfinished = tuple(state for state in State if state not in TERMINAL_STATES)
        with storage.noting_trouble():
            left = await storage.provider.count(Query(backend=name, states=unfinished, limit=PENDING_LIMIT))
            if left and not force:
                jobs = "a job that has" if left == 1 else f"{left} jobs that have"
                raise ServiceError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "BACKEND_IN_USE",
                    f"backend {name} has {jobs} not ended; wait for them or cancel them, or force it: they "
                    "then wait until it is registered again",
                    metadata={"backend": name, "jobs": left},
                )
            try:
                gone = await storage.provider.remove_config(name, etag or None)
            except Conflict as error:
                raise _config_changed(name) from error
        storage.note_backend(gone)
        return left

    async def show(self, storage: Storage, backend: Backend) -> job_pb2.Backend:
        """A backend with its status of now."""
        return await self._show(storage, backend, backend.name in await _live_backends(storage))

    @staticmethod
    async def _show(storage: Storage, backend: Backend, live: bool) -> job_pb2.Backend:
        policy = storage.policy(backend.name)
        query = Query(backend=backend.name, states=(State.QUEUED, State.HELD), limit=PENDING_LIMIT)
        config, mistake = _read(storage, backend)
        if mistake:
            message = mistake
        elif policy.paused:
            message = "paused by an operator"
        elif not storage.active:
            message = f"storage {storage.name} is inactive"
        elif not live:
            message = "no spooler is connected"
        else:
            message = "ok"
        status = job_pb2.BackendStatus(
            backend_name=backend.name,
            backend_version=str(config.get("version", "")),
            operational=message == "ok",
            pending_jobs=await storage.provider.count(query),
            status_msg=message,
        )
        kid = key_id_of(config)
        key = await storage.provider.public_key(kid) if kid else None
        if key is None or not is_public_key(key):
            key = b""
        return backend_to_proto(backend, storage.name, policy, status, key)


def _config_changed(name: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED,
        "ETAG_MISMATCH",
        f"the config of {name} has changed since; read it with GetBackend and decide again",
        field="etag",
    )


async def _keep_key(storage: Storage, kid: str, key: bytes) -> None:
    kept = await storage.provider.put_public_key(kid, key)
    if not is_same_key(kept, key):
        raise ServiceError(
            grpc.StatusCode.ALREADY_EXISTS,
            "KEY_ID_USED",
            f"storage {storage.name} has another public key with the kid {kid}, by which older results are "
            "verified: give the new key another kid",
            field="public_key",
        )


def _read(storage: Storage, backend: Backend) -> tuple[Mapping[str, Any], str]:
    """A stored config, or what is wrong with it: other programs may have written it."""
    if not backend.is_registered:
        return {}, "it was unregistered"
    try:
        storage.rules(backend)
    except ServiceError as error:
        return {}, error.message
    return job_document_of(parse_document(backend.config, field="config")), ""


async def _live_backends(storage: Storage) -> set[str]:
    """Backends that some live session, of whichever process, takes jobs of."""
    return {
        name
        for view in await storage.provider.sessions()
        if view.session.state == "LIVE" and not view.session.detached
        for name in view.session.backends
    }
