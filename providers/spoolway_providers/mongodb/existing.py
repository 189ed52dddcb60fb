"""Reads an existing installation's databases, as today's systems write them.

Configs and public keys lie in `backends`, jobs in `jobs` (queued and finished by backend, running and
deleted ones of all backends together), statuses in `status` and results in `results`, by backend. Nothing
is ever written. Jobs come by place and id, so that who was interrupted goes on after the last id it has.
"""

import base64
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Protocol

import msgspec
from bson.objectid import ObjectId
from pymongo.errors import PyMongoError

from spoolway_providers.errors import Corrupt
from spoolway_providers.model import JobKey
from spoolway_providers.mongodb.documents import Document
from spoolway_providers.mongodb.faults import read_fault

__all__ = ["PLACES", "Databases", "ExistingBackend", "ExistingInstallation", "ExistingJob", "PublicKey"]

PLACES = ("queued", "running", "finished", "deleted")
"""Where a job may lie, in the order of reading: it moves only onwards, so none is missed while it moves."""

_SIGNED_KEYS = {"header", "payload", "signature"}
_PAGE = 500


class Databases(Protocol):
    """A client of the driver's, of which databases and their collections are taken by name."""

    def __getitem__(self, name: str) -> Any:
        """A database."""


class ExistingBackend(msgspec.Struct, frozen=True):
    """A backend's config; the document as stored, and what it says whether signed or not."""

    name: str
    config: bytes
    """The plain config, as JSON."""
    document: bytes
    """As stored: the same, or with header and signature."""


class PublicKey(msgspec.Struct, frozen=True):
    """A public key, by which signed documents are checked."""

    kid: str
    document: bytes


class ExistingJob(msgspec.Struct, frozen=True):
    """A job with its status and result, all as JSON."""

    key: JobKey
    place: str
    content: bytes
    """What its client sent."""
    status: bytes | None
    result: bytes | None
    """As stored: plain or signed."""
    said: str
    """INITIALIZING, QUEUED, DONE or ERROR, as its status says; empty if it has none."""


class ExistingInstallation:
    """The databases of one existing installation."""

    def __init__(self, databases: Databases) -> None:
        """Read from a client, whose opening and closing is the caller's."""
        self._databases = databases

    async def backends(self) -> list[ExistingBackend]:
        """All backends, by name.

        Raises:
            Corrupt: a config without a name.
            Unavailable: the storage does not answer.
        """
        found = []
        for document in await self._all("backends", "configs"):
            config = plain(document)
            name = config.get("display_name")
            if not isinstance(name, str):
                raise Corrupt(f"config {document['_id']} has no display_name")
            found.append(ExistingBackend(name, to_json(config), to_json(document)))
        return sorted(found, key=lambda backend: backend.name)

    async def public_keys(self) -> list[PublicKey]:
        """All public keys, by id."""
        documents = await self._all("backends", "public_keys")
        keys = [PublicKey(str(document["kid"]), to_json(document)) for document in documents]
        return sorted(keys, key=lambda key: key.kid)

    async def jobs(self, place: str, after: str = "", *, collection: str = "") -> AsyncIterator[ExistingJob]:
        """The jobs that lie in one of PLACES, by backend and id; `after` is the last id that is known.

        With `collection` it is the last one of that collection; those before it are known as a whole.
        A running or deleted job whose status lies nowhere belongs to no backend: its name is empty.
        """
        for name, backend in await self._collections(place):
            if name < collection:
                continue
            async for document in self._pages("jobs", name, after if name == (collection or name) else ""):
                owner = backend or await self._backend_of(document["_id"])
                yield await self._job(JobKey(owner, str(document["_id"])), place, document)

    async def _collections(self, place: str) -> list[tuple[str, str]]:
        """Of a place, the collections and their backends; no backend where all lie together."""
        if place in {"running", "deleted"}:
            return [(place, "")]
        names = await self._names("jobs")
        return [(name, name.split(".", 1)[1]) for name in names if name.startswith(f"{place}.")]

    async def _backend_of(self, job_id: Any) -> str:
        for name in await self._names("status"):
            if await self._one("status", name, job_id) is not None:
                return name
        return ""

    async def _job(self, key: JobKey, place: str, document: Document) -> ExistingJob:
        status = result = None
        if key.backend:
            status = await self._one("status", key.backend, document["_id"])
            result = await self._one("results", key.backend, document["_id"])
        return ExistingJob(
            key=key,
            place=place,
            content=to_json(document),
            status=None if status is None else to_json(status),
            result=None if result is None else to_json(result),
            said="" if status is None else str(plain(status).get("status", "")),
        )

    async def _pages(self, database: str, collection: str, after: str) -> AsyncIterator[Document]:
        """All documents of a collection by id, in portions, so that no cursor has to live long."""
        query: Document = {"_id": {"$gt": ObjectId(after)}} if after else {}
        while True:
            page = await self._read(database, collection, query, _PAGE)
            for document in page:
                yield document
            if len(page) < _PAGE:
                return
            query = {"_id": {"$gt": page[-1]["_id"]}}

    async def _all(self, database: str, collection: str) -> list[Document]:
        return await self._read(database, collection, {}, 0)

    async def _one(self, database: str, collection: str, job_id: Any) -> Document | None:
        found = await self._read(database, collection, {"_id": job_id}, 1)
        return found[0] if found else None

    async def _read(self, database: str, collection: str, query: Document, limit: int) -> list[Document]:
        try:
            cursor = self._databases[database][collection].find(query).sort("_id").limit(limit)
            found: list[Document] = await cursor.to_list()
        except PyMongoError as error:
            raise read_fault(error) from error
        return found

    async def _names(self, database: str) -> list[str]:
        try:
            names: list[str] = await self._databases[database].list_collection_names()
        except PyMongoError as error:
            raise read_fault(error) from error
        return sorted(names)


def plain(document: Mapping[str, Any]) -> Document:
    """What a document says, whether it is signed or not."""
    if set(document) - {"_id"} == _SIGNED_KEYS and isinstance(document["payload"], dict):
        payload: Document = document["payload"]
        return payload
    return {name: value for name, value in document.items() if name != "_id"}


def to_json(document: Mapping[str, Any]) -> bytes:
    """A document as the file of another storage would have it: without the database's own id."""
    fields = {name: value for name, value in document.items() if name != "_id"}
    return msgspec.json.encode(_as_json(fields))


def _as_json(value: Any) -> Any:
    """What JSON has no word for, as today's systems write it: dates in ISO 8601, bytes in base64."""
    if isinstance(value, Mapping):
        return {name: _as_json(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_as_json(part) for part in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        # The driver's own class for long integers is one of these.
        return int(value)
    return value if isinstance(value, str | float) else str(value)
