"""Backends: config and policy in one document, each written alone, by compare-and-set on its own etag."""

from typing import Any

import msgspec
from bson.binary import Binary
from pymongo import ReturnDocument

from spoolway_providers import digests
from spoolway_providers.errors import Conflict, NotFound, ProviderError, Unavailable, Uncertain
from spoolway_providers.model import Backend, Policy, new_token
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import Document, backend_of
from spoolway_providers.mongodb.faults import is_duplicate

__all__ = [
    "Stored",
    "backends",
    "public_key",
    "public_keys",
    "put_config",
    "put_policy",
    "put_public_key",
    "remove_config",
]

_MOST_TRIES = 50
"""Writes of one backend at the same time, at most."""


class Stored(msgspec.Struct, frozen=True):
    """A backend as it is now, and the number of the write that made it so; empty if it was so before."""

    backend: Backend
    commit: str = ""


async def put_config(connection: Connection, name: str, config: bytes, etag: str | None) -> Stored:
    """Create or replace a config; see the interface. The same bytes again are not written."""
    new_etag = digests.config_etag(config)
    fields = {"config": Binary(config), "config_etag": new_etag}
    for _ in range(_MOST_TRIES):
        current = await _find(connection, name)
        if current is not None and current.config_etag == new_etag:
            return Stored(current)
        if etag is not None and etag != (current.config_etag if current else ""):
            raise Conflict(f"the config of backend {name!r} has changed", current)
        if current is None:
            stored = await _insert(connection, {"_id": name, **fields, "policy": None, "policy_etag": ""})
        else:
            stored = await _set(connection, {"_id": name, "config_etag": current.config_etag}, fields)
        if stored is not None:
            return stored
    raise _busy(name)


async def remove_config(connection: Connection, name: str, etag: str | None) -> Stored:
    """Take a config away; see the interface."""
    for _ in range(_MOST_TRIES):
        current = await _find(connection, name)
        if current is None:
            raise NotFound(f"there is no backend {name!r}")
        if not current.is_registered:
            return Stored(current)
        if etag is not None and etag != current.config_etag:
            raise Conflict(f"the config of backend {name!r} has changed", current)
        expected = {"_id": name, "config_etag": current.config_etag}
        stored = await _set(connection, expected, {"config": Binary(b""), "config_etag": ""})
        if stored is not None:
            return stored
    raise _busy(name)


async def put_policy(connection: Connection, name: str, policy: Policy, etag: str | None) -> Stored:
    """Replace a policy; see the interface."""
    fields = {"policy": msgspec.to_builtins(policy), "policy_etag": digests.policy_etag(policy)}
    for _ in range(_MOST_TRIES):
        current = await _find(connection, name)
        if current is None:
            raise NotFound(f"there is no backend {name!r}")
        if etag is not None and etag != current.policy_etag:
            raise Conflict(f"the policy of backend {name!r} has changed", current)
        if current.policy == policy:
            return Stored(current)
        stored = await _set(connection, {"_id": name, "policy_etag": current.policy_etag}, fields)
        if stored is not None:
            return stored
    raise _busy(name)


async def backends(connection: Connection) -> list[Backend]:
    """All backends, by name."""
    with connection.reading():
        found = await connection["backends"].find({}).sort("_id").to_list()
    return [backend_of(document) for document in found]


async def put_public_key(connection: Connection, kid: str, key: bytes) -> bytes:
    """Keep a public key unless there is one of this id; see the interface."""
    try:
        with connection.writing():
            await connection["public_keys"].insert_one({"_id": kid, "document": Binary(key)})
    except ProviderError as error:
        if not is_duplicate(error.__cause__):
            # Uncertain, too: to put it again is safe.
            raise
    return await public_key(connection, kid) or key


async def public_key(connection: Connection, kid: str) -> bytes | None:
    """The public key of an id, or None."""
    with connection.reading():
        found = await connection.newest("public_keys").find_one({"_id": kid})
    return None if found is None else bytes(found["document"])


async def public_keys(connection: Connection) -> dict[str, bytes]:
    """All public keys, by id."""
    with connection.reading():
        found = await connection["public_keys"].find({}).sort("_id").to_list()
    return {document["_id"]: bytes(document["document"]) for document in found}


async def _find(connection: Connection, name: str) -> Backend | None:
    with connection.reading():
        found = await connection.newest("backends").find_one({"_id": name})
    return None if found is None else backend_of(found)


async def _insert(connection: Connection, document: Document) -> Stored | None:
    """Store a new backend; None if it is there by now."""
    commit = new_token()
    try:
        with connection.writing():
            await connection["backends"].insert_one({**document, "commit": commit})
    except ProviderError as error:
        if is_duplicate(error.__cause__):
            return None
        if not isinstance(error, Uncertain):
            raise
        return await _settled(connection, document["_id"], commit, error)
    return Stored(backend_of(document), commit)


async def _set(connection: Connection, expected: Document, fields: dict[str, Any]) -> Stored | None:
    """Change some fields; None if the backend is not as expected any more."""
    commit = new_token()
    try:
        with connection.writing():
            found: Document | None = await connection["backends"].find_one_and_update(
                expected, {"$set": {**fields, "commit": commit}}, return_document=ReturnDocument.AFTER
            )
    except Uncertain as unknown:
        return await _settled(connection, expected["_id"], commit, unknown)
    return None if found is None else Stored(backend_of(found), commit)


async def _settled(connection: Connection, name: str, commit: str, unknown: Uncertain) -> Stored:
    with connection.settling(unknown):
        found = await connection["backends"].find_one({"_id": name, "commit": commit})
    if found is None:
        raise unknown
    return Stored(backend_of(found), commit)


def _busy(name: str) -> Unavailable:
    return Unavailable(f"backend {name!r} is changed by others all the time; try again")
