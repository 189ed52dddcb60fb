"""Backends: the config where today's systems have it, the policy in a folder of our own."""

import asyncio
from contextlib import suppress

import msgspec
from msgspec.structs import replace

from spoolway_providers import digests
from spoolway_providers.dropbox_storage.client import ADD
from spoolway_providers.dropbox_storage.documents import decode_policy
from spoolway_providers.dropbox_storage.faults import PathConflict, PathMissing
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.errors import Conflict, NotFound, Unsupported
from spoolway_providers.model import Backend, Policy

__all__ = ["Backends"]


class Backends:
    """Compare-and-set of two documents a backend."""

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure
        self._public_keys: dict[str, bytes] = {}

    async def read_all(self) -> None:
        """Know all backends that the listing has named: by a config, or by jobs, if that was taken away."""
        tenure = self._tenure
        found = (tenure.layout.parse(info.path) for info in tenure.mirror.below(tenure.layout.files))
        names = {one.backend for one in found if one is not None and one.backend}
        await asyncio.gather(*(self._read(name) for name in names))

    async def reread(self, name: str) -> None:
        """Another program has written a backend's config."""
        async with self._tenure.backends_lock:
            await self._read(name)
        self._tenure.feed.hint_queued(name)

    async def _read(self, name: str) -> None:
        tenure = self._tenure
        config, policy = await asyncio.gather(
            tenure.calls.download(tenure.layout.config(name)),
            tenure.calls.download(tenure.layout.policy(name)),
        )
        if config is not None:
            tenure.mirror.set(config[0])
        kept = None
        if policy is not None:
            tenure.mirror.set(policy[0])
            kept = decode_policy(policy[1])
        etag = digests.policy_etag(kept) if kept else ""
        data, data_etag = (config[1], digests.config_etag(config[1])) if config is not None else (b"", "")
        tenure.backends[name] = Backend(name, data, data_etag, kept, etag)

    async def put_config(self, name: str, config: bytes, etag: str | None) -> Backend:
        """See the interface."""
        tenure = self._tenure
        async with tenure.backends_lock:
            current = tenure.backends.get(name)
            new_etag = digests.config_etag(config)
            if current is not None and current.config_etag == new_etag:
                return current
            if etag is not None and etag != (current.config_etag if current else ""):
                raise Conflict(f"the config of backend {name!r} has changed", current)
            path = tenure.layout.config(name)
            if tenure.layout.parse(path) is None:
                raise Unsupported(f"{name!r} can't be the name of a folder")
            await self._write(name, path, config)
            known = current or Backend(name, config, new_etag, None, "")
            return self._put(replace(known, config=config, config_etag=new_etag))

    async def remove_config(self, name: str, etag: str | None) -> Backend:
        """See the interface."""
        tenure = self._tenure
        async with tenure.backends_lock:
            current = tenure.backends.get(name)
            if current is None:
                raise NotFound(f"there is no backend {name!r}")
            if not current.is_registered:
                return current
            if etag is not None and etag != current.config_etag:
                raise Conflict(f"the config of backend {name!r} has changed", current)
            path = tenure.layout.config(name)
            known = tenure.mirror.get(path)
            try:
                await tenure.writer.delete(path, known.rev if known else None)
            except PathConflict:
                tenure.mirror.drop(path)
                await self._read(name)
                raise Conflict(f"another program has written {path}", tenure.backends.get(name)) from None
            tenure.mirror.drop(path)
            return self._put(replace(current, config=b"", config_etag=""))

    async def put_policy(self, name: str, policy: Policy, etag: str | None) -> Backend:
        """See the interface."""
        tenure = self._tenure
        async with tenure.backends_lock:
            current = tenure.backends.get(name)
            if current is None:
                raise NotFound(f"there is no backend {name!r}")
            if etag is not None and etag != current.policy_etag:
                raise Conflict(f"the policy of backend {name!r} has changed", current)
            if current.policy == policy:
                return current
            await self._write(name, tenure.layout.policy(name), msgspec.json.encode(policy))
            etag = digests.policy_etag(policy)
            return self._put(replace(current, policy=policy, policy_etag=etag))

    async def put_public_key(self, kid: str, key: bytes) -> bytes:
        """See the interface."""
        kept = await self.public_key(kid)
        if kept is None:
            with suppress(PathConflict):
                await self._tenure.writer.put(self._tenure.layout.public_key(kid), key, ADD)
            kept = await self.public_key(kid)
        return kept or key

    async def public_key(self, kid: str) -> bytes | None:
        """See the interface. Looked for once, if it is there: it does not change any more."""
        if kid not in self._public_keys:
            found = await self._tenure.calls.download(self._tenure.layout.public_key(kid))
            if found is None:
                return None
            self._public_keys[kid] = found[1]
        return self._public_keys[kid]

    async def _write(self, name: str, path: str, data: bytes) -> None:
        known = self._tenure.mirror.get(path)
        try:
            await self._tenure.writer.put(path, data, known.rev if known else ADD)
        except (PathConflict, PathMissing):
            self._tenure.mirror.drop(path)
            await self._read(name)
            now = self._tenure.backends.get(name)
            raise Conflict(f"another program has written {path}", now) from None

    def _put(self, backend: Backend) -> Backend:
        self._tenure.backends[backend.name] = backend
        self._tenure.feed.hint_queued(backend.name)
        return backend
