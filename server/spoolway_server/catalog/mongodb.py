"""The catalog of several machines: one MongoDB database, shared by any number of processes."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from datetime import timedelta
from time import monotonic
from typing import Any

import msgspec
import pymongo
from pymongo import AsyncMongoClient, ReturnDocument, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from spoolway_server.catalog.interface import (
    AuditPage,
    AuditQuery,
    Catalog,
    CatalogConflict,
    CatalogCorrupt,
    CatalogUnavailable,
    R,
)
from spoolway_server.catalog.model import AuditEvent, Record, from_microseconds, to_microseconds

__all__ = ["SCHEMA_VERSION", "MongoCatalog"]

_Document = dict[str, Any]

SCHEMA_VERSION = 1
_LOOK_EVERY_S = 1.0
"""How often who waits reads one small document, where no change stream tells of changes."""
_LOOK_BENEATH_S = 60.0
"""How often beneath a change stream: an answer also says that the catalog is there."""
_STREAM_MS = 60_000
"""One round trip of an idle change stream."""
_NO_STREAMS = {40573, 115}
"""MongoDB's codes for a server that is no member of a replica set, or has no change streams at all."""
_NEW_VERSION: list[_Document] = [
    {"$match": {"updateDescription.updatedFields.version": {"$exists": True}}},
    {"$project": {"operationType": 1}},
]
_CANCEL_AGAIN_S = 0.2
_TIME_LIMIT_S = 10.0
_CONNECT_MS = 3_000
_DENIED = {13, 18}
"""MongoDB's codes for a wrong login, and for rights that are missing."""


class MongoCatalog(Catalog):
    """Three collections: `catalog_records`, `catalog_audit`, and `catalog_meta` with the counters."""

    def __init__(self, uri: str, database: str, *, listeners: Sequence[Any] = ()) -> None:
        """Make one for a database, with monitors of the driver; `open` connects."""
        self._uri = uri
        self._database = database
        self._listeners = listeners
        self._client: AsyncMongoClient[_Document] | None = None
        self._changed = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._has_stream = False

    def __repr__(self) -> str:
        """Without the address, which holds the password."""
        return f"MongoCatalog(database={self._database!r})"

    async def open(self) -> None:
        """See the interface."""
        if self._client is None:
            try:
                self._client = AsyncMongoClient(
                    self._uri,
                    appname="spoolway-catalog",
                    maxPoolSize=4,
                    serverSelectionTimeoutMS=_CONNECT_MS,
                    connectTimeoutMS=_CONNECT_MS,
                    event_listeners=list(self._listeners),
                )
            except (PyMongoError, ValueError):
                # Not the driver's words: they may quote the address.
                raise CatalogCorrupt("catalog.uri is no MongoDB connection string; mend it") from None
        fresh = {"schema": SCHEMA_VERSION, "version": 1, "revision": 0, "events": 0}
        async with self._asked():
            with suppress(DuplicateKeyError):  # another process was first
                await self._meta.update_one({"_id": "meta"}, {"$setOnInsert": fresh}, upsert=True)
        schema = await self._read_meta("schema")
        if schema > SCHEMA_VERSION:
            raise CatalogCorrupt(
                f"it has schema version {schema}, and this server knows {SCHEMA_VERSION}; "
                "install a newer server"
            )

    async def close(self) -> None:
        """See the interface."""
        listening, self._listening = self._listening, None
        while listening is not None and not listening.done():
            # Again, if need be: the driver may turn a cancellation into an error of its own.
            listening.cancel()
            await asyncio.wait({listening}, timeout=_CANCEL_AGAIN_S)
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        self._wake()

    async def all(self, kind: type[R]) -> list[R]:
        """See the interface."""
        async with self._asked():
            found = await self._records.find({"kind": kind.kind}).sort("key", 1).to_list()
        return [_record(kind, document) for document in found]

    async def get(self, kind: type[R], key: str) -> R | None:
        """See the interface."""
        async with self._asked():
            found = await self._records.find_one({"_id": _id(kind.kind, key)})
        return None if found is None else _record(kind, found)

    async def put(self, record: R) -> R:
        """See the interface. Others are told after the write: what they read then has it."""
        async with self._asked():
            revision = await self._next("revision")
            stored = msgspec.structs.replace(record, revision=revision)
            document = {
                "_id": _id(stored.kind, stored.key),
                "kind": stored.kind,
                "key": stored.key,
                "revision": revision,
                "doc": msgspec.json.encode(stored).decode(),
            }
            if record.revision:
                replaced = await self._records.replace_one(_as_it_was(record), document)
                written = replaced.matched_count > 0
            else:
                written = await self._insert(document)
            if not written:
                raise CatalogConflict(record)
            await self._tell()
        return stored

    async def delete(self, record: Record) -> None:
        """See the interface."""
        async with self._asked():
            deleted = await self._records.delete_one(_as_it_was(record))
            if not deleted.deleted_count:
                raise CatalogConflict(record)
            await self._tell()

    async def note(self, event: AuditEvent) -> None:
        """See the interface."""
        async with self._asked():
            number = await self._next("events")
            document = {"_id": number, **msgspec.structs.asdict(event), "number": number}
            # MongoDB keeps milliseconds only.
            document["at"] = to_microseconds(event.at)
            await self._audit.insert_one(document)

    async def events(self, query: AuditQuery) -> AuditPage:
        """See the interface."""
        wanted: _Document = {
            name: getattr(query, name) for name in ("who", "what", "subject") if getattr(query, name)
        }
        if query.since:
            wanted["at"] = {"$gte": to_microseconds(query.since)}
        if query.before:
            wanted["_id"] = {"$lt": query.before}
        async with self._asked():
            found = await self._audit.find(wanted).sort("_id", -1).limit(query.limit + 1).to_list()
        events = [_event(document) for document in found]
        page = events[: query.limit]
        return AuditPage(page, page[-1].number if len(events) > query.limit else 0)

    async def version(self) -> int:
        """See the interface."""
        return await self._read_meta("version")

    async def wait(self, version: int, timeout: timedelta) -> int:
        """See the interface."""
        if self._listening is None and self._client is not None:
            # In a context of its own, without a time limit of whoever waits first.
            self._listening = asyncio.create_task(self._listen(), context=Context())
        deadline = monotonic() + timeout.total_seconds()
        while True:
            changed = self._changed
            now = await self.version()
            left_s = deadline - monotonic()
            if now != version or left_s <= 0:
                return now
            look_in_s = _LOOK_BENEATH_S if self._has_stream else _LOOK_EVERY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, look_in_s)):
                    await changed.wait()

    def _wake(self) -> None:
        """All who wait look now; any number may wait, and each for the news after its own look."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _listen(self) -> None:
        """Keep a change stream open, if there are any; looks take over while it is broken."""
        while True:
            try:
                await self._follow()
            except PyMongoError as error:
                if getattr(error, "code", None) in _NO_STREAMS:
                    return
            except CatalogUnavailable:
                return
            finally:
                self._has_stream = False
                # Who relies on the stream looks now, and each second from now on.
                self._wake()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _follow(self) -> None:
        """Wake at each new version, while the stream lives."""
        async with await self._meta.watch(_NEW_VERSION, max_await_time_ms=_STREAM_MS) as stream:
            self._has_stream = True
            # What came before it was open only a look finds.
            self._wake()
            while stream.alive:
                if await stream.try_next() is not None:
                    self._wake()

    @property
    def _meta(self) -> AsyncCollection[_Document]:
        return self._collection("catalog_meta")

    @property
    def _records(self) -> AsyncCollection[_Document]:
        return self._collection("catalog_records")

    @property
    def _audit(self) -> AsyncCollection[_Document]:
        return self._collection("catalog_audit")

    def _collection(self, name: str) -> AsyncCollection[_Document]:
        if self._client is None:
            raise CatalogUnavailable("it is not open")
        return self._client.get_database(
            self._database,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority", j=True),
        ).get_collection(name)

    async def _read_meta(self, field: str) -> int:
        async with self._asked():
            meta = await self._meta.find_one({"_id": "meta"})
        if meta is None:
            raise CatalogCorrupt("its counters are gone; restore it from a backup")
        number: int = meta[field]
        return number

    async def _next(self, counter: str) -> int:
        meta = await self._meta.find_one_and_update(
            {"_id": "meta"}, {"$inc": {counter: 1}}, return_document=ReturnDocument.AFTER
        )
        if meta is None:
            raise CatalogCorrupt("its counters are gone; restore it from a backup")
        number: int = meta[counter]
        return number

    async def _insert(self, document: _Document) -> bool:
        try:
            await self._records.insert_one(document)
        except DuplicateKeyError:
            return False
        return True

    async def _tell(self) -> None:
        """There is a change. Were this lost, others would find it at their next look, minutes later."""
        await self._next("version")
        self._wake()

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[None]:
        """Ask MongoDB something, within the time limit; errors in our words, and never with the address."""
        try:
            with pymongo.timeout(_TIME_LIMIT_S):
                yield
        except PyMongoError as error:
            if isinstance(error, OperationFailure) and error.code in _DENIED:
                raise CatalogUnavailable("MongoDB refuses the login of catalog.uri, or its rights") from None
            raise CatalogUnavailable(f"MongoDB: {type(error).__name__}") from None


def _id(kind: str, key: str) -> str:
    return f"{kind}/{key}"


def _as_it_was(record: Record) -> _Document:
    return {"_id": _id(record.kind, record.key), "revision": record.revision}


def _record(kind: type[R], document: Mapping[str, Any]) -> R:
    try:
        record = msgspec.json.decode(document["doc"], type=kind)
    except (msgspec.MsgspecError, KeyError) as error:
        raise CatalogCorrupt(f"{document['_id']} can't be read: {error}") from error
    return msgspec.structs.replace(record, revision=document["revision"])


def _event(document: Mapping[str, Any]) -> AuditEvent:
    fields = {name: document[name] for name in AuditEvent.__struct_fields__}
    return AuditEvent(**fields | {"at": from_microseconds(document["at"])})
